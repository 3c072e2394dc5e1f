"""The time that leases and retries run on.

A lease is a duration, but what is written in the log is when it ends. So the clock it ends by must neither jump with the
wall clock nor be another one when another member takes over: it begins with the wall's time, or, where this process has
followed the former master, with what its pings said; from there on it goes as CLOCK_MONOTONIC does.
"""

from __future__ import annotations

from kourou.core.clock import Clock


class LeaseClock:
    """``ahead_ms``: how far the former master's was ahead of the monotonic clock here."""

    def __init__(self, clock: Clock, ahead_ms: int | None = None) -> None:
        self._clock = clock
        self._ahead_ms = clock.wall_ms() - clock.monotonic_ms() if ahead_ms is None else ahead_ms

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms()

    def wall_ms(self) -> int:
        return self._clock.monotonic_ms() + self._ahead_ms
