"""The deadlines of all calls of a server: one coarse wheel, one timer.

A call that ends in time, as nearly all do, costs two set operations and no timer of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

TICKS_PER_S: Final = 50  # a deadline is seen at most 20 ms late, never early


class Expiring(Protocol):
    """What has a deadline. It keeps its tick, so that it can be taken out again."""

    tick: int


T = TypeVar("T", bound=Expiring)


class Deadlines(Generic[T]):
    """``arm`` is called with the time (seconds of the same clock) at which ``expired`` wants to be called next."""

    def __init__(self, arm: Callable[[float], None]) -> None:
        self._arm = arm
        self._armed = 0  # tick; 0 is none
        self._ticks: list[int] = []  # heap of the keys of ``_due``
        self._due: dict[int, set[T]] = {}

    def add(self, item: T, deadline_s: float) -> None:
        tick = item.tick = int(deadline_s * TICKS_PER_S) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
            heapq.heappush(self._ticks, tick)
            if not self._armed or tick < self._armed:
                self._armed = tick
                self._arm(tick / TICKS_PER_S)
        due.add(item)

    def remove(self, item: T) -> None:
        due = self._due.get(item.tick)
        if due is not None:
            due.discard(item)

    def expired(self, now_s: float) -> list[T]:
        """Those whose deadline has passed; they are in no longer."""
        items: list[T] = []
        ticks = self._ticks
        while ticks and ticks[0] / TICKS_PER_S <= now_s:  # as it was armed, to the last bit
            items.extend(self._due.pop(heapq.heappop(ticks)))
        while ticks and not self._due[ticks[0]]:
            del self._due[heapq.heappop(ticks)]  # all have ended: nothing to wake up for
        self._armed = ticks[0] if ticks else 0
        if self._armed:
            self._arm(self._armed / TICKS_PER_S)
        return items
