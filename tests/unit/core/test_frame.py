"""Log frames: what is sealed is read back; whatever else arrives is refused with a typed error that changes nothing."""

from __future__ import annotations

import zlib
from array import array
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kourou.core import frame
from kourou.core.errors import BadChecksum, ClientFault, Corrupted, FrameInvalid, UnsupportedVersion
from kourou.core.frame import PREFIX_SIZE, SEALED, SEALED_SIZE, Column, Compression, Kind
from kourou.core.limits import FRAME_BYTES_MAX, RECORDS_PER_FRAME_MAX

REFUSALS = (ClientFault, Corrupted)
names = st.text(st.characters(codec="utf-8"), min_size=0, max_size=40)
u64 = st.integers(0, (1 << 64) - 1)
u32 = st.integers(0, (1 << 32) - 1)


@st.composite
def columns_for(draw: st.DrawFn, count: int) -> dict[Column, array[int]]:
    found: dict[Column, array[int]] = {}
    for which in draw(st.sets(st.sampled_from(list(Column)))):
        if which is Column.LENGTHS:
            continue
        code, low, high = "I", 0, (1 << 32) - 1
        if which is Column.DUE_TIMES:
            code, low, high = "q", -(1 << 63), (1 << 63) - 1
        elif which is Column.PRIORITIES:
            code, low, high = "i", -(1 << 31), (1 << 31) - 1
        size = 2 * draw(st.integers(0, 4)) if which is Column.KEYS else count
        found[which] = array(code, draw(st.lists(st.integers(low, high), min_size=size, max_size=size)))
    return found


@st.composite
def sealed_frames(draw: st.DrawFn) -> tuple[dict[str, object], bytes]:
    records = draw(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
    given_: dict[str, object] = {
        "topic": draw(names),
        "queue_id": draw(u32),
        "records": records,
        "born_ms": draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        "producer_id": draw(u64),
        "sequence": draw(u64),
        "kind": draw(st.sampled_from(Kind)),
        "columns": draw(columns_for(len(records))),
    }
    return given_, frame.seal(**given_)  # type: ignore[arg-type]


def in_log(sealed: bytes, **fields: int) -> bytes:
    values = {"log_offset": 1, "epoch": 2, "incarnation": 3, "queue_offset": 4, "store_ms": 5} | fields
    return frame.make_prefix(sealed_size=len(sealed), sealed_crc=zlib.crc32(sealed[:-4]), **values) + sealed


@given(sealed_frames(), st.binary(max_size=7), st.binary(max_size=7))
def test_what_is_sealed_is_read_back(made: tuple[dict[str, object], bytes], before: bytes, behind: bytes) -> None:
    """Wherever it lies in the data."""
    given_, sealed = made
    data, at = before + sealed + behind, len(before)
    header = frame.parse_sealed(data, at)
    assert header.size == len(sealed)
    for name in ("topic", "queue_id", "born_ms", "producer_id", "sequence", "kind"):
        assert getattr(header, name) == given_[name]
    records = given_["records"]
    assert isinstance(records, list)
    bounds = frame.record_bounds(data, at, header)
    start = at + header.records_at
    assert [data[start + low : start + high] for low, high in pairwise(bounds)] == records
    columns = given_["columns"]
    assert isinstance(columns, dict)
    for which in Column:
        if which is not Column.LENGTHS:
            assert frame.column(data, at, header, which) == columns.get(which)
    assert (Column.LENGTHS & header.columns != 0) == (len(set(map(len, records))) > 1)
    assert frame.check_sealed_crc(data, at, header.size) == zlib.crc32(sealed[:-4])


@given(sealed_frames(), u32, u64)
def test_a_resealed_frame_differs_in_queue_and_sequence_alone(
    made: tuple[dict[str, object], bytes], queue: int, to: int
) -> None:
    given_, sealed = made
    assert frame.reseal(sealed, queue_id=queue, sequence=to) == frame.seal(
        **{**given_, "queue_id": queue, "sequence": to}  # type: ignore[arg-type]
    )


@given(sealed_frames(), st.data())
def test_a_truncated_frame_is_refused(made: tuple[dict[str, object], bytes], data: st.DataObject) -> None:
    whole = in_log(made[1])
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(REFUSALS):
        frame.check_frame(whole[:size])
    with pytest.raises(REFUSALS):
        frame.parse_sealed(made[1][: min(size, len(made[1]) - 1)])


@given(sealed_frames(), st.data())
def test_any_flipped_bit_is_noticed(made: tuple[dict[str, object], bytes], data: st.DataObject) -> None:
    whole = bytearray(in_log(made[1]))
    assert frame.check_frame(bytes(whole))[1].size == len(made[1])
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(REFUSALS):
        frame.check_frame(bytes(whole))


@given(st.binary(max_size=300))
@example(b"KFR1" + bytes(300))
@example(b"SK\x01\x01" + bytes(300))
def test_garbage_is_refused(data: bytes) -> None:
    for read in (frame.parse_sealed, frame.parse_prefix, frame.check_frame):
        with pytest.raises(REFUSALS):
            read(data)
    if data:
        with pytest.raises(REFUSALS):
            list(frame.iterate_frames(data))


@given(sealed_frames(), st.data())
def test_hostile_headers_never_lead_outside(made: tuple[dict[str, object], bytes], data: st.DataObject) -> None:
    """A header field set to anything, with a right checksum: refused, or still within the frame."""
    sealed = made[1]
    fields = list(SEALED.unpack_from(sealed))
    which = data.draw(st.integers(0, len(fields) - 1))
    sizes = [2, 1, 1, 4, 4, 4, 8, 8, 4, 4, 4, 4, 8, 2, 2, 4]
    fields[which] = data.draw(st.integers(0, min((1 << 8 * sizes[which]) - 1, (1 << 63) - 1)))
    changed = SEALED.pack(*fields) + sealed[SEALED_SIZE:-4]
    changed += zlib.crc32(changed).to_bytes(4, "little")
    try:
        header = frame.parse_sealed(changed)
        bounds = frame.record_bounds(changed, 0, header)
    except REFUSALS:
        return
    assert header.size == len(changed)
    assert bounds[-1] == header.raw_size
    assert header.compression or header.records_at + header.records_size + 4 == header.size


def test_lengths_that_do_not_add_up() -> None:
    sealed = bytearray(frame.seal(topic="t", queue_id=0, records=[b"a", b"bb"], born_ms=0))
    header = frame.parse_sealed(sealed)
    at = header.column_at(Column.LENGTHS)
    assert at is not None
    sealed[at] += 1
    with pytest.raises(FrameInvalid, match="add up to 4 bytes, the frame says 3"):
        frame.record_bounds(sealed, 0, header)


def test_limits_are_kept_when_sealing() -> None:
    for records in ([], [b""] * (RECORDS_PER_FRAME_MAX + 1), [bytes(FRAME_BYTES_MAX)]):
        with pytest.raises(FrameInvalid):
            frame.seal(topic="t", queue_id=0, records=records, born_ms=0)
    with pytest.raises(FrameInvalid):
        frame.seal(
            topic="t", queue_id=0, records=[bytes(FRAME_BYTES_MAX + 1)], born_ms=0, compression=Compression.ZLIB, stored=b"x"
        )


def test_newer_versions_are_named() -> None:
    sealed = bytearray(frame.seal(topic="t", queue_id=0, records=[b"a"], born_ms=0))
    sealed[2] = 2
    with pytest.raises(UnsupportedVersion, match="version 2; this end knows version 1"):
        frame.parse_sealed(sealed)
    whole = bytearray(in_log(frame.seal(topic="t", queue_id=0, records=[b"a"], born_ms=0)))
    whole[40] = 2
    with pytest.raises(UnsupportedVersion, match="format version 2"):
        frame.parse_prefix(whole)


def test_a_prefix_fits_its_own_records_alone() -> None:
    one, two = (frame.seal(topic="t", queue_id=0, records=[body], born_ms=0) for body in (b"a", b"b"))
    mixed = in_log(one)[:PREFIX_SIZE] + two
    with pytest.raises(BadChecksum, match="prefix"):
        frame.check_frame(mixed)


def test_a_run_of_frames() -> None:
    frames = [in_log(frame.seal(topic="t", queue_id=0, records=[bytes(n)], born_ms=0), queue_offset=n) for n in range(1, 5)]
    found = list(frame.iterate_frames(memoryview(b"".join(frames))))
    assert [prefix.queue_offset for _, prefix in found] == [1, 2, 3, 4]
    with pytest.raises(FrameInvalid, match="cut off"):
        list(frame.iterate_frames(b"".join(frames)[:-1]))


def test_hashes() -> None:
    assert frame.tag_hash("x") == zlib.crc32(b"x")
    assert frame.tag_bit(65) == 2
    assert frame.key_hash("t", "k") == zlib.crc32(b"t#k")
    assert frame.id_hash("t", "k") == zlib.crc32(b"t\0k")
