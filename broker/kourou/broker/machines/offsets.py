"""How far each group has read each queue: the next offset to read, a projection of the log's offset records.

Broadcast consumers have offsets of their own, by client id; they are forgotten when a client has committed nothing for
BROADCAST_DAYS of log time, since client ids come and go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kourou.broker.machines.projection import decode_items, digest_of, encode_slices
from kourou.core.errors import LimitExceeded

Record = dict[str, Any]
Owner = tuple[str, str]  # group, client id ("" for the group itself)
ENTRIES_MAX = 4_000_000
BROADCAST_DAYS = 30


class OffsetTable:
    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        self._tables: dict[Owner, dict[int, int]] = {}  # queue key -> next offset to read
        self._heard_ms: dict[Owner, int] = {}  # of broadcast clients
        self._entries = 0
        self._entries_max = entries_max

    def committed(self, group: str, incarnation: int, queue: int) -> int | None:
        return self._get((group, ""), incarnation, queue)

    def broadcast_committed(self, group: str, client: str, incarnation: int, queue: int) -> int | None:
        return self._get((group, client), incarnation, queue)

    def _get(self, owner: Owner, incarnation: int, queue: int) -> int | None:
        table = self._tables.get(owner)
        return table.get(incarnation << 32 | queue) if table is not None else None

    def topics_of(self, group: str) -> set[int]:
        """Incarnations of the topics in which a group has committed anything."""
        return {key >> 32 for key in self._tables.get((group, ""), ())}

    def commit(self, group: str, incarnation: int, entries: Sequence[tuple[int, int]]) -> list[Record]:
        """One record for all (queue, offset) pairs that move forward; one that would go back is left alone."""
        return self._decide((group, ""), incarnation, entries, back=False)

    def commit_broadcast(
        self, group: str, client: str, incarnation: int, entries: Sequence[tuple[int, int]]
    ) -> list[Record]:
        return self._decide((group, client), incarnation, entries, back=True)

    def reset(self, group: str, incarnation: int, entries: Sequence[tuple[int, int]]) -> list[Record]:
        """The same, and back too."""
        return self._decide((group, ""), incarnation, entries, back=True)

    def _decide(self, owner: Owner, incarnation: int, entries: Sequence[tuple[int, int]], *, back: bool) -> list[Record]:
        moves = []
        for queue, offset in entries:
            old = self._get(owner, incarnation, queue)
            if old is None or offset > old or (back and offset != old):
                moves.append([queue, offset])
        if not moves:
            return []
        if self._entries + len(moves) > self._entries_max:
            raise LimitExceeded(f"{self._entries} offsets are stored; the limit is {self._entries_max}")
        record: Record = {"t": "offsets", "g": owner[0], "i": incarnation, "o": moves}
        if owner[1]:
            record["c"] = owner[1]
        return [record]

    def forget_silent(self, now_ms: int) -> list[Record]:
        """Records that drop broadcast clients which have been silent for too long."""
        limit = now_ms - BROADCAST_DAYS * 86_400_000
        return [
            {"t": "offsets-", "g": group, "c": client}
            for (group, client), heard_ms in self._heard_ms.items()
            if heard_ms < limit
        ]

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        owner = (record["g"], record.get("c", ""))
        if record["t"] == "offsets-":
            self._drop(owner)
            return
        table = self._tables.setdefault(owner, {})
        before = len(table)
        base = record["i"] << 32
        for queue, offset in record["o"]:
            table[base | queue] = offset
        self._entries += len(table) - before
        if owner[1]:
            self._heard_ms[owner] = store_ms

    def topic_deleted(self, incarnation: int) -> None:
        """Replayed with the topic's own record."""
        for table in self._tables.values():
            gone = [key for key in table if key >> 32 == incarnation]
            for key in gone:
                del table[key]
            self._entries -= len(gone)

    def group_deleted(self, group: str) -> None:
        """Replayed with the group's own record."""
        for owner in [owner for owner in self._tables if owner[0] == group]:
            self._drop(owner)

    def _drop(self, owner: Owner) -> None:
        self._entries -= len(self._tables.pop(owner, ()))
        self._heard_ms.pop(owner, None)

    # ---- projection

    def capture(self) -> list[Any]:
        return [
            [group, client, self._heard_ms.get((group, client), 0), list(table.items())]
            for (group, client), table in self._tables.items()
        ]

    def snapshot(self) -> Iterator[bytes]:
        return encode_slices(self.capture())

    def restore(self, data: bytes) -> None:
        for group, client, heard_ms, items in decode_items(data):
            self._tables[group, client] = dict(items)
            self._entries += len(items)
            if client:
                self._heard_ms[group, client] = heard_ms

    def digest(self) -> str:
        return digest_of(sorted([g, c, h, sorted(items)] for g, c, h, items in self.capture() if items))
