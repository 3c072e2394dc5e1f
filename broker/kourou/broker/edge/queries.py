"""OFFSETS, RESET and LOOKUP on the data plane."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from struct import Struct
from typing import Any

from kourou.broker.edge.line import in_line, with_list
from kourou.broker.services.lookup import LIMIT_MAX, Hit, LookupService
from kourou.broker.services.positions import PositionService, QueuePosition, parse_start
from kourou.broker.services.resets import Resets
from kourou.core import fields, wire
from kourou.core.errors import BadRequest
from kourou.core.limits import QUEUES_PER_TOPIC_MAX
from kourou.core.names import check_group, check_topic
from kourou.core.wire import Code, WireMessage
from kourou.runtime.turns import Turns
from kourou.transport.server import Handler, Peer

_SIZE = Struct(">I")
PORTION = 64  # queues; a portion is far quicker than a step


class QueryHandlers:
    def __init__(self, positions: PositionService, lookup: LookupService, resets: Resets | None, *, turns: Turns) -> None:
        """``resets``: None where only reading is served."""
        self._positions = positions
        self._lookup = lookup
        self._resets = resets
        self._turns = turns

    def table(self) -> dict[int, Handler]:
        return {Code.OFFSETS: self.offsets, Code.RESET: self.reset, Code.LOOKUP: self.lookup}

    async def offsets(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="OFFSETS")
        find = partial(
            self._positions.positions,
            check_topic(value.get("topic")),
            distinct(value, "queues"),
            group=check_group(value["group"]) if value.get("group") is not None else None,
            client=fields.optional_text(value, "client"),
            time_ms=fields.optional_number(value, "time"),
        )
        async with in_line(peer):
            answer = await self._queues(find(), {})
            if value.get("group") is not None and not await self._positions.is_confirmed():
                answer = await self._queues(find(), {"confirmed": False})
            peer.reply(message, parts=(answer,))

    async def _queues(self, found: Iterable[QueuePosition], head: dict[str, Any]) -> bytes:
        turn = await self._turns.begin()
        queues = (
            {"queue": p.queue, "min": p.min_offset, "max": p.max_offset, "committed": p.committed, "at_time": p.at_time}
            for p in found
        )
        return await with_list(head, "queues", turn.portions(queues, PORTION))

    async def reset(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="RESET")
        group, topic = check_group(value.get("group")), check_topic(value.get("topic"))
        queues = distinct(value, "queues")
        assert self._resets is not None
        moves = await self._resets.reset(group, topic, queues, parse_start(value, "to"))
        peer.reply_json(message, {"queues": [{"queue": queue, "from": old, "to": to} for queue, old, to in moves]})

    async def lookup(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="LOOKUP")
        async with in_line(peer):
            found, data = laid_out(await self._hits(value))
        head = wire.encode_json({"hits": found})
        peer.reply(message, parts=(_SIZE.pack(len(head)), head, *data))

    async def _hits(self, value: dict[str, Any]) -> list[Hit]:
        topic = check_topic(value.get("topic"))
        limit = fields.number(value, "limit", 32, low=1, high=LIMIT_MAX)
        if value.get("id") is not None:
            return await self._lookup.by_id(topic, fields.text(value, "id"))
        if value.get("key") is not None:
            return await self._lookup.by_key(topic, fields.text(value, "key"), limit=limit)
        if value.get("offset") is not None:
            return await self._lookup.by_offset(topic, fields.number(value, "queue"), fields.number(value, "offset"))
        if value.get("time") is not None:
            return await self._lookup.by_time(topic, fields.number(value, "time"), limit=limit)
        raise BadRequest("LOOKUP needs one of the fields 'id', 'key', 'time', or 'queue' and 'offset'")


def laid_out(hits: list[Hit]) -> tuple[list[dict[str, int]], list[bytes]]:
    """Where each hit is in the frames of the answer, which has every frame once; the frames."""
    data: list[bytes] = []
    found: list[dict[str, int]] = []
    at = 0
    places: dict[int, int] = {}
    for hit in hits:
        if hit.log_offset not in places:
            places[hit.log_offset] = at
            data.append(hit.frame)
            at += len(hit.frame)
        found.append({"at": places[hit.log_offset], "record": hit.record})
    return found, data


def distinct(value: dict[str, Any], name: str) -> list[int] | None:
    """The queues that a request is about; None for all."""
    queues = fields.numbers(value, name, count_max=QUEUES_PER_TOPIC_MAX)
    if queues is not None and len(set(queues)) != len(queues):
        raise BadRequest(f"field {name!r} names a queue twice")
    return queues
