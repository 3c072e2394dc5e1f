"""The wheel: never early, at most a tick late, and nothing left behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kourou.http2.deadlines import TICKS_PER_S, Deadlines


class Item:
    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.tick = 0


@given(st.lists(st.floats(0, 20), max_size=30), st.sets(st.integers(0, 29)))
def test_every_deadline_once_and_in_time(deadlines: list[float], ended: set[int]) -> None:
    """Follow the armed timer only, as the loop would."""
    armed: list[float] = []
    wheel: Deadlines[Item] = Deadlines(armed.append)
    items = [Item(deadline_s) for deadline_s in deadlines]
    for item in items:
        wheel.add(item, item.deadline_s)
    for number in ended:
        if number < len(items):
            wheel.remove(items[number])
    expired: list[Item] = []
    now_s = 0.0
    while armed:
        now_s = max(now_s, armed[-1])
        armed.clear()
        for item in wheel.expired(now_s):
            assert item.deadline_s <= now_s <= item.deadline_s + 1.01 / TICKS_PER_S
            expired.append(item)
    assert {id(item) for item in expired} == {id(item) for n, item in enumerate(items) if n not in ended}
    assert not wheel._due
    assert not wheel._ticks


def test_an_earlier_deadline_arms_anew() -> None:
    armed: list[float] = []
    wheel: Deadlines[Item] = Deadlines(armed.append)
    wheel.add(Item(5.0), 5.0)
    wheel.add(Item(9.0), 9.0)
    wheel.add(Item(1.0), 1.0)
    assert len(armed) == 2
    assert armed[1] < armed[0]
