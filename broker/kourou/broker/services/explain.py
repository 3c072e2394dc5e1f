"""One message's whole life, by id or key: produced, stored, delivered to whom, put off, acknowledged, given up.

What is told is read from the log itself: the message's frame, the frames of decisions behind it, and its copies. So it is
there as long as the log is, after restarts too. How much of the log is searched is bounded, and said.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from kourou.broker.machines.shared import RENEWED, UNCOUNTED
from kourou.broker.services.deadletters import PREFIX
from kourou.broker.services.journal import Journal
from kourou.broker.services.lookup import Hit, LookupService
from kourou.broker.services.records import DecodedFrame, StoredMessage
from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Store
from kourou.core import frame
from kourou.core.errors import KourouError, MessageNotFound
from kourou.core.frame import HALF, MOVED, PREFIX_SIZE, Column, Kind
from kourou.core.records import Field, readable_fields
from kourou.core.sources import Reason, decode_source

METADATA_KEY = 0
SEARCHED_BYTES_MAX = 64 * 1024 * 1024  # of decisions behind a message
FRAMES_A_STEP = 256
EVENTS_MAX = 1_000
MESSAGES_MAX = 16


@dataclass(slots=True)
class Life:
    facts: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True  # False: the log behind it was too long to be searched to its end

    def to_json(self) -> dict[str, Any]:
        return {**self.facts, "events": self.events, "complete": self.complete}


class ExplainService:
    def __init__(
        self, store: Store, state: BrokerState, journal: Journal, lookup: LookupService, *, read_executor: Executor
    ) -> None:
        self._store = store
        self._state = state
        self._journal = journal
        self._lookup = lookup
        self._executor = read_executor

    async def explain(self, topic: str, *, message_id: str | None, key: str | None) -> list[Life]:
        """Raises TopicNotFound, MessageNotFound."""
        if message_id is not None:
            hits = await self._lookup.by_id(topic, message_id)
        else:
            hits = await self._lookup.by_key(topic, key or "", limit=MESSAGES_MAX)
        lives: list[Life] = []
        for hit in hits[:MESSAGES_MAX]:
            life = await self._life(topic, hit)
            await self._dead_letters(life)
            lives.append(life)
        if not lives:
            raise MessageNotFound(f"topic {topic} holds no message with key {(key or '')[:80]!r}")
        return lives

    async def _life(self, topic: str, hit: Hit) -> Life:
        prefix, header = frame.parse_prefix(hit.frame), frame.parse_sealed(hit.frame, PREFIX_SIZE)
        message = StoredMessage(DecodedFrame(prefix, header, hit.frame, PREFIX_SIZE), hit.record)
        waits = bool(header.columns & Column.DUE_TIMES or header.attributes & HALF) and not header.attributes & MOVED
        life = Life(
            {
                "id": message.message_id,
                "topic": topic,
                "queue": header.queue_id,
                "offset": None if waits else message.queue_offset,
                "log_offset": prefix.log_offset,
                "epoch": prefix.epoch,
                "size": len(message.body),
                "state": {},
            }
        )
        event = life.events.append
        event({"ms": message.born_ms, "event": "produced", "producer": f"{header.producer_id:016x}"})
        event({"ms": prefix.store_ms, "event": "stored", "broker": self._lookup.broker, "log_offset": prefix.log_offset})
        place = prefix.log_offset, hit.record
        if header.attributes & MOVED:
            self._where_from(message, life)
        if waits:
            self._waiting(place, header, life, hit)
        else:
            incarnation, queue, offset = prefix.incarnation, header.queue_id, message.queue_offset
            life.complete = await self._decisions(incarnation, queue, offset, prefix.log_offset, life)
            self._groups(prefix.incarnation, header.queue_id, message.queue_offset, life)
        life.events.sort(key=lambda entry: entry["ms"])
        return life

    def _where_from(self, message: StoredMessage, life: Life) -> None:
        for number, value in readable_fields(message.block):
            if number == Field.SOURCE:
                source = decode_source(value)
                life.facts["copy_of"] = {"log_offset": source.log_offset, "record": source.record}
                name = Reason(source.reason).name.lower()
                life.events[-1] = {**life.events[-1], "event": _BORN_AS.get(name, name)}

    def _waiting(self, place: tuple[int, int], header: frame.SealedHeader, life: Life, hit: Hit) -> None:
        if header.columns & Column.DUE_TIMES:
            due = frame.column(hit.frame, PREFIX_SIZE, header, Column.DUE_TIMES)
            waiting = self._state.timers.find(place) is not None
            life.facts["due_ms"] = due[place[1]] if due is not None else None
            life.facts["state"]["timer"] = "waiting" if waiting else "delivered or recalled"
        else:
            half = self._state.transactions.find(place)
            if half is not None:
                life.facts["state"]["transaction"] = f"undecided, asked {half.checks} times"
            else:
                life.facts["state"]["transaction"] = self._state.transactions.decision(place) or "decided"

    async def _decisions(self, incarnation: int, queue: int, offset: int, log_offset: int, life: Life) -> bool:
        """Go through the metadata frames behind a message; False when there was too much of it."""
        searched = 0
        _, high = self._store.queue_bounds(METADATA_KEY)
        at = self._store.offset_at_time(METADATA_KEY, life.events[1]["ms"])
        while at < high:
            refs = self._store.index.refs(METADATA_KEY, at, limit=FRAMES_A_STEP)
            if not refs:
                break
            at = refs[-1].queue_offset + refs[-1].count
            below = self._journal.confirmed
            wanted = [ref for ref in refs if ref.log_offset + ref.size > log_offset and ref.log_offset < below]
            searched += sum(ref.size for ref in wanted)
            if searched > SEARCHED_BYTES_MAX or len(life.events) > EVENTS_MAX:
                return False
            places = [ref.log_offset for ref in wanted]
            for ms, record in await asyncio.get_running_loop().run_in_executor(self._executor, self._read, places):
                self._look_at(record, ms, incarnation, queue, offset, life)
        return True

    def _read(self, places: list[int]) -> list[tuple[int, dict[str, Any]]]:
        """In a thread."""
        found: list[tuple[int, dict[str, Any]]] = []
        for place in places:
            try:
                found += _records(self._store.read_frame(place))
            except KourouError:
                continue  # damaged, or deleted meanwhile; 'kourou log verify' names it
        return found

    @staticmethod
    def _look_at(record: dict[str, Any], ms: int, incarnation: int, queue: int, offset: int, life: Life) -> None:
        if record.get("i") != incarnation:
            return
        add, group = life.events.append, record.get("g")
        match record.get("t"):
            case "out" if record["q"] == queue and offset in record["o"]:
                attempt = record["a"][record["o"].index(offset)] if "a" in record else 1
                add(
                    {
                        "ms": ms,
                        "event": "delivered",
                        "group": group,
                        "client": record.get("c", ""),
                        "attempt": attempt,
                        "until_ms": record["d"],
                    }
                )
            case "ack" if any(place == queue and offset in offsets for place, offsets in record["e"]):
                add({"ms": ms, "event": "acknowledged", "group": group})
            case "due":
                for place, which, due_ms, mode in record["e"]:
                    if place == queue and which == offset:
                        name = {RENEWED: "renewed", UNCOUNTED: "suspended"}.get(mode, "put off")
                        add({"ms": ms, "event": name, "group": group, "until_ms": due_ms})
            case "pos" if any(place == queue for place, _ in record["e"]):
                add({"ms": ms, "event": "group set to a place", "group": group})
            case "offsets" if record.get("c") is None and any(
                place == queue and to == offset + 1 for place, to in record["o"]
            ):
                add({"ms": ms, "event": "committed", "group": group})

    def _groups(self, incarnation: int, queue: int, offset: int, life: Life) -> None:
        """What each group that reads the topic thinks of the message now."""
        states = life.facts["state"]
        for group in self._state.groups.all():
            ledger = self._state.shared.find(group.name, incarnation, queue)
            committed = self._state.offsets.committed(group.name, incarnation, queue)
            if ledger is not None:
                if offset in ledger.open:
                    states[group.name] = f"delivered (attempt {ledger.lease(offset).attempt}), not acknowledged"
                elif offset in ledger.parked:
                    states[group.name] = "waits for an earlier message of its message group"
                else:
                    states[group.name] = "settled" if offset < ledger.next else "not delivered yet"
            elif committed is not None:
                states[group.name] = "committed" if offset < committed else "not committed yet"

    # ---- copies in dead letter topics

    async def _dead_letters(self, life: Life) -> None:
        for group in list(life.facts["state"]):
            if self._state.topics.find(f"{PREFIX}{group}") is None:
                continue
            try:
                hits = await self._lookup.by_id(f"{PREFIX}{group}", life.facts["id"])
            except KourouError:
                continue
            for hit in hits:
                prefix = frame.parse_prefix(hit.frame)
                if _source_of(hit) != life.facts["log_offset"]:
                    continue
                life.events.append({"ms": prefix.store_ms, "event": "dead-lettered", "group": group})
                life.facts["state"][group] = f"dead letter in {PREFIX}{group}"
        life.events.sort(key=lambda entry: entry["ms"])


_BORN_AS = {
    "timer": "delivered by its timer",
    "commit": "committed",
    "dead_letter": "dead-lettered",
    "redrive": "redriven",
}


def _source_of(hit: Hit) -> int | None:
    """Log offset of the frame whose message a copy was made of."""
    prefix, header = frame.parse_prefix(hit.frame), frame.parse_sealed(hit.frame, PREFIX_SIZE)
    message = StoredMessage(DecodedFrame(prefix, header, hit.frame, PREFIX_SIZE), hit.record)
    for number, value in readable_fields(message.block):
        if number == Field.SOURCE:
            return decode_source(value).log_offset
    return None


def _records(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    prefix, header = frame.parse_prefix(data), frame.parse_sealed(data, PREFIX_SIZE)
    if header.kind != Kind.METADATA:
        return
    bounds = frame.record_bounds(data, PREFIX_SIZE, header)
    start = PREFIX_SIZE + header.records_at
    for at, end in pairwise(bounds):
        yield prefix.store_ms, json.loads(data[start + at : start + end])
