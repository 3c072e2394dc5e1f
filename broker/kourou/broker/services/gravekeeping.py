"""What an operator does with dead letters: look at them, send them back at a rate, throw them away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Any

from kourou.broker.machines.topics import Topic
from kourou.broker.services.deadletters import (
    ATTEMPTS_PROPERTY,
    REASON_PROPERTY,
    TIME_PROPERTY,
    dead_letter_topic,
)
from kourou.broker.services.journal import Journal
from kourou.broker.services.moves import Move, Mover
from kourou.broker.services.records import RecordReader, StoredMessage
from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Store
from kourou.core.errors import BadRequest, KourouError, TopicNotFound
from kourou.core.filter import Filter
from kourou.core.records import Field, readable_fields, readable_property, readable_text
from kourou.core.route import TopicType
from kourou.core.siphash import message_group_index
from kourou.core.sources import Reason, Source

LIST_MAX = 1_000
A_TURN = 64  # looked at before others get their turn
RATE_MAX = 10_000.0  # messages a second
A_REQUEST = 10_000  # messages that one request redrives or purges
_U16 = Struct("<H")
DLQ_PROPERTIES = frozenset({REASON_PROPERTY, TIME_PROPERTY, ATTEMPTS_PROPERTY})


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One, as it is shown."""

    queue: int
    offset: int
    message_id: str
    topic: str  # where it came from
    attempts: int
    reason: str
    dead_ms: int
    born_ms: int
    tag: str | None
    keys: tuple[str, ...]
    size: int
    message: StoredMessage

    def to_json(self) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "offset": self.offset,
            "id": self.message_id,
            "topic": self.topic,
            "attempts": self.attempts,
            "reason": self.reason,
            "dead_ms": self.dead_ms,
            "born_ms": self.born_ms,
            "tag": self.tag,
            "keys": list(self.keys),
            "size": self.size,
        }


class Gravekeeper:
    def __init__(self, store: Store, state: BrokerState, journal: Journal, records: RecordReader, mover: Mover) -> None:
        self._store = store
        self._state = state
        self._journal = journal
        self._records = records
        self._mover = mover
        self._claimed: set[tuple[int, int, int]] = set()  # incarnation, queue, offset: being dealt with

    def count(self, group: str) -> int:
        """Dead letters of a group that are left here."""
        topic = self._state.topics.find(dead_letter_topic(group))
        if topic is None:
            return 0
        left = 0
        for queue in range(topic.queues):
            low, high = self._store.queue_bounds(topic.incarnation << 32 | queue)
            left += max(0, high - max(low, self._state.graves.count(topic.incarnation, queue)))
        return left

    async def listed(
        self, group: str, *, limit: int, after: tuple[int, int] | None, wanted: Filter | None
    ) -> list[DeadLetter]:
        """Oldest first in each queue, from behind (queue, offset) on."""
        found: list[DeadLetter] = []
        async for letter in self._walk(group, after=after, wanted=wanted, ids=None):
            found.append(letter)
            if len(found) >= limit:
                break
        return found

    async def redrive(
        self, group: str, *, limit: int, rate: float, wanted: Filter | None, ids: frozenset[str] | None
    ) -> tuple[int, int]:
        """Send dead letters back to where they came from, for this group alone; (sent back, left where they are because
        their topic is gone)."""
        if not 0 < rate <= RATE_MAX:
            raise BadRequest(f"rate is {rate:g} a second; above 0 up to {RATE_MAX:g} is allowed")
        loop = asyncio.get_running_loop()
        began = loop.time()
        sent = stuck = 0
        grave = self._grave(group)
        async for letter in self._walk(group, after=None, wanted=wanted, ids=ids):
            if sent >= limit:
                break
            origin = self._state.topics.find(letter.topic)
            if origin is None or not origin.queues:
                stuck += 1
                continue
            place = (grave.incarnation, letter.queue, letter.offset)
            if self._taken(place):
                continue  # by another redrive, since the walk came by
            self._claimed.add(place)
            try:
                await self._send_back(group, letter, origin)
            finally:
                self._claimed.discard(place)
            sent += 1
            ahead_s = sent / rate - (loop.time() - began)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        return sent, stuck

    async def _send_back(self, group: str, letter: DeadLetter, origin: Topic) -> None:
        grave = self._state.topics.get(dead_letter_topic(group))
        prefix = letter.message.frame.prefix
        source = Source(
            Reason.REDRIVE, prefix.log_offset, letter.message.number, group, grave.incarnation, letter.queue, letter.offset
        )
        move = Move(
            letter.message,
            source,
            without=frozenset({Field.DEAD_LETTER, Field.DELIVERY_ATTEMPT}),
            without_properties=DLQ_PROPERTIES,
        )
        await self._mover.move(origin, self._queue(origin, letter.message), [move])

    def _queue(self, origin: Topic, message: StoredMessage) -> int:
        """The queue of its message group where there is order; of what remains here otherwise."""
        if origin.type is TopicType.FIFO:
            for field, value in readable_fields(message.block):
                if field == Field.MESSAGE_GROUP:
                    declared = self._state.topics.cluster_queues(origin.name)
                    return declared[message_group_index(readable_text(value), len(declared))][1] % origin.queues
        if origin.type is TopicType.LITE:
            for field, value in readable_fields(message.block):
                if field == Field.LITE_TOPIC:
                    number = self._state.lite.number(origin.incarnation, readable_text(value))
                    if number is not None:
                        return number
        return message.queue_offset % origin.queues

    async def purge(self, group: str, *, limit: int, wanted: Filter | None, ids: frozenset[str] | None) -> int:
        """Throw dead letters away; how many."""
        grave = self._grave(group)
        gone: dict[int, list[int]] = {}
        claimed: set[tuple[int, int, int]] = set()
        try:
            async for letter in self._walk(group, after=None, wanted=wanted, ids=ids):
                place = (grave.incarnation, letter.queue, letter.offset)
                if self._taken(place):
                    continue
                self._claimed.add(place)
                claimed.add(place)
                gone.setdefault(letter.queue, []).append(letter.offset)
                if len(claimed) >= limit:
                    break
            if gone:
                await self._journal.write([{"t": "dead-", "i": grave.incarnation, "e": list(gone.items())}])
        finally:
            self._claimed -= claimed
        return len(claimed)

    def _taken(self, place: tuple[int, int, int]) -> bool:
        return place in self._claimed or self._state.graves.dealt_with(*place)

    def _grave(self, group: str) -> Topic:
        topic = self._state.topics.find(dead_letter_topic(group))
        if topic is None:
            raise TopicNotFound(f"group {group} has no dead letters here")
        return topic

    async def _walk(
        self, group: str, *, after: tuple[int, int] | None, wanted: Filter | None, ids: Iterable[str] | None
    ) -> AsyncIterator[DeadLetter]:
        grave = self._grave(group)
        wanted_ids = frozenset(ids) if ids is not None else None
        looked = 0
        for queue in range(grave.queues):
            if after is not None and queue < after[0]:
                continue
            key = grave.incarnation << 32 | queue
            low, high = self._store.queue_bounds(key)
            start = max(low, self._state.graves.floor(grave.incarnation, queue))
            if after is not None and queue == after[0]:
                start = max(start, after[1] + 1)
            for offset in range(start, high):
                looked += 1
                if looked % A_TURN == 0:
                    await asyncio.sleep(0)
                if self._state.graves.dealt_with(grave.incarnation, queue, offset):
                    continue
                try:
                    decoded = self._records.find(key, offset) or await self._records.load(key, offset)
                except KourouError:
                    continue  # deleted by retention, or damaged: what can't be read can't be shown
                letter = _letter(queue, decoded.message(offset))
                if wanted_ids is not None and letter.message_id not in wanted_ids:
                    continue
                if wanted is None or wanted.matches(*letter.message.filtered_on()):
                    yield letter


def _letter(queue: int, message: StoredMessage) -> DeadLetter:
    topic = reason = ""
    attempts = dead_ms = 0
    tag: str | None = None
    keys: list[str] = []
    for field, value in readable_fields(message.block):
        if field == Field.DEAD_LETTER:
            (size,) = _U16.unpack_from(value)
            topic = value[2 : 2 + size].decode()
        elif field == Field.TAG:
            tag = readable_text(value)
        elif field == Field.KEY:
            keys.append(readable_text(value))
        elif field == Field.PROPERTY:
            name, text = readable_property(value)
            if name == REASON_PROPERTY:
                reason = text
            elif name == TIME_PROPERTY:
                dead_ms = int(text)
            elif name == ATTEMPTS_PROPERTY:
                attempts = int(text)
    return DeadLetter(
        queue, message.queue_offset, message.message_id, topic, attempts, reason, dead_ms or message.store_ms,
        message.born_ms, tag, tuple(keys), len(message.body), message,
    )  # fmt: skip
