"""Finding messages by id, key, place or time. Indexes give candidate frames; the records themselves decide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Journal
from kourou.broker.services.mended import when_mended
from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Store
from kourou.core import frame
from kourou.core.errors import MessageNotFound, QueueNotFound
from kourou.core.frame import PREFIX_SIZE, Column, Prefix, SealedHeader
from kourou.core.ids import parse_id
from kourou.runtime.turns import Turns

LIMIT_MAX = 1_024
CANDIDATES_MAX = 4_096
BYTES_MAX = 8 * 1024 * 1024


@dataclass(slots=True)
class Hit:
    log_offset: int
    frame: bytes  # whole, as in the log
    record: int


class LookupService:
    """Reads in a thread; at most CANDIDATES_MAX frames and BYTES_MAX bytes a request."""

    def __init__(
        self,
        store: Store,
        state: BrokerState,
        journal: Journal,
        *,
        read_executor: Executor,
        turns: Turns,
        broker: str = "",
    ) -> None:
        self.broker = broker
        self._store = store
        self._state = state
        self._journal = journal
        self._executor = read_executor
        self._turns = turns

    async def by_id(self, topic: str, message_id: str) -> list[Hit]:
        known = self._state.topics.get(topic)
        native = parse_id(message_id)
        if native is not None:
            offset = await when_mended(partial(self._store.find_producer_frame, native.producer_id, native.sequence))
            if offset is not None and offset < self._journal.confirmed:
                hits = await self._collect(known, [offset], lambda data, prefix, header: [native.number], 1)
                hits = [hit for hit in hits if hit.record < frame.parse_sealed(hit.frame, PREFIX_SIZE).record_count]
                if hits:
                    return hits
        wanted = frame.id_hash(topic, message_id)
        hits = await self._collect(known, await self._candidates(wanted), _keyed(wanted), LIMIT_MAX)
        if not hits:
            raise MessageNotFound(f"topic {topic} holds no message with id {message_id[:80]!r}")
        return hits

    async def by_key(self, topic: str, key: str, *, limit: int) -> list[Hit]:
        """Records whose key column has the key's hash, newest first; the asker compares the keys themselves."""
        known = self._state.topics.get(topic)
        wanted = frame.key_hash(topic, key)
        return await self._collect(known, await self._candidates(wanted), _keyed(wanted), limit)

    async def _candidates(self, wanted: int) -> list[int]:
        return await when_mended(partial(self._store.find_key, wanted, limit=CANDIDATES_MAX))

    async def by_offset(self, topic: str, queue: int, offset: int) -> list[Hit]:
        known = self._state.topics.get(topic)
        if queue >= known.queues:
            raise QueueNotFound(f"topic {topic} has {known.queues} queues on this broker, not queue {queue}")
        found = await when_mended(partial(self._store.frames_from, known.incarnation << 32 | queue, offset, limit=1))
        if not found or found[0] >= self._journal.confirmed:
            raise MessageNotFound(f"queue {queue} of topic {topic} holds no message at offset {offset}")
        return await self._collect(known, found, lambda data, prefix, header: [offset - prefix.queue_offset], 1)

    async def by_time(self, topic: str, time_ms: int, *, limit: int) -> list[Hit]:
        """The first messages of each queue stored at or after a time, in the order of their store times."""
        known = self._state.topics.get(topic)
        turn = await self._turns.begin()
        offsets: list[int] = []
        for queue in range(known.queues):
            key = known.incarnation << 32 | queue
            start = await when_mended(partial(self._store.offset_at_time, key, time_ms))
            offsets += await when_mended(partial(self._store.frames_from, key, start, limit=min(limit, 64)))
            if len(offsets) > 2 * CANDIDATES_MAX:
                offsets = sorted(offsets)[:CANDIDATES_MAX]
            if turn.late:
                await turn.pause()
        hits = await self._collect(known, sorted(offsets), lambda data, prefix, header: range(header.record_count), limit)
        return hits

    async def _collect(
        self,
        topic: Topic,
        offsets: list[int],
        records: Callable[[bytes, Prefix, SealedHeader], Iterable[int]],
        limit: int,
    ) -> list[Hit]:
        below = self._journal.confirmed

        def read() -> list[Hit]:
            hits: list[Hit] = []
            size = 0
            for offset in offsets:
                if offset >= below:
                    continue
                data = self._store.read_frame(offset)
                prefix, header = frame.parse_prefix(data), frame.parse_sealed(data, PREFIX_SIZE)
                if prefix.incarnation != topic.incarnation or header.kind != frame.Kind.MESSAGES:
                    continue
                size += len(data)
                for number in records(data, prefix, header):
                    hits.append(Hit(offset, data, number))
                    if len(hits) >= limit:
                        return hits
                if size > BYTES_MAX:
                    return hits
            return hits

        return await asyncio.get_running_loop().run_in_executor(self._executor, read)


def _keyed(wanted: int) -> Callable[[bytes, Prefix, SealedHeader], list[int]]:
    """The records of a frame that carry a key of this hash."""

    def matching(data: bytes, prefix: Prefix, header: SealedHeader) -> list[int]:
        keys = frame.column(data, PREFIX_SIZE, header, Column.KEYS)
        if keys is None:
            return []
        count = header.key_count
        return sorted({keys[count + i] for i in range(count) if keys[i] == wanted}, reverse=True)

    return matching
