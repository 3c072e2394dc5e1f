"""A master that nobody follows confirms nothing; others, who see each other, could."""

from __future__ import annotations

AFTER_LEASES = 2
AFTER_MS_MAX = 60_000


class Company:
    """When a master has been alone for long enough to try whether another one would not be. Pure.

    Longer each time, until its set has been whole again: where nobody reaches anybody, the lease does not go round.
    """

    def __init__(self, *, lease_ms: int) -> None:
        self._least_ms = self._after_ms = AFTER_LEASES * lease_ms
        self._since_ms: int | None = None

    def is_missing(self, *, short: bool, followed: bool, now_ms: int) -> bool:
        """``short``: fewer are in sync than have to be; ``followed``: somebody is connected, and may be soon."""
        if not short:
            self._after_ms = self._least_ms
        if not short or followed:
            self._since_ms = None
            return False
        if self._since_ms is None:
            self._since_ms = now_ms
        return now_ms - self._since_ms >= self._after_ms

    def sought(self) -> None:
        """The lease was given away for it."""
        self._since_ms = None
        self._after_ms = min(AFTER_MS_MAX, 2 * self._after_ms)
