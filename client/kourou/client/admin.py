"""Topics, groups, offsets and look-ups: what an administrator asks, over the data plane."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from kourou.client.arguments import check_queues
from kourou.client.cluster import Cluster
from kourou.client.consumer import Start
from kourou.client.damage import Damage
from kourou.client.delivered import DeliveredFrame, ReceivedMessage
from kourou.client.reading import Gap, read_delivery
from kourou.client.recalls import recall
from kourou.core import frame, wire
from kourou.core.errors import (
    Corrupted,
    FrameInvalid,
    GroupNotFound,
    MessageNotFound,
    NotConnected,
    OutcomeUnknown,
    QueueNotFound,
    TopicNotFound,
)
from kourou.core.names import check_group, check_topic
from kourou.core.wire import Code

_SIZE = Struct(">I")
log = logging.getLogger("kourou.client")


@dataclass(frozen=True, slots=True)
class Fetched:
    """Part of a queue."""

    messages: list[ReceivedMessage]
    next_offset: int
    min_offset: int
    max_offset: int
    damaged: list[Damage] = field(default_factory=list)  # what can't be read of it


class Admin:
    """Mixed into ``Client``; every call goes to the brokers that it concerns."""

    @property
    def _cluster(self) -> Cluster:
        raise NotImplementedError

    async def _each(self, code: int, value: object) -> dict[str, dict[str, Any]]:
        """The answers of all brokers, by name. Raises what any of them answers."""
        await self._cluster.refresh_brokers()
        if not self._cluster.masters:
            raise NotConnected("no broker is registered; start one, or wait until it is")
        return {name: await self._cluster.ask_broker(name, code, value) for name in sorted(self._cluster.masters)}

    # ---- topics

    async def create_topic(self, name: str, *, type: str = "normal", queues: int = 8) -> bool:
        """Define a topic; ``queues`` in all, spread over the broker groups. False if it was there already, the same."""
        created = await self._cluster.define_topic(check_topic(name), type, check_queues(queues))
        await self._cluster.await_route(name)
        return created

    async def delete_topic(self, name: str) -> bool:
        """Delete a topic and its messages. False if there was none."""
        answers = await self._each(Code.TOPIC_DELETE, {"topic": check_topic(name)})
        await self._cluster.forget(name)
        return any(answer["deleted"] for answer in answers.values())

    async def topics(self) -> list[dict[str, Any]]:
        answer = await self._cluster.ask_nameserver(Code.TOPIC_LIST, {})
        return list(answer["topics"])

    async def describe_topic(self, name: str) -> dict[str, Any]:
        """Type, placement, and (broker, queue, min, max) of every queue."""
        route = await self._known_route(name)
        queues: list[dict[str, Any]] = []
        first: dict[str, Any] = {}
        for place in route.brokers:
            if not place.queues:
                continue
            answer = await self._cluster.ask_broker(place.broker, Code.TOPIC_DESCRIBE, {"topic": name})
            first = first or answer
            queues += [{"broker": place.broker, **queue} for queue in answer["queues"]]
        return {**first, "queues": queues}

    async def _known_route(self, name: str) -> Any:
        """The route of a topic, which is not created for having been asked about."""
        check_topic(name)
        await self._cluster.forget(name)
        route = self._cluster.routes.get(name)
        if route is None:
            raise TopicNotFound(f"topic {name!r} does not exist")
        return route

    # ---- groups

    async def create_group(
        self,
        name: str,
        *,
        shape: str | None = None,
        fifo: bool = False,
        max_attempts: int = 16,
        retry_s: Sequence[float] | None = None,
    ) -> bool:
        """Define a group on every broker. False if it was there already, the same. ``retry_s``: of a shared group, how long
        to wait before the second delivery, the third, and so on; the last goes on."""
        value: dict[str, Any] = {"group": check_group(name), "shape": shape, "fifo": fifo, "max_attempts": max_attempts}
        if retry_s is not None:
            value["retry"] = [round(seconds * 1000) for seconds in retry_s]
        answers = await self._each(Code.GROUP_CREATE, value)
        return any(answer["created"] for answer in answers.values())

    async def delete_group(self, name: str) -> bool:
        answers = await self._each(Code.GROUP_DELETE, {"group": check_group(name)})
        return any(answer["deleted"] for answer in answers.values())

    async def groups(self) -> list[dict[str, Any]]:
        answers = await self._each(Code.GROUP_LIST, {})
        merged = {group["group"]: group for answer in answers.values() for group in answer["groups"]}
        return [merged[name] for name in sorted(merged)]

    async def describe_group(self, name: str) -> dict[str, Any]:
        """Shape, members with their queues, and of every queue what is committed and how far it lags behind."""
        check_group(name)
        await self._cluster.refresh_brokers()
        found: dict[str, Any] = {}
        members: dict[tuple[str, str], dict[str, Any]] = {}
        queues: list[dict[str, Any]] = []
        for broker in sorted(self._cluster.masters):
            try:
                answer = await self._cluster.ask_broker(broker, Code.GROUP_DESCRIBE, {"group": name})
            except GroupNotFound:
                continue  # it has no queue in use there
            found = found or answer
            for member in answer["members"]:
                known = members.setdefault((member["member"], member["topic"]), {**member, "queues": []})
                known["queues"] += [[broker, queue] for queue in member["queues"]]
            queues += [{"broker": broker, **queue} for queue in answer["queues"]]
        if not found:
            raise GroupNotFound(f"group {name!r} does not exist")
        return {**found, "members": list(members.values()), "queues": queues, "lag": sum(q["lag"] for q in queues)}

    async def reset_offsets(
        self, group: str, topic: str, *, to: Start, queue: int | None = None, broker: str | None = None
    ) -> list[dict[str, Any]]:
        """Have a group read a topic, or one queue of it, from ``to`` on; members that are reading are moved. What was
        and is, by queue. ``broker``: only the queues there."""
        route = await self._known_route(topic)
        moved: list[dict[str, Any]] = []
        value: dict[str, Any] = {"group": check_group(group), "topic": topic, "to": to}
        if queue is not None:
            value["queues"] = [queue]
        places = [place for place in route.brokers if place.queues and broker in (None, place.broker)]
        places = [place for place in places if queue is None or queue < place.queues]
        if not places:
            raise QueueNotFound(f"topic {topic} has no such queue")
        for place in places:
            answer = await self._cluster.ask_broker(place.broker, Code.RESET, value)
            moved += [{"broker": place.broker, **each} for each in answer["queues"]]
        return moved

    async def offsets(
        self, topic: str, *, group: str | None = None, client: str | None = None, time_ms: int | None = None
    ) -> list[dict[str, Any]]:
        """(broker, queue, min, max, committed, at_time, confirmed) of every queue. ``confirmed`` False: a broker group is
        short of members in sync, and what is said to be committed may be undone when another one becomes the master."""
        route = await self._known_route(topic)
        found: list[dict[str, Any]] = []
        value = {"topic": topic, "group": group, "client": client, "time": time_ms}
        for place in route.brokers:
            if place.queues:
                answer = await self._cluster.ask_broker(place.broker, Code.OFFSETS, value)
                confirmed = answer.get("confirmed", True)
                found += [{"broker": place.broker, **queue, "confirmed": confirmed} for queue in answer["queues"]]
        return found

    # ---- messages

    async def recall(self, topic: str, handle: str) -> str:
        """Take a delayed message back, by the ``recall_handle`` of its receipt; its id. Raises InvalidRecallHandle when it
        was delivered, or recalled, before."""
        return await recall(self._cluster, topic, handle)

    async def find(
        self,
        topic: str,
        *,
        id: str | None = None,
        key: str | None = None,
        time_ms: int | None = None,
        broker: str | None = None,
        queue: int | None = None,
        offset: int | None = None,
        limit: int = 32,
    ) -> list[ReceivedMessage]:
        """Messages by id, by key (newest first), by place (queue and offset), or stored from a time on."""
        route = await self._known_route(topic)
        value: dict[str, Any] = {"topic": topic, "limit": limit}
        value |= {"id": id, "key": key, "time": time_ms, "queue": queue, "offset": offset}
        value = {name: given for name, given in value.items() if given is not None}
        found: list[ReceivedMessage] = []
        for place in route.brokers:
            if not place.queues or broker not in (None, place.broker):
                continue
            try:
                found += await self._find(place.broker, value)
            except MessageNotFound:
                continue
        if key is not None:
            found = [message for message in found if key in message.keys]
        if id is not None:
            found = [message for message in found if message.id == id]
        if not found and (id is not None or offset is not None):
            raise MessageNotFound(f"topic {topic} holds no such message")
        found.sort(key=lambda message: message.store_ms, reverse=key is not None)
        return found[:limit]

    async def _find(self, broker: str, value: dict[str, Any]) -> list[ReceivedMessage]:
        connection = await self._cluster.broker(broker)
        message = await connection.ask(Code.LOOKUP, parts=(wire.encode_json(value),), timeout_s=self._cluster.timeout_s)
        (size,) = _SIZE.unpack_from(message.body)
        hits = wire.decode_json(message.body[4 : 4 + size], what="answer to LOOKUP")["hits"]
        frames: dict[int, DeliveredFrame] = {}
        data = message.body[4 + size :]
        for at, prefix in frame.iterate_frames(data):
            try:
                delivered = DeliveredFrame(data, at, prefix, start=0)
                delivered.verify()
                delivered.decode()
            except (Corrupted, FrameInvalid) as failure:
                log.warning("left out: the frame at log offset %d of broker %s: %s", prefix.log_offset, broker, failure)
                continue
            frames[at] = delivered
        found = [(frames[hit["at"]], hit["record"]) for hit in hits if hit["at"] in frames]
        return [ReceivedMessage(delivered, record, broker, delivered.header.queue_id) for delivered, record in found]

    async def fetch(
        self,
        topic: str,
        queue: int,
        offset: int,
        *,
        broker: str | None = None,
        bytes_max: int = 1 << 20,
        wait_ms: int = 0,
    ) -> Fetched:
        """Read part of a queue, without a group."""
        route = await self._known_route(topic)
        name = broker or next((b for b, number in route.queues if number == queue), route.brokers[0].broker)
        connection = await self._cluster.broker(name)
        message = await connection.ask(
            Code.FETCH,
            header=wire.FETCH_REQUEST.pack(offset, queue, bytes_max, wait_ms, 0, 0),
            parts=(topic.encode(),),
            timeout_s=self._cluster.timeout_s + wait_ms / 1000,
        )
        next_offset, low, high = wire.FETCH_ANSWER.unpack(message.header)
        fetched = Fetched([], next_offset, low, high)
        for piece in read_delivery(message.body, start=offset, next_offset=next_offset):
            if isinstance(piece, Gap):
                place = piece.offset, piece.next_offset, piece.log_offset
                fetched.damaged.append(Damage(topic, name, queue, *place, piece.stored_so, piece.reason))
            else:
                fetched.messages.extend(ReceivedMessage(piece, number, name, queue) for number in piece.chosen)
        return fetched

    # ---- the cluster

    async def cluster(self) -> dict[str, Any]:
        """Brokers as the nameserver sees them."""
        return await self._cluster.ask_nameserver(Code.CLUSTER, {})

    async def status(self) -> dict[str, dict[str, Any]]:
        """What each broker says about itself, by name; ``error`` where it can't be asked."""
        await self._cluster.refresh_brokers()
        found: dict[str, dict[str, Any]] = {}
        for name in sorted(self._cluster.masters):
            try:
                async with asyncio.timeout(self._cluster.timeout_s):
                    found[name] = await self._cluster.ask_broker(name, Code.STATUS, {})
            except (NotConnected, OutcomeUnknown, TimeoutError) as failure:
                found[name] = {"error": str(failure)}
        return found
