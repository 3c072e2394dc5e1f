"""check_columns and has_any_tag, against the same rules written record by record."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.broker.store.columns import KEYS_PER_RECORD_MAX, PROPERTIES_SLACK, check_columns, has_any_tag
from kourou.core.errors import BodyTooLarge, FrameInvalid, PropertiesTooLarge
from kourou.core.frame import Column, SealedHeader, parse_sealed, seal, tag_bit
from kourou.core.limits import BODY_BYTES_MAX, PROPERTIES_BYTES_MAX


def sealed(sizes: list[int], **columns: list[int]) -> tuple[bytes, SealedHeader]:
    """A frame with records of these sizes, five bytes of something else before it."""
    given_columns = {Column[name]: array("I", values) for name, values in columns.items()}
    data = b"other" + seal(
        topic="orders", queue_id=1, born_ms=0, records=[bytes(size) for size in sizes], columns=given_columns
    )
    return data, parse_sealed(data, 5)


records = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@given(records, st.data())
@settings(max_examples=150, deadline=None)
def test_agrees_with_rules_for_single_records(sizes: list[int], data: st.DataObject) -> None:
    count = len(sizes)
    tags = data.draw(st.none() | st.lists(st.sampled_from([0, 1, 63, 64, 65, 2**32 - 1]), min_size=count, max_size=count))
    properties = data.draw(st.none() | st.tuples(*(st.integers(0, size + (size == 7)) for size in sizes)))
    keys = data.draw(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, count)), max_size=5))
    columns: dict[str, list[int]] = {}
    if tags is not None:
        columns["TAG_HASHES"] = tags
    if properties is not None:
        columns["PROPERTY_SIZES"] = list(properties)
    if keys:
        columns["KEYS"] = [hashed for hashed, _ in keys] + [record for _, record in keys]
    frame, header = sealed(sizes, **columns)
    is_valid = all(size <= whole for size, whole in zip(properties or (), sizes, strict=False))
    is_valid = is_valid and all(record < count for _, record in keys)
    if not is_valid:
        with pytest.raises(FrameInvalid):
            check_columns(frame, 5, header)
        return
    facts = check_columns(frame, 5, header)
    mask = 0
    for hashed in tags or ():
        mask |= tag_bit(hashed) if hashed else 0
    assert facts.tag_mask == mask
    assert (facts.key_hashes.tolist() if facts.key_hashes is not None else []) == [hashed for hashed, _ in keys]
    for wanted in ({1}, {0}, {2}, {63, 64}, set(), set(range(2, 64))):
        assert has_any_tag(frame, 5, header, frozenset(wanted)) == bool(wanted & set(tags or [0]))


@pytest.mark.parametrize(("lengths", "total"), [([5, 6], 10), ([2**32 - 1, 11], 10)])
def test_lengths_must_add_up(lengths: list[int], total: int) -> None:
    """Also where their sum is right in 32 bits."""
    frame, _ = sealed([4, 6])
    at = frame.index(array("I", [4, 6]).tobytes())
    frame = frame[:at] + array("I", lengths).tobytes() + frame[at + 8 :]
    with pytest.raises(FrameInvalid, match=f"the frame says {total}"):
        check_columns(frame, 5, parse_sealed(frame, 5))


def test_the_length_of_a_single_record_must_be_its_size() -> None:
    frame, header = sealed([4], LENGTHS=[5])
    with pytest.raises(FrameInvalid, match="add up to 5 bytes"):
        check_columns(frame, 5, header)


@pytest.mark.parametrize("others", [[], [1]])
def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(others: list[int]) -> None:
    """With and without properties before it, which don't count; one record, and two of different lengths."""
    none = [0 for _ in others]
    check_columns(*at_five(sealed([BODY_BYTES_MAX, *others])))
    check_columns(*at_five(sealed([BODY_BYTES_MAX + 300, *others], PROPERTY_SIZES=[300, *none])))
    with pytest.raises(BodyTooLarge):
        check_columns(*at_five(sealed([BODY_BYTES_MAX + 1, *others])))
    with pytest.raises(BodyTooLarge):
        check_columns(*at_five(sealed([BODY_BYTES_MAX + 300, *others], PROPERTY_SIZES=[299, *none])))


def at_five(made: tuple[bytes, SealedHeader]) -> tuple[bytes, int, SealedHeader]:
    return made[0], 5, made[1]


@pytest.mark.parametrize("others", [[], [30_000], [1]])
def test_properties_have_a_limit(others: list[int]) -> None:
    limit = PROPERTIES_BYTES_MAX + PROPERTIES_SLACK
    sizes = [30_000, *others]
    check_columns(*at_five(sealed(sizes, PROPERTY_SIZES=[limit, *(0 for _ in others)])))
    with pytest.raises(PropertiesTooLarge):
        check_columns(*at_five(sealed(sizes, PROPERTY_SIZES=[limit + 1, *(0 for _ in others)])))


def test_keys_of_a_frame_are_bounded() -> None:
    most = 2 * KEYS_PER_RECORD_MAX
    check_columns(*at_five(sealed([1, 1], KEYS=[9] * most + [1] * most)))
    with pytest.raises(FrameInvalid, match="may have 130"):
        check_columns(*at_five(sealed([1, 1], KEYS=[9] * (most + 1) + [1] * (most + 1))))


def test_key_hashes_do_not_pin_the_buffer() -> None:
    frame, header = sealed([3], KEYS=[5, 0])
    buffer = bytearray(frame)
    facts = check_columns(buffer, 5, header)
    buffer.clear()
    assert facts.key_hashes is not None
    assert facts.key_hashes.dtype == np.uint32
    assert facts.key_hashes.tolist() == [5]


def test_a_plain_frame_makes_no_numpy_call(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sealed([8, 8, 8])
    single = sealed([8], TAG_HASHES=[70], PROPERTY_SIZES=[8])
    monkeypatch.delattr(np, "frombuffer")
    assert check_columns(*at_five(plain)).tag_mask == 0
    assert check_columns(*at_five(single)).tag_mask == 1 << 6
