"""What the Admin service of the official API needs of this broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kourou.broker.services.admin import AdminService
from kourou.broker.services.lookup import Hit, LookupService
from kourou.broker.services.messaging import LocalMessaging
from kourou.broker.services.produce import ProduceService
from kourou.broker.services.records import DecodedFrame, StoredMessage
from kourou.broker.services.resets import Resets
from kourou.broker.services.shared.service import SharedService
from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Store
from kourou.core import frame
from kourou.core.errors import KourouError
from kourou.core.frame import PREFIX_SIZE
from kourou.core.outgoing import OutgoingMessage
from kourou.core.views import Accumulation, Sent, TopicView


class OfficialOperations:
    def __init__(
        self,
        store: Store,
        state: BrokerState,
        messaging: LocalMessaging,
        admin: AdminService,
        lookup: LookupService,
        resets: Resets,
        produce: ProduceService,
        shared: SharedService,
        *,
        set_log_level: Callable[[str], None],
    ) -> None:
        self.broker = messaging.broker
        self._store = store
        self._state = state
        self._messaging = messaging
        self._admin = admin
        self._lookup = lookup
        self._resets = resets
        self._produce = produce
        self._shared = shared
        self.set_log_level = set_log_level

    def topic(self, name: str) -> TopicView:
        return self._messaging.topic(name)

    def accumulation(self, group: str) -> Mapping[str, Accumulation]:
        found: dict[str, Accumulation] = {}
        by_topic: dict[str, list[Any]] = {}
        for queue in self._admin.describe_group(group)[1]:
            by_topic.setdefault(queue["topic"], []).append(queue)
        for name, queues in by_topic.items():
            topic = self._state.topics.get(name)
            oldest: int | None = None
            for queue in queues:
                place = self._stored_ms(topic.incarnation << 32 | queue["queue"], max(queue["min"], queue["committed"] or 0))
                if place is not None:
                    oldest = place if oldest is None else min(oldest, place)
            inflight = sum(queue.get("inflight", 0) for queue in queues)
            found[name] = Accumulation(sum(queue["lag"] for queue in queues) - inflight, inflight, oldest)
        return found

    def _stored_ms(self, key: int, offset: int) -> int | None:
        """When the message at an offset was stored; None behind the last one."""
        refs = self._store.index.refs(key, offset, limit=1)
        if not refs:
            return None
        try:
            return frame.parse_prefix(self._store.read_frame(refs[0].log_offset)).store_ms
        except KourouError:
            return None

    def spans(self, group: str, topic: str) -> list[tuple[int, int, int, int]]:
        known = self._state.topics.get(topic)
        found = []
        for queue in range(known.queues):
            key = known.incarnation << 32 | queue
            low, high = self._store.queue_bounds(key)
            if high == low:
                continue
            ledger = self._state.shared.find(group, known.incarnation, queue)
            next_offset = (
                ledger.floor if ledger is not None else self._state.offsets.committed(group, known.incarnation, queue)
            )
            first, last = self._stored_ms(key, low), self._stored_ms(key, high - 1)
            found.append((queue, first or 0, last or 0, self._stored_ms(key, max(low, next_offset or low)) or 0))
        return found

    def filters(self, group: str) -> Sequence[tuple[str, str, str]]:
        return self._state.groups.get(group).filters

    async def clear_filter(self, group: str, topic: str) -> None:
        await self._admin.set_filter(group, topic, None)

    async def reset(self, group: str, topic: str, time_ms: int) -> None:
        await self._resets.reset(group, topic, None, ("time", time_ms))

    async def find(
        self, topic: str, *, message_id: str | None, key: str | None, begin_ms: int, end_ms: int, limit: int
    ) -> list[tuple[int, StoredMessage]]:
        if message_id is not None:
            hits = await self._lookup.by_id(topic, message_id)
        elif key is not None:
            hits = await self._lookup.by_key(topic, key, limit=limit)
        else:
            hits = await self._lookup.by_time(topic, begin_ms, limit=limit)
        found = [_message(hit) for hit in hits]
        return [(queue, message) for queue, message in found if begin_ms <= message.store_ms <= end_ms][:limit]

    def send(self, message: OutgoingMessage, done: Callable[[Sent | KourouError], None]) -> None:
        self._messaging.send(message, done)

    def counts(self) -> tuple[int, int]:
        return self._produce.messages_in, self._shared.messages_out


def _message(hit: Hit) -> tuple[int, StoredMessage]:
    prefix, header = frame.parse_prefix(hit.frame), frame.parse_sealed(hit.frame, PREFIX_SIZE)
    return header.queue_id, StoredMessage(DecodedFrame(prefix, header, hit.frame, PREFIX_SIZE), hit.record)
