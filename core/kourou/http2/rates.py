"""A bucket of allowance that refills: what is harmless now and then, and an attack in bulk."""

from __future__ import annotations


class Allowance:
    """``burst`` at once, ``per_s`` in the long run. Given the time, so that it needs no clock."""

    __slots__ = ("_at_s", "_burst", "_left", "_per_s")

    def __init__(self, rate: tuple[int, int], now_s: float) -> None:
        self._burst, self._per_s = rate
        self._left = float(self._burst)
        self._at_s = now_s

    def spend(self, now_s: float) -> bool:
        """Take one; False when none is left."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
