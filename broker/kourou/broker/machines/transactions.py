"""Half messages that wait for a decision: a projection of half frames, of the copies that commit them, and of records.

A half message is stored in a room beside its queue. Committing it stores a copy in the queue, which names it as its
source; rolling it back is a record. Both are final, and remembered for a while so that a decision that is sent again gets
the same answer. Until then a producer of the topic is asked, at times that the service chooses; how often it was asked is
part of the state, since there is a limit. Records (docs/formats.md):

    tx-   rolled back   {"e": [[log offset, record], ...], "w": why}
    tx?   asked         {"e": [[log offset, record, how often, when], ...]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from kourou.broker.machines.projection import decode_items, digest_of, encode_slices

Record = dict[str, Any]
Place = tuple[int, int]  # log offset of the frame, record in it
RECORDS = frozenset({"tx-", "tx?"})
DECIDED_MAX = 100_000
COMMITTED, ROLLED_BACK = "commit", "rollback"


class Half(NamedTuple):
    incarnation: int
    queue: int
    stored_ms: int
    recovery_ms: int  # when its producer wants to be asked, after it was stored; 0: as configured
    checks: int = 0
    checked_ms: int = 0


class Transactions:
    def __init__(self) -> None:
        self._pending: dict[Place, Half] = {}
        self._decided: dict[Place, str] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._pending)

    def find(self, place: Place) -> Half | None:
        return self._pending.get(place)

    def decision(self, place: Place) -> str | None:
        """What was decided, where that is still known."""
        return self._decided.get(place)

    def pending(self) -> Iterator[tuple[Place, Half]]:
        """Oldest first."""
        return iter(self._pending.items())

    def lowest_log_offset(self) -> int | None:
        """Nothing from here on may be deleted from the log."""
        return next(iter(self._pending))[0] if self._pending else None

    # ---- replay

    def stored(self, log_offset: int, halves: Iterable[Half]) -> None:
        for number, half in enumerate(halves):
            self._pending[log_offset, number] = half

    def committed(self, place: Place) -> None:
        self._decide(place, COMMITTED)

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        if record["t"] == "tx-":
            for at, number in record["e"]:
                self._decide((at, number), ROLLED_BACK)
            return
        for at, number, checks, when_ms in record["e"]:
            half = self._pending.get((at, number))
            if half is not None:
                self._pending[at, number] = half._replace(checks=checks, checked_ms=when_ms)

    def topic_deleted(self, incarnation: int) -> None:
        for place in [place for place, half in self._pending.items() if half.incarnation == incarnation]:
            del self._pending[place]

    def _decide(self, place: Place, outcome: str) -> None:
        if self._pending.pop(place, None) is None:
            return
        self._decided[place] = outcome
        if len(self._decided) > DECIDED_MAX:
            del self._decided[next(iter(self._decided))]

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        return encode_slices(_items(list(self._pending.items()), list(self._decided.items())))

    def restore(self, data: bytes) -> None:
        self._pending.clear()
        self._decided.clear()
        for kind, at, number, *rest in decode_items(data):
            if kind == "half":
                self._pending[at, number] = Half(*rest)
            else:
                self._decided[at, number] = rest[0]

    def digest(self) -> str:
        return digest_of(_items(sorted(self._pending.items()), self._decided.items()))


def _items(pending: Iterable[tuple[Place, Half]], decided: Iterable[tuple[Place, str]]) -> Iterator[Any]:
    halves = (["half", *place, *half] for place, half in pending)
    return chain(halves, (["done", *place, outcome] for place, outcome in decided))
