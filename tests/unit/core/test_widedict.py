"""A dict in many parts, against one in one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kourou.core.widedict import PARTS, WideDict

KEYS = st.integers(0, 4 * PARTS).map(lambda number: number if number % 3 else 7 << 32 | number)


@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=200))
def test_it_holds_what_a_dict_would(steps: list[tuple[int, bool]]) -> None:
    plain: dict[int, int] = {}
    wide: WideDict[int, int] = WideDict()
    for number, (key, put) in enumerate(steps):
        if put:
            plain[key] = wide[key] = number
        elif key in wide:
            assert wide[key] == plain[key]
            del plain[key], wide[key]
    assert {key: wide.get(key) for key in wide} == plain
    assert len(wide) == len(plain)
    assert all((key in wide) == (key in plain) for key, _ in steps)
    assert {key: value for key in wide if (value := WideDict(plain.items()).get(key)) is not None} == plain


def test_many_entries_lie_in_small_parts() -> None:
    for step in (1, 8, 256, 1 << 32):
        wide = WideDict((number * step, number) for number in range(50_000))
        assert max(map(len, wide._parts.values())) < 1_000
