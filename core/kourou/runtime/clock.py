"""The system's clocks."""

from __future__ import annotations

import time


class SystemClock:
    """CLOCK_MONOTONIC and the wall clock, in milliseconds."""

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class BootClock(SystemClock):
    """CLOCK_BOOTTIME: it goes on while the machine is suspended, as a lease does."""

    def monotonic_ms(self) -> int:
        return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000
