"""Which brokers are left alone for a while because they failed or were slow. Pure; times are seconds of any clock.

The idea and the steps are those of RocketMQ's MQFaultStrategy; the times are jittered, so that many producers don't
return to a broker at the same moment.
"""

from __future__ import annotations

import random

SLOW_S = ((15.0, 30.0), (5.0, 10.0), (3.0, 6.0), (1.8, 5.0), (0.55, 2.0))  # (answer took, avoided for)
FAILED_S = 3.0
FAILED_MAX_S = 30.0


class Faults:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._until: dict[str, float] = {}
        self._failures: dict[str, int] = {}  # in a row

    def answered(self, broker: str, took: float, now: float) -> None:
        if took < SLOW_S[-1][0]:
            if broker in self._until:
                del self._until[broker]
                self._failures.pop(broker, None)
            return
        self._failures.pop(broker, None)
        for slow, avoided in SLOW_S:
            if took >= slow:
                self._avoid(broker, avoided, now)
                return

    def failed(self, broker: str, now: float) -> None:
        """Its connection ended, or can't be made."""
        count = self._failures[broker] = self._failures.get(broker, 0) + 1
        self._avoid(broker, min(FAILED_MAX_S, FAILED_S * (1 << min(count - 1, 8))), now)

    def _avoid(self, broker: str, seconds: float, now: float) -> None:
        self._until[broker] = now + seconds * self._rng.uniform(0.75, 1.25)

    def avoided(self, broker: str, now: float) -> bool:
        return bool(self._until) and self._until.get(broker, 0.0) > now
