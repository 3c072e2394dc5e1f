"""Property blocks: read back what was written; anything else is refused by type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.core.errors import FrameInvalid
from kourou.core.records import (
    Field,
    decode_property,
    encode_field,
    encode_property,
    encode_text,
    iterate_fields,
)

fields = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50)), max_size=8)
texts = st.text(st.characters(codec="utf-8"), max_size=50)


@given(fields)
def test_fields_are_read_back_in_order(given_: list[tuple[int, bytes]]) -> None:
    block = b"".join(encode_field(field, value) for field, value in given_)
    assert list(iterate_fields(block)) == given_


@given(texts, texts)
def test_properties_are_read_back(name: str, value: str) -> None:
    ((field, raw),) = iterate_fields(encode_property(name, value))
    assert (field, decode_property(raw)) == (Field.PROPERTY, (name, value))
    assert list(iterate_fields(encode_text(Field.KEY, [name, value]))) == [
        (Field.KEY, name.encode()),
        (Field.KEY, value.encode()),
    ]


@given(fields.filter(bool), st.data())
def test_a_cut_block_is_refused_or_ends_early(given_: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """A cut between two fields can't be seen; any other is."""
    block = b"".join(encode_field(field, value) for field, value in given_)
    size = data.draw(st.integers(0, len(block) - 1))
    ends = {0}
    for field, value in given_:
        ends.add(max(ends) + len(encode_field(field, value)))
    if size in ends:
        assert list(iterate_fields(block[:size])) == given_[: sorted(ends).index(size)]
    else:
        with pytest.raises(FrameInvalid):
            list(iterate_fields(block[:size]))


@given(st.binary(max_size=100))
def test_garbage_is_refused_or_has_fields_within(data: bytes) -> None:
    try:
        found = list(iterate_fields(data))
    except FrameInvalid:
        return
    assert sum(3 + len(value) for _, value in found) == len(data)
