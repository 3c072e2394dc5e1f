"""One loop timer for the leases of all queues: rings a place when the first of its leases is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

from kourou.core.clock import Clock

Place = tuple[str, int, int]  # group, incarnation, queue
STEP_S = 0.5  # at most so long between looks at the clock, which may be put forward
RINGS_A_TURN = 256
TURN_S = 0.003  # after so long others get their turn


class Alarms:
    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, ring: Callable[[Place], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._ring = ring
        self._heap: list[tuple[int, Place]] = []
        self._set: dict[Place, int] = {}  # the earliest of each place; others in the heap are out of date
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0

    def set(self, place: Place, due_ms: int) -> None:
        """Ring at the time, or earlier if that was set before."""
        known = self._set.get(place)
        if known is not None and known <= due_ms:
            return
        self._set[place] = due_ms
        heappush(self._heap, (due_ms, place))
        if self._timer is None or due_ms < self._timer_ms:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer_ms = self._heap[0][0]
            wait_s = max(0.0, (self._timer_ms - self._clock.wall_ms()) / 1000)
            self._timer = self._loop.call_later(min(wait_s, STEP_S), self._look)

    def _look(self) -> None:
        self._timer = None
        now_ms, ends = self._clock.wall_ms(), self._loop.time() + TURN_S
        rung: set[Place] = set()
        for _ in range(RINGS_A_TURN):
            if not self._heap or self._heap[0][0] > now_ms or self._heap[0][1] in rung:
                break  # one that was set again at once has more to do, in another turn
            due_ms, place = heappop(self._heap)
            if self._set.get(place) == due_ms:
                del self._set[place]
                rung.add(place)
                self._ring(place)
                if self._loop.time() > ends:
                    break
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
