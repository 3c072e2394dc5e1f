"""How long delivered messages stay this consumer's: what to renew, what to give back. Pure; times are ms of any clock.

A lease lasts for the group's invisible time from the moment the message was handed out. While a handler works on a message
its lease is renewed when half of it has passed, for ``renew_ms_max`` at most (``overdue``); then it is ``lost`` when its
time is over. A message that nobody has begun with is kept for ``wait_ms_max`` and then given back, so that a slow consumer
does not keep from others what it fetched ahead.

    taken ──begin──> worked on ──settle──> gone
      |  renewed           | renewed
      └─wait_ms_max─> given back └─renew_ms_max─> overdue ─> lost
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


@dataclass(slots=True)
class Lease:
    taken_ms: int
    until_ms: int
    begun_ms: int | None = None
    renewing: bool = False  # asked for, not answered yet
    overdue: bool = False


@dataclass(slots=True)
class Due(Generic[Item]):
    renew: list[Item] = field(default_factory=list)
    give_back: list[Item] = field(default_factory=list)
    overdue: list[Item] = field(default_factory=list)
    lost: list[Item] = field(default_factory=list)


class Leases(Generic[Item]):
    def __init__(self, *, invisible_ms: int, renew_ms_max: int, wait_ms_max: int) -> None:
        self.invisible_ms = invisible_ms
        self._renew_ms_max = renew_ms_max
        self._wait_ms_max = wait_ms_max
        self._leases: dict[Item, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, item: Item) -> bool:
        return item in self._leases

    @property
    def look_every_ms(self) -> int:
        """A lease is renewed before two thirds of it have passed."""
        return max(50, self.invisible_ms // 6)

    def taken(self, item: Item, now_ms: int) -> None:
        self._leases[item] = Lease(now_ms, now_ms + self.invisible_ms)

    def begun(self, item: Item, now_ms: int) -> None:
        lease = self._leases.get(item)
        if lease is not None and lease.begun_ms is None:
            lease.begun_ms = now_ms

    def settled(self, item: Item) -> None:
        """Settled, given back or lost: no lease of ours any more."""
        self._leases.pop(item, None)

    def holds(self, item: Item, now_ms: int) -> bool:
        """Whether the message is still ours, as far as can be known."""
        lease = self._leases.get(item)
        return lease is not None and lease.until_ms > now_ms

    def extended(self, item: Item, asked_ms: int, invisible_ms: int) -> None:
        """The broker agreed to what was asked for at a time."""
        lease = self._leases.get(item)
        if lease is not None:
            lease.until_ms = asked_ms + invisible_ms
            lease.renewing = False

    def not_renewed(self, item: Item) -> None:
        """Nobody answered: it is tried again the next time."""
        lease = self._leases.get(item)
        if lease is not None:
            lease.renewing = False

    def look(self, now_ms: int) -> Due[Item]:
        due: Due[Item] = Due()
        for item, lease in self._leases.items():
            if lease.begun_ms is None:
                if now_ms - lease.taken_ms >= self._wait_ms_max:
                    due.give_back.append(item)
                    continue
            elif now_ms - lease.begun_ms >= self._renew_ms_max:
                if not lease.overdue:
                    lease.overdue = True
                    due.overdue.append(item)
                if lease.until_ms <= now_ms:
                    due.lost.append(item)
                continue
            if not lease.renewing and lease.until_ms - now_ms <= self.invisible_ms // 2:
                lease.renewing = True
                due.renew.append(item)
        return due
