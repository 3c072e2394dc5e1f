"""Group commit: who waits for which log offset, and when the next fdatasync is due. Pure: no I/O, no clock.

Two ways to flush. ``async`` (interval given): an fdatasync every so often, nobody waits. ``sync`` (no interval): as soon
as anybody waits, and while one fdatasync runs the next waiters gather, so that one call serves all of them.

Where it runs is decided by the cost: handing a call to a thread takes about 60 µs and two switches of the event loop, so
a lone waiter's fdatasync is done in place while the disk has lately answered within ``inline_ms_max``. Durations are
averaged with weight 1/4 for the newest; a single slow one (a device's hiccup) sends the next few calls to a thread.

A failed fdatasync is final. Linux marks the pages clean after reporting the error once, so a second call would report
success for data that is lost: every waiter, now and later, gets the failure, and nothing more is to be appended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from kourou.core.errors import KourouError

T = TypeVar("T")


class Where(Enum):
    IDLE = 0  # nothing to do before ``at_ms``, or at all
    IN_PLACE = 1
    IN_THREAD = 2


@dataclass(slots=True)
class Step:
    where: Where
    at_ms: int | None = None


class GroupCommit(Generic[T]):
    def __init__(self, *, interval_ms: int | None, inline_ms_max: float, synced: int, now_ms: int) -> None:
        self._interval_ms = interval_ms
        self._inline_ms_max = inline_ms_max
        self._synced_ms = now_ms  # when the last fdatasync began
        self._took_ms = inline_ms_max  # the first is done in a thread: nothing is known of the disk
        self._waiting: deque[tuple[int, T]] = deque()
        self.end = self.synced = synced
        self.syncing = False
        self.failure: KourouError | None = None

    def appended(self, end: int) -> None:
        self.end = end

    def wait(self, offset: int, waiter: T) -> bool:
        """Whoever waits for the log to be durable up to ``offset``, in ascending order; False if it is so already.

        Raises the failure once the disk failed.
        """
        if offset <= self.synced:
            return False
        if self.failure is not None:
            raise self.failure
        assert not self._waiting or offset >= self._waiting[-1][0]
        self._waiting.append((offset, waiter))
        return True

    def step(self, *, now_ms: int) -> Step:
        """What to do now. After IN_PLACE or IN_THREAD call ``started``, then ``done`` or ``failed``."""
        if self.failure is not None or self.syncing or self.synced >= self.end:
            return Step(Where.IDLE)
        if not self._waiting:
            if self._interval_ms is None:
                return Step(Where.IDLE)
            at_ms = self._synced_ms + self._interval_ms
            return Step(Where.IN_THREAD if now_ms >= at_ms else Where.IDLE, at_ms)
        lone = len(self._waiting) == 1
        return Step(Where.IN_PLACE if lone and self._took_ms < self._inline_ms_max else Where.IN_THREAD)

    def started(self, *, now_ms: int) -> None:
        assert not self.syncing
        self.syncing = True
        self._synced_ms = now_ms

    def done(self, offset: int, *, took_ms: float) -> list[T]:
        """fdatasync returned: the log is durable up to ``offset``. Who need not wait any longer, in order."""
        self.syncing = False
        slow = took_ms >= self._inline_ms_max
        self._took_ms = 2 * self._inline_ms_max if slow else 0.75 * self._took_ms + 0.25 * took_ms
        self.synced = max(self.synced, offset)
        found: list[T] = []
        while self._waiting and self._waiting[0][0] <= self.synced:
            found.append(self._waiting.popleft()[1])
        return found

    def failed(self, failure: KourouError) -> list[T]:
        """fdatasync failed. All who wait, in order: what they wait for may be stored or not."""
        self.syncing = False
        self.failure = self.failure or failure
        found = [waiter for _, waiter in self._waiting]
        self._waiting.clear()
        return found

    def cut(self, end: int) -> list[T]:
        """The log was cut: who waits for something that is gone."""
        assert not self.syncing
        self.end, self.synced = end, min(self.synced, end)
        found: list[T] = []
        while self._waiting and self._waiting[-1][0] > end:
            found.append(self._waiting.pop()[1])
        return found[::-1]
