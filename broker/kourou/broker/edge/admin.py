"""Topics, groups and status on the data plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kourou.broker.edge.line import in_line, with_list
from kourou.broker.services.admin import AdminService
from kourou.core import fields, wire
from kourou.core.errors import BadRequest
from kourou.core.limits import QUEUES_PER_TOPIC_MAX
from kourou.core.names import check_broker, check_group, check_topic
from kourou.core.retry import RetryPolicy
from kourou.core.route import GroupShape, Placement, TopicType
from kourou.core.wire import Code, WireMessage
from kourou.runtime.turns import Turns
from kourou.transport.server import Handler, Peer

BROKERS_MAX = 1_024
ATTEMPTS_MAX = 1_000
PORTION = 64  # queues described at a time
TYPES = tuple(kind.value for kind in TopicType)


class AdminHandlers:
    def __init__(self, admin: AdminService, *, status: Callable[[], dict[str, Any]], turns: Turns) -> None:
        self._admin = admin
        self._turns = turns
        self._status = status

    def table(self) -> dict[int, Handler]:
        return {
            Code.TOPIC_CREATE: self.topic_create,
            Code.TOPIC_DELETE: self.topic_delete,
            Code.TOPIC_LIST: self.topic_list,
            Code.TOPIC_DESCRIBE: self.topic_describe,
            Code.GROUP_CREATE: self.group_create,
            Code.GROUP_DELETE: self.group_delete,
            Code.GROUP_LIST: self.group_list,
            Code.GROUP_DESCRIBE: self.group_describe,
            Code.STATUS: self.status,
        }

    async def topic_create(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="TOPIC_CREATE")
        created, topic = await self._admin.create_topic(
            check_topic(value.get("topic")),
            TopicType(fields.choice(value, "type", TYPES, "normal")),
            parse_placement(value.get("placement")),
            automatic=fields.flag(value, "auto", False),
        )
        peer.reply_json(message, {"created": created, "incarnation": topic.incarnation})

    async def topic_delete(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="TOPIC_DELETE")
        peer.reply_json(message, {"deleted": await self._admin.delete_topic(check_topic(value.get("topic")))})

    def topic_list(self, peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, {"topics": self._admin.topics()})

    async def topic_describe(self, peer: Peer, message: WireMessage) -> None:
        topic = check_topic(wire.decode_json(message.body, what="TOPIC_DESCRIBE").get("topic"))
        async with in_line(peer):
            await self._describe(peer, message, *self._admin.describe_topic(topic))

    async def group_create(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="GROUP_CREATE")
        shape = value.get("shape")
        created = await self._admin.create_group(
            check_group(value.get("group")),
            GroupShape(fields.choice(value, "shape", ("stream", "shared"))) if shape is not None else None,
            fifo=fields.flag(value, "fifo", False),
            max_attempts=fields.number(value, "max_attempts", 16, low=1, high=ATTEMPTS_MAX),
            automatic=fields.flag(value, "auto", False),
            retry=RetryPolicy.from_json(value["retry"]) if value.get("retry") is not None else None,
        )
        peer.reply_json(message, {"created": created})

    async def group_delete(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="GROUP_DELETE")
        peer.reply_json(message, {"deleted": await self._admin.delete_group(check_group(value.get("group")))})

    def group_list(self, peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, {"groups": self._admin.groups()})

    async def group_describe(self, peer: Peer, message: WireMessage) -> None:
        group = check_group(wire.decode_json(message.body, what="GROUP_DESCRIBE").get("group"))
        async with in_line(peer):
            await self._describe(peer, message, *self._admin.describe_group(group))

    async def _describe(
        self, peer: Peer, message: WireMessage, value: dict[str, Any], queues: Iterable[dict[str, Any]]
    ) -> None:
        turn = await self._turns.begin()
        peer.reply(message, parts=(await with_list(value, "queues", turn.portions(queues, PORTION)),))

    def status(self, peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, self._status())


def parse_placement(value: object) -> tuple[Placement, ...]:
    """``[[broker, queues], …]``: at least one queue somewhere, each broker once."""
    if not isinstance(value, list) or not 0 < len(value) <= BROKERS_MAX:
        raise BadRequest(f"field 'placement' must be a list of 1 to {BROKERS_MAX} pairs [broker, queues]")
    placement: list[Placement] = []
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 2:
            raise BadRequest("field 'placement' must hold pairs [broker, queues]")
        count = fields.number({"queues": entry[1]}, "queues", low=0, high=QUEUES_PER_TOPIC_MAX)
        placement.append(Placement(check_broker(entry[0]), count))
    if len({p.broker for p in placement}) != len(placement):
        raise BadRequest("field 'placement' names a broker twice")
    total = sum(p.queues for p in placement)
    if not 0 < total <= QUEUES_PER_TOPIC_MAX:
        raise BadRequest(f"field 'placement' has {total} queues; from 1 to {QUEUES_PER_TOPIC_MAX} are allowed")
    return tuple(sorted(placement, key=lambda p: p.broker))
