"""The time that leases and retries run on.

A lease is a duration, but what is written in the log is when it ends. So the clock it ends by must neither jump with the
wall clock nor be another one when another member takes over: it begins with the wall's time, or, where this process has
followed the former master, with the time of that one's last frame; from there on it goes as CLOCK_MONOTONIC does.
"""

from __future__ import annotations

from kourou.core.clock import Clock


class LeaseClock:
    """``stored``: the store time of the last frame of the former master, and when it came by the monotonic clock; ms."""

    def __init__(self, clock: Clock, stored: tuple[int, int] | None = None) -> None:
        self._clock = clock
        wall_ms, at_ms = stored or (clock.wall_ms(), clock.monotonic_ms())
        self._ahead_ms = wall_ms - at_ms

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms()

    def wall_ms(self) -> int:
        return self._clock.monotonic_ms() + self._ahead_ms
