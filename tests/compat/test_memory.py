"""The soak's look at memory must see growth, and not mind what a start needs."""

from __future__ import annotations

from tests.compat.soak.memory import ENOUGH, GROWTH_FREE_MB, WARM_S, Memory

LIFE_S = WARM_S + ENOUGH


def lives(*levels: float) -> Memory:
    memory = Memory()
    for life, level in enumerate(levels, 1):
        for age in range(LIFE_S):
            memory.add(10.0 * level if age < WARM_S else level, life=life)
    return memory


def test_no_growth() -> None:
    assert lives(100, 120, 110).fault(1024) is None
    assert lives(100, 120, 100 + GROWTH_FREE_MB).fault(1024) is None


def test_growth() -> None:
    assert lives(100, 200, 300).fault(1024) == "grew from 100 to 300 MB"


def test_too_few_samples() -> None:
    assert lives(100).fault(1024) is None
    assert Memory().fault(1024) is None


def test_more_than_may_be() -> None:
    assert lives(100).fault(99) == "100 MB"
