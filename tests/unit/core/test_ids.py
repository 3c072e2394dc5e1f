"""Native message ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.core.errors import BadRequest
from kourou.core.ids import SEQUENCE_MAX, format_id, parse_id


@given(st.integers(0, (1 << 64) - 1), st.integers(0, SEQUENCE_MAX), st.integers(0, 65_535))
def test_ids_are_read_back(producer: int, sequence: int, number: int) -> None:
    text = format_id(producer, sequence, number)
    assert len(text) == 32
    assert parse_id(text) == (producer, sequence, number)
    assert str(parse_id(text)) == text


@given(st.text(max_size=40))
def test_other_texts_are_other_ids(text: str) -> None:
    found = parse_id(text)
    assert found is None or str(found) == text.upper()


def test_not_a_text() -> None:
    with pytest.raises(BadRequest, match="must be a string, not int"):
        parse_id(5)  # type: ignore[arg-type]
