"""How far each group has read each queue: the next offset to read, a projection of the log's offset records.

Offsets go forward; only ``reset`` takes them back. A commit's record says so ("f"), and replay holds to it: commits are
gathered, so two can be decided on before the first is replayed.

Broadcast consumers have offsets of their own, by client id, which may go either way; they are forgotten when a client has
committed nothing for BROADCAST_DAYS of log time, since client ids come and go.

There is a table for each group, client and topic incarnation. A table that was captured for a snapshot is copied before
its next change: a capture costs two references a table, whatever is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from kourou.broker.machines.projection import ITEM_ENTRIES, decode_items, digest_of, encode_slices
from kourou.core.errors import LimitExceeded

Record = dict[str, Any]
Owner = tuple[str, str]  # group, client id ("" for the group itself)
Place = tuple[str, str, int]  # and the topic's incarnation
ENTRIES_MAX = 4_000_000
BROADCAST_DAYS = 30


class _Table:
    __slots__ = ("captured", "heard_ms", "offsets")

    def __init__(self, captured: int) -> None:
        self.captured = captured  # how many captures there had been when it was made
        self.offsets: dict[int, int] = {}  # queue -> next offset to read
        self.heard_ms = 0  # log time of a broadcast client's last commit

    def copy(self, captured: int) -> _Table:
        twin = _Table(captured)
        twin.offsets, twin.heard_ms = self.offsets.copy(), self.heard_ms
        return twin


class OffsetTable:
    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        self._tables: dict[Place, _Table] = {}
        self._topics: dict[Owner, set[int]] = {}  # incarnations with a table
        self._clients: dict[str, set[str]] = {}  # of a group, with a table; "" for the group itself
        self._readers: dict[int, set[Owner]] = {}  # of a topic
        self._entries = 0
        self._entries_max = entries_max
        self._captures = 0

    def __len__(self) -> int:
        """Offsets that are stored."""
        return self._entries

    def committed(self, group: str, incarnation: int, queue: int) -> int | None:
        table = self._tables.get((group, "", incarnation))
        return table.offsets.get(queue) if table is not None else None

    def broadcast_committed(self, group: str, client: str, incarnation: int, queue: int) -> int | None:
        table = self._tables.get((group, client, incarnation))
        return table.offsets.get(queue) if table is not None else None

    def topics_of(self, group: str) -> set[int]:
        """Incarnations of the topics in which a group has committed anything."""
        return set(self._topics.get((group, ""), ()))

    def commit(self, group: str, incarnation: int, entries: Sequence[tuple[int, int]]) -> list[Record]:
        """One record for all (queue, offset) pairs that move forward; one that would go back is left alone."""
        return self._decide((group, "", incarnation), entries, back=False)

    def commit_broadcast(
        self, group: str, client: str, incarnation: int, entries: Sequence[tuple[int, int]]
    ) -> list[Record]:
        assert client, "broadcast offsets belong to a client"
        return self._decide((group, client, incarnation), entries, back=True)

    def reset(self, group: str, incarnation: int, entries: Sequence[tuple[int, int]]) -> list[Record]:
        """The same, and back too."""
        return self._decide((group, "", incarnation), entries, back=True)

    def _decide(self, place: Place, entries: Sequence[tuple[int, int]], *, back: bool) -> list[Record]:
        table = self._tables.get(place)
        stored = table.offsets if table is not None else {}
        moves: dict[int, int] = {}  # of a queue that is named twice: the last one, or the furthest if it can't go back
        for queue, offset in entries:
            if back or offset > moves.get(queue, stored.get(queue, -1)):
                moves[queue] = offset
        moved = [[queue, offset] for queue, offset in moves.items() if stored.get(queue) != offset]
        if not moved:
            return []
        fresh = sum(queue not in stored for queue, _ in moved)
        if fresh and self._entries + fresh > self._entries_max:
            raise LimitExceeded(
                f"{self._entries} offsets are stored; the limit is {self._entries_max}: delete groups that are not used"
            )
        group, client, incarnation = place
        record: Record = {"t": "offsets", "g": group, "i": incarnation, "o": moved}
        if client:
            record["c"] = client
        elif not back:
            record["f"] = 1
        return [record]

    def forget_silent(self, now_ms: int) -> list[Record]:
        """Records that drop broadcast clients which have been silent for too long."""
        heard: dict[Owner, int] = {}
        for (group, client, _), table in self._tables.items():
            if client:
                heard[group, client] = max(heard.get((group, client), 0), table.heard_ms)
        limit = now_ms - BROADCAST_DAYS * 86_400_000
        return [{"t": "offsets-", "g": group, "c": client} for (group, client), ms in heard.items() if ms < limit]

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        owner = (record["g"], record.get("c", ""))
        if record["t"] == "offsets-":
            self._drop(owner)
            return
        table = self._table((*owner, record["i"]))
        offsets = table.offsets
        before = len(offsets)
        if record.get("f"):
            for queue, offset in record["o"]:
                if offset > offsets.get(queue, -1):
                    offsets[queue] = offset
        else:
            offsets.update(record["o"])
        self._entries += len(offsets) - before
        if owner[1]:
            table.heard_ms = store_ms

    def topic_deleted(self, incarnation: int) -> None:
        """Replayed with the topic's own record."""
        for group, client in list(self._readers.get(incarnation, ())):
            self._drop_table((group, client, incarnation))

    def group_deleted(self, group: str) -> None:
        """Replayed with the group's own record."""
        for client in list(self._clients.get(group, ())):
            self._drop((group, client))

    # ---- tables

    def _table(self, place: Place) -> _Table:
        """The table of a place, made if need be, ready to be changed."""
        table = self._tables.get(place)
        if table is None:
            group, client, incarnation = place
            table = self._tables[place] = _Table(self._captures)
            self._topics.setdefault((group, client), set()).add(incarnation)
            self._clients.setdefault(group, set()).add(client)
            self._readers.setdefault(incarnation, set()).add((group, client))
        elif table.captured != self._captures:
            table = self._tables[place] = table.copy(self._captures)
        return table

    def _drop(self, owner: Owner) -> None:
        for incarnation in list(self._topics.get(owner, ())):
            self._drop_table((*owner, incarnation))

    def _drop_table(self, place: Place) -> None:
        group, client, incarnation = place
        self._entries -= len(self._tables.pop(place).offsets)
        _discard(self._readers, incarnation, (group, client))
        _discard(self._topics, (group, client), incarnation)
        if (group, client) not in self._topics:
            _discard(self._clients, group, client)

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        """Captured now, encoded as it is drawn from."""
        self._captures += 1
        return encode_slices(_items(list(self._tables), list(self._tables.values())))

    def restore(self, data: bytes) -> None:
        """Become what was captured, whatever was here before."""
        for index in (self._tables, self._topics, self._clients, self._readers):
            index.clear()
        self._entries = 0
        for group, client, heard_ms, items in decode_items(data):
            for key, offset in items:
                table = self._table((group, client, key >> 32))
                table.offsets[key & 0xFFFFFFFF] = offset
                table.heard_ms = heard_ms
            self._entries += len(items)

    def digest(self) -> str:
        places = sorted(self._tables)
        tables = (self._tables[place] for place in places)
        return digest_of(
            [*place, table.heard_ms, sorted(table.offsets.items())] for place, table in zip(places, tables, strict=True)
        )


def _items(places: Iterable[Place], tables: Iterable[_Table]) -> Iterator[Any]:
    """[group, client id, heard ms, [[incarnation << 32 | queue, offset], ...]]; a big table takes several."""
    for (group, client, incarnation), table in zip(places, tables, strict=True):
        base = incarnation << 32
        entries = iter(table.offsets.items())
        while some := [(base | queue, offset) for queue, offset in islice(entries, ITEM_ENTRIES)]:
            yield [group, client, table.heard_ms, some]


def _discard(index: dict[Any, set[Any]], key: Any, value: Any) -> None:
    values = index[key]
    values.discard(value)
    if not values:
        del index[key]
