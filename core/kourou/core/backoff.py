"""Delays between attempts: exponential with full jitter, as numbers.

"Exponential Backoff And Jitter" (AWS architecture blog, 2015): full jitter spreads clients that failed together.
"""

from __future__ import annotations

import random


class Backoff:
    """The next delay each time it is asked for; ``reset`` after a success."""

    def __init__(self, rng: random.Random, *, first_ms: int = 20, most_ms: int = 2_000) -> None:
        self._rng = rng
        self._first_ms = first_ms
        self._most_ms = most_ms
        self._attempts = 0

    def next_ms(self) -> int:
        ceiling = min(self._most_ms, self._first_ms << min(self._attempts, 16))
        self._attempts += 1
        return self._rng.randint(ceiling // 2, ceiling)

    @property
    def attempts(self) -> int:
        """How many delays were given since the last success."""
        return self._attempts

    def reset(self) -> None:
        self._attempts = 0
