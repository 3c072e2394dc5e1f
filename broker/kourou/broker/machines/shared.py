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

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from operator import lshift, or_
from struct import unpack
from typing import Any

from kourou.broker.machines.ledger import Candidate, Captured, QueueLedger, packed_lease
from kourou.broker.machines.projection import ITEM_ENTRIES, decode_items, digest_of, encode_slices
from kourou.core.sources import Source

Record = dict[str, Any]
Place = tuple[str, int]  # group, incarnation of the topic
RECORDS = frozenset({"out", "ack", "due", "pos"})
CHANGED, RENEWED, UNCOUNTED = 0, 1, 2


class SharedGroups:
    def __init__(self) -> None:
        self._ledgers: dict[Place, dict[int, QueueLedger]] = {}
        self.changes = 0  # leases that records have made, changed or ended; what it takes to read them back

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
                    self.changes += len(offsets)
                    ledger = self.find(group, incarnation, queue)
                    for offset in offsets if ledger is not None else ():
                        ledger.settled(offset)  # type: ignore[union-attr]
            case "due":
                self.changes += len(record["e"])
                for queue, offset, due_ms, mode in record["e"]:
                    ledger = self.find(group, incarnation, queue)
                    if ledger is not None:
                        ledger.put_off(offset, due_ms, keep_serial=mode == RENEWED, uncounted=mode == UNCOUNTED)
            case "pos":
                for queue, next_offset in record["e"]:
                    self._ledger(group, incarnation, queue, next_offset).moved_to(next_offset)

    def _handed_out(self, ledger: QueueLedger, record: Record) -> None:
        offsets = record["o"]
        self.changes += len(offsets)
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
            (group, incarnation, queue), next_offset, serial, leases, parked, *groups = item
            ledger = self._ledger(group, incarnation, queue, next_offset)
            ledger.next, ledger.serial = next_offset, serial
            if isinstance(leases, str):
                ledger.restore_open(*_from_text(leases), groups[0] if groups else ())
            elif leases:  # as it was written later: a list for each column
                offsets, *columns, groups = leases
                ledger.restore_open(offsets, map(packed_lease, *columns), groups)
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
                found = ledger.capture()
                found = found._replace(open=dict(sorted(found.open.items())), parked=dict(sorted(found.parked.items())))
                captured.append((place, queue, found))
        return digest_of(_items(captured))


def _items(captured: Iterable[tuple[Place, int, Captured]]) -> Iterator[Any]:
    """[[group, incarnation, queue], next, serial, what is open as text, [[offset, message group], ...], message groups of
    what is open]; the last only where there are any. A big ledger takes several."""
    for (group, incarnation), queue, (next_offset, serial, leases, groups, parked) in captured:
        open_entries, parked_entries = iter(leases.items()), iter(parked.items())
        first = True
        while True:
            some = dict(islice(open_entries, ITEM_ENTRIES))
            others = list(islice(parked_entries, ITEM_ENTRIES))
            if not first and not some and not others:
                break
            first = False
            item = [[group, incarnation, queue], next_offset, serial, _to_text(some), others]
            if groups:
                item.append([groups.get(offset, 0) for offset in some])
            yield item


def _to_text(leases: dict[int, int]) -> str:
    """All offsets (u64), then all leases (u64 serial << 32 | attempts, u64 due time), in base 64."""
    data = b"".join([offset.to_bytes(8, "little") for offset in leases])
    data += b"".join([lease.to_bytes(16, "little") for lease in leases.values()])
    return b2a_base64(data, newline=False).decode()


def _from_text(text: str) -> tuple[tuple[int, ...], Iterable[int]]:
    data = a2b_base64(text)
    count = len(data) // 24
    numbers = unpack(f"<{3 * count}Q", data)
    return numbers[:count], map(or_, numbers[count::2], map(lshift, numbers[count + 1 :: 2], repeat(64)))
