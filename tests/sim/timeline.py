"""Virtual time: a heap of (time, number, action). Two actions at one time run in the order in which they were planned."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

START_MS = 1_700_000_000_000

Action = Callable[[], None]


class Timeline:
    def __init__(self) -> None:
        self.now_us = 0
        self._heap: list[tuple[int, int, Action]] = []
        self._number = 0

    @property
    def now_ms(self) -> int:
        return self.now_us // 1000

    def at_us(self, at_us: int, action: Action) -> None:
        self._number += 1
        heappush(self._heap, (max(at_us, self.now_us), self._number, action))

    def after_ms(self, ms: float, action: Action) -> None:
        self.at_us(self.now_us + int(ms * 1000), action)

    def step(self) -> None:
        """Do what comes next. There is always something: the members' ticks never end."""
        self.now_us, _, action = heappop(self._heap)
        action()


class NodeClock:
    """The clock of one host: it began somewhere else, and runs a little too fast or too slow."""

    def __init__(
        self, timeline: Timeline, *, rate: float, monotonic_skew_ms: int, wall_skew_ms: int, true: bool = False
    ) -> None:
        """``true``: its wall clock is right."""
        self.rate = rate
        self._wall_rate = 1.0 if true else rate
        self._timeline = timeline
        self._monotonic_skew_ms = monotonic_skew_ms
        self._wall_skew_ms = 0 if true else wall_skew_ms

    def monotonic_ms(self) -> int:
        return int(self._timeline.now_us * self.rate / 1000) + self._monotonic_skew_ms

    def wall_ms(self) -> int:
        return START_MS + int(self._timeline.now_us * self._wall_rate / 1000) + self._wall_skew_ms

    def jump_wall(self, ms: int) -> None:
        self._wall_skew_ms += ms

    def set_right(self) -> None:
        """From now on the wall clock is right."""
        self._wall_rate, self._wall_skew_ms = 1.0, 0
