"""What all shared groups have done: a ledger for each group, topic and queue; a projection of the log's records.

Decisions are taken by the service, which knows the messages; what it decided comes here as a record, live and at recovery
alike. Records (docs/formats.md):

    out   handed out        {"g": group, "i": incarnation, "q": queue, "n": next, "d": due, "o": [offsets], "a": [attempts],
                             "h": [message groups], "k": [[offset, message group], ...]}   "a", "h", "k" where needed
    ack   acknowledged      {"g", "i", "e": [[queue, [offsets]], ...]}
    due   put off           {"g", "i", "e": [[queue, offset, due, mode], ...]}   mode 1: renewed, 2: does not count
    pos   set to a place    {"g", "i", "e": [[queue, next], ...]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from kourou.broker.machines.ledger import Candidate, Lease, QueueLedger
from kourou.broker.machines.projection import ITEM_ENTRIES, decode_items, digest_of, encode_slices
from kourou.core.sources import Source

Record = dict[str, Any]
Place = tuple[str, int]  # group, incarnation of the topic
RECORDS = frozenset({"out", "ack", "due", "pos"})
CHANGED, RENEWED, UNCOUNTED = 0, 1, 2


class SharedGroups:
    def __init__(self) -> None:
        self._ledgers: dict[Place, dict[int, QueueLedger]] = {}

    def of(self, group: str, incarnation: int) -> dict[int, QueueLedger]:
        """By queue id; empty where nothing was handed out yet. Not to be changed."""
        return self._ledgers.get((group, incarnation), {})

    def find(self, group: str, incarnation: int, queue: int) -> QueueLedger | None:
        ledgers = self._ledgers.get((group, incarnation))
        return ledgers.get(queue) if ledgers is not None else None

    def topics_of(self, group: str) -> set[int]:
        return {incarnation for name, incarnation in self._ledgers if name == group}

    def places(self) -> list[Place]:
        return list(self._ledgers)

    # ---- replay

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        group, incarnation = record["g"], record["i"]
        match record["t"]:
            case "out":
                self._handed_out(self._ledger(group, incarnation, record["q"], record["n"]), record)
            case "ack":
                for queue, offsets in record["e"]:
                    ledger = self.find(group, incarnation, queue)
                    for offset in offsets if ledger is not None else ():
                        ledger.settled(offset)  # type: ignore[union-attr]
            case "due":
                for queue, offset, due_ms, mode in record["e"]:
                    ledger = self.find(group, incarnation, queue)
                    if ledger is not None:
                        ledger.put_off(offset, due_ms, keep_serial=mode == RENEWED, uncounted=mode == UNCOUNTED)
            case "pos":
                for queue, next_offset in record["e"]:
                    self._ledger(group, incarnation, queue, next_offset).moved_to(next_offset)

    @staticmethod
    def _handed_out(ledger: QueueLedger, record: Record) -> None:
        offsets = record["o"]
        attempts = record.get("a") or (1,) * len(offsets)
        groups = record.get("h") or (0,) * len(offsets)
        ledger.next = max(ledger.next, record["n"])
        for offset, group in record.get("k", ()):
            ledger.park(offset, group)
        if offsets:
            ledger.handed_out(map(Candidate, offsets, attempts, groups), record["d"])

    def moved(self, source: Source) -> None:
        """A dead letter or a redriven one was stored: its delivery is settled."""
        ledger = self.find(source.group, source.incarnation, source.queue)
        if ledger is not None:
            ledger.settled(source.queue_offset)

    def _ledger(self, group: str, incarnation: int, queue: int, next_offset: int) -> QueueLedger:
        ledgers = self._ledgers.setdefault((group, incarnation), {})
        ledger = ledgers.get(queue)
        if ledger is None:
            ledger = ledgers[queue] = QueueLedger(next_offset)
        return ledger

    def topic_deleted(self, incarnation: int) -> None:
        for place in [place for place in self._ledgers if place[1] == incarnation]:
            del self._ledgers[place]

    def queues_deleted(self, incarnation: int, queues: list[int]) -> None:
        """Lite topics that were let go of."""
        for place, ledgers in self._ledgers.items():
            if place[1] == incarnation:
                for queue in queues:
                    ledgers.pop(queue, None)

    def group_deleted(self, group: str) -> None:
        for place in [place for place in self._ledgers if place[0] == group]:
            del self._ledgers[place]

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        """Captured now, encoded as it is drawn from."""
        captured = [
            (place, queue, ledger.capture()) for place, ledgers in self._ledgers.items() for queue, ledger in ledgers.items()
        ]
        return encode_slices(_items(captured))

    def restore(self, data: bytes) -> None:
        self._ledgers.clear()
        parked_later: list[tuple[QueueLedger, list[list[int]]]] = []
        for item in decode_items(data):
            if len(item) == 7:  # as it was written at first: a list for each lease
                leases = item.pop(5)
                item.insert(5, list(zip(*leases, strict=True)))
                item = [item[:3], *item[3:]]
            (group, incarnation, queue), next_offset, serial, columns, parked = item
            ledger = self._ledger(group, incarnation, queue, next_offset)
            ledger.next, ledger.serial = next_offset, serial
            if columns:
                ledger.restore_open(*columns)
            parked_later.append((ledger, parked))
        for ledgers in self._ledgers.values():
            for ledger in ledgers.values():
                ledger.restored()
        for ledger, parked in parked_later:
            for offset, message_group in parked:
                ledger.park(offset, message_group)

    def digest(self) -> str:
        captured = []
        for place in sorted(self._ledgers):
            for queue, ledger in sorted(self._ledgers[place].items()):
                leases = dict(sorted(ledger.open.items()))
                captured.append((place, queue, (ledger.next, ledger.serial, leases, dict(sorted(ledger.parked.items())))))
        return digest_of(_items(captured))


def _items(captured: Iterable[tuple[Place, int, tuple[int, int, dict[int, Lease], dict[int, int]]]]) -> Iterator[Any]:
    """[[group, incarnation, queue], next, serial, columns of what is open: offsets and those of ``Lease``, [[offset, message
    group], ...]]; a big one takes several."""
    for (group, incarnation), queue, (next_offset, serial, leases, parked) in captured:
        open_entries, parked_entries = iter(leases.items()), iter(parked.items())
        first = True
        while True:
            some = [(offset, *lease) for offset, lease in islice(open_entries, ITEM_ENTRIES)]
            columns = list(zip(*some, strict=True))
            others = list(islice(parked_entries, ITEM_ENTRIES))
            if not first and not some and not others:
                break
            first = False
            yield [[group, incarnation, queue], next_offset, serial, columns, others]
