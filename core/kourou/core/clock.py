"""What time is, for code that is handed it."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def monotonic_ms(self) -> int:
        """Milliseconds that never go back; only differences mean anything. For time-outs and leases."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC. May jump; for time stamps and retention only."""
        ...


class ManualClock:
    """A clock that a test moves by hand."""

    def __init__(self, *, monotonic_ms: int = 0, wall_ms: int = 1_700_000_000_000) -> None:
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def wall_ms(self) -> int:
        return self._wall_ms

    def advance(self, ms: int) -> None:
        assert ms >= 0, ms
        self._monotonic_ms += ms
        self._wall_ms += ms

    def jump_wall(self, ms: int) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does."""
        self._wall_ms += ms
