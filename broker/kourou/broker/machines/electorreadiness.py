"""What this replica knows that speaks for or against its taking over, apart from what is in etcd."""

from __future__ import annotations

from kourou.broker.machines.election import ElectionOptions
from kourou.broker.machines.electorchance import Chance, chance
from kourou.broker.machines.electorview import ElectorView

SLOW_MS = 60_000
ALONE_MS = 10_000


class Readiness:
    def __init__(self, replica: int, options: ElectionOptions, view: ElectorView) -> None:
        self._barred: str | None = None  # why it does not campaign any more
        self._damaged: str | None = None  # why it does not until its log is whole again
        self.pledged_ms = 0  # until then it does not campaign
        self._slow_until_ms = 0  # until then it campaigns only when nobody else does
        self._gone: int | None = None  # the epoch whose master's process has ended
        self._gone_ms = 0
        self._replica = replica
        self._options = options
        self._view = view

    @property
    def barred(self) -> str | None:
        """Why it does not campaign."""
        return self._barred or self._damaged

    def fit(self, now_ms: int) -> bool:
        return self.barred is None and not self._options.learner and not self._is_slow(now_ms)

    def chance(self, now_ms: int) -> Chance | None:
        """When it may take over, by what right and on which evidence; None when it may not at all."""
        if self.barred is not None:
            return None
        gone_ms = self._gone_ms if self._view.state is not None and self._gone == self._view.state.epoch else None
        return chance(
            self._replica,
            self._view,
            self._options,
            gone_ms=gone_ms,
            pledged_ms=self.pledged_ms,
            slow=self._is_slow(now_ms),
            now_ms=now_ms,
        )

    def master_gone(self, epoch: int, now_ms: int) -> None:
        if self._gone != epoch:
            self._gone, self._gone_ms = epoch, now_ms

    def led(self) -> None:
        """It has taken over."""
        self._gone = None

    def slow(self, now_ms: int) -> bool:
        """Was that known?"""
        known, self._slow_until_ms = self._is_slow(now_ms), now_ms + SLOW_MS
        return known

    def alone(self, now_ms: int) -> None:
        self._slow_until_ms = max(self._slow_until_ms, now_ms + ALONE_MS)

    def pledge(self, now_ms: int) -> None:
        self.pledged_ms = now_ms + self._options.lease_ms

    def bar(self, reason: str) -> None:
        """For good. The first reason stays."""
        self._barred = self._barred or reason

    def damaged(self, reason: str) -> None:
        """Until ``mended``."""
        self._damaged = self._damaged or reason

    def mended(self) -> None:
        self._damaged = None

    def _is_slow(self, now_ms: int) -> bool:
        return now_ms < self._slow_until_ms
