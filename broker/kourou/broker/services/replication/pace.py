"""How fast slaves that catch up are sent old log: so much a second, all together, on top of what the log grows by.

Without the latter a slave would never get there while producers are faster than the limit. While members of the sync state
set have to wait for what they are sent, it is a quarter: sends wait for them, and for a slave that catches up nobody does.
"""

from __future__ import annotations

BURST_S = 0.1
YIELDS = 4


class Pace:
    def __init__(self, bytes_per_s: float) -> None:
        """0: no limit."""
        self._rate = bytes_per_s
        self._room = self._rate * BURST_S
        self._end: int | None = None
        self._at_s = 0.0

    def wait_s(self, size: int, *, end: int, busy: bool, now_s: float) -> float:
        """How long to wait before ``size`` bytes more are sent; they are taken for sent. ``end`` is the log's. ``busy``:
        members of the set are waiting."""
        if not self._rate:
            return 0.0
        rate = self._rate / YIELDS if busy else self._rate
        if self._end is not None:
            grown = rate * (now_s - self._at_s) + max(0, end - self._end)
            self._room = min(rate * BURST_S, self._room + grown)
        self._end, self._at_s = end, now_s
        self._room -= size
        return -self._room / rate if self._room < 0 else 0.0
