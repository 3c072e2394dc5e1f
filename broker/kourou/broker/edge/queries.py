"""OFFSETS, RESET and LOOKUP on the data plane."""

from __future__ import annotations

from struct import Struct

from kourou.broker.services.lookup import LIMIT_MAX, LookupService
from kourou.broker.services.positions import PositionService, parse_start
from kourou.broker.services.resets import Resets
from kourou.core import fields, wire
from kourou.core.errors import BadRequest
from kourou.core.names import check_group, check_topic
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer

_SIZE = Struct(">I")
QUEUES_MAX = 100_000


class QueryHandlers:
    def __init__(self, positions: PositionService, lookup: LookupService, resets: Resets) -> None:
        self._positions = positions
        self._lookup = lookup
        self._resets = resets

    def table(self) -> dict[int, Handler]:
        return {Code.OFFSETS: self.offsets, Code.RESET: self.reset, Code.LOOKUP: self.lookup}

    def offsets(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="OFFSETS")
        found = self._positions.positions(
            check_topic(value.get("topic")),
            fields.numbers(value, "queues", count_max=QUEUES_MAX),
            group=check_group(value["group"]) if value.get("group") is not None else None,
            client=fields.optional_text(value, "client"),
            time_ms=fields.optional_number(value, "time"),
        )
        queues = [
            {"queue": p.queue, "min": p.min_offset, "max": p.max_offset, "committed": p.committed, "at_time": p.at_time}
            for p in found
        ]
        peer.reply_json(message, {"queues": queues})

    async def reset(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="RESET")
        group, topic = check_group(value.get("group")), check_topic(value.get("topic"))
        queues = fields.numbers(value, "queues", count_max=QUEUES_MAX)
        moves = await self._resets.reset(group, topic, queues, parse_start(value, "to"))
        peer.reply_json(message, {"queues": [{"queue": queue, "from": old, "to": to} for queue, old, to in moves]})

    async def lookup(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="LOOKUP")
        topic = check_topic(value.get("topic"))
        limit = fields.number(value, "limit", 32, low=1, high=LIMIT_MAX)
        if value.get("id") is not None:
            hits = await self._lookup.by_id(topic, fields.text(value, "id"))
        elif value.get("key") is not None:
            hits = await self._lookup.by_key(topic, fields.text(value, "key"), limit=limit)
        elif value.get("offset") is not None:
            hits = await self._lookup.by_offset(topic, fields.number(value, "queue"), fields.number(value, "offset"))
        elif value.get("time") is not None:
            hits = await self._lookup.by_time(topic, fields.number(value, "time"), limit=limit)
        else:
            raise BadRequest("LOOKUP needs one of the fields 'id', 'key', 'time', or 'queue' and 'offset'")
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
        head = wire.encode_json({"hits": found})
        peer.reply(message, parts=(_SIZE.pack(len(head)), head, *data))
