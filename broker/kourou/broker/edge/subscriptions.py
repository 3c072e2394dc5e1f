"""SUBSCRIBE, CREDIT, COMMIT, SEEK, PAUSE, and the pushes DELIVER, ASSIGN, REVOKE on the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kourou.broker.services.delivery import Cursor, DeliveryService, Generation
from kourou.broker.services.positions import parse_start
from kourou.broker.services.subscriptions import TAGS_MAX, SubscriptionService
from kourou.core import fields, wire
from kourou.core.errors import BadRequest, KourouError, NotConnected
from kourou.core.frame import Buffer
from kourou.core.names import check_client_id, check_group, check_topic
from kourou.core.wire import Code, WireMessage
from kourou.transport.server import Handler, Peer

COMMIT_ENTRIES_MAX = 10_000
QUEUES_PER_PUSH = 2_000  # of one ASSIGN: far below what a JSON body may hold


class PeerSubscriber:
    """A connection as the services see it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.client_id = peer.client_id
        self.remote = peer.remote

    @property
    def heard_at(self) -> float:
        return self._peer.heard_at

    @property
    def writable(self) -> bool:
        return self._peer.writable

    @property
    def closed(self) -> bool:
        return self._peer.closed

    def deliver(self, subscription: int, cursor: Cursor, parts: Sequence[Buffer], next_offset: int) -> None:
        epoch, number = cursor.generation
        header = wire.DELIVER_HEAD.pack(subscription, cursor.queue_id, epoch, number, cursor.session, next_offset)
        self._peer.push(Code.DELIVER, header=header, parts=parts)

    def elsewhere(self, subscription: int, cursor: Cursor, replicas: Sequence[int]) -> None:
        epoch, number = cursor.generation
        place = {"queue": cursor.queue_id, "epoch": epoch, "n": number, "session": cursor.session, "offset": cursor.offset}
        self._peer.push_json(Code.ELSEWHERE, {"subscription": subscription, **place, "replicas": list(replicas)})

    def failed(self, subscription: int, cursor: Cursor, failure: KourouError) -> None:
        epoch, number = cursor.generation
        self._peer.push_json(
            Code.REVOKE,
            {
                "subscription": subscription,
                "queues": [{"queue": cursor.queue_id, "epoch": epoch, "n": number}],
                "deadline_ms": 0,
                "error": {"code": failure.code, "message": str(failure)},
            },
        )

    def assigned(self, subscription: int, cursors: Sequence[Cursor]) -> None:
        queues = [
            {
                "queue": cursor.queue_id,
                "epoch": cursor.generation[0],
                "n": cursor.generation[1],
                "session": cursor.session,
                "offset": cursor.offset,
            }
            for cursor in cursors
        ]
        for first in range(0, len(queues), QUEUES_PER_PUSH):
            some = queues[first : first + QUEUES_PER_PUSH]
            self._peer.push_json(Code.ASSIGN, {"subscription": subscription, "queues": some})

    def revoked(
        self,
        subscription: int,
        queues: Sequence[tuple[int, Generation]],
        deadline_ms: int,
        released: Callable[[], None],
    ) -> None:
        value = {
            "subscription": subscription,
            "queues": [{"queue": queue, "epoch": epoch, "n": number} for queue, (epoch, number) in queues],
            "deadline_ms": deadline_ms,
        }
        if deadline_ms == 0:
            self._peer.push_json(Code.REVOKE, value)
            return

        def answered(future: asyncio.Future[WireMessage]) -> None:
            if not future.cancelled() and not isinstance(future.exception(), NotConnected):
                released()  # an error answer lets go too: the client knows no such subscription

        self._peer.request_json(Code.REVOKE, value).add_done_callback(answered)


class SubscriptionHandlers:
    def __init__(self, subscriptions: SubscriptionService, delivery: DeliveryService, *, auto_create: bool) -> None:
        self._subscriptions = subscriptions
        self._delivery = delivery
        self._auto_create = auto_create
        self._subscribers: dict[Peer, PeerSubscriber] = {}

    def table(self) -> dict[int, Handler]:
        return {
            Code.SUBSCRIBE: self.subscribe,
            Code.UNSUBSCRIBE: self.unsubscribe,
            Code.CREDIT: self.credit,
            Code.COMMIT: self.commit,
            Code.SEEK: self.seek,
            Code.PAUSE: self.pause,
        }

    def _subscriber(self, peer: Peer) -> PeerSubscriber:
        subscriber = self._subscribers.get(peer)
        if subscriber is None:
            subscriber = self._subscribers[peer] = PeerSubscriber(peer)
            peer.on_close(self._closed)
            peer.on_writable(self._writable)
        return subscriber

    def _closed(self, peer: Peer) -> None:
        subscriber = self._subscribers.pop(peer, None)
        if subscriber is not None:
            self._subscriptions.closed(subscriber)

    def _writable(self, peer: Peer) -> None:
        subscriber = self._subscribers.get(peer)
        if subscriber is not None:
            for subscription in self._subscriptions.of(subscriber):
                self._delivery.writable(subscription)

    async def subscribe(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="SUBSCRIBE")
        begin = await self._subscriptions.subscribe(
            self._subscriber(peer),
            group=check_group(value.get("group")),
            topic=check_topic(value.get("topic")),
            mode=fields.choice(value, "mode", ("stream", "broadcast"), "stream"),
            member=check_client_id(value.get("member") or peer.client_id),
            start=parse_start(value, "start", "earliest"),
            tags=fields.texts(value, "tags", count_max=TAGS_MAX),
            credit=fields.number(value, "credit", 0, high=(1 << 31) - 1),
            auto_create=self._auto_create,
            may_leave=fields.flag(value, "slave_reads", False),
        )
        if peer.closed:
            return
        begin(lambda number: peer.reply_json(message, {"subscription": number}))

    def unsubscribe(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="UNSUBSCRIBE")
        number = fields.number(value, "subscription")
        self._subscriptions.get(self._subscriber(peer), number)
        self._subscriptions.unsubscribe(number)
        peer.reply_json(message, {})

    def credit(self, peer: Peer, message: WireMessage) -> None:
        if len(message.header) != wire.CREDIT_HEAD.size:
            raise BadRequest(f"CREDIT has a header of {len(message.header)} bytes, not {wire.CREDIT_HEAD.size}")
        number, count = wire.CREDIT_HEAD.unpack(message.header)
        self._delivery.grant(self._subscriptions.get(self._subscriber(peer), number), count)

    def commit(self, peer: Peer, message: WireMessage) -> None:
        if len(message.header) != wire.COMMIT_REQUEST.size:
            raise BadRequest(f"COMMIT has a header of {len(message.header)} bytes, not {wire.COMMIT_REQUEST.size}")
        number, count = wire.COMMIT_REQUEST.unpack(message.header)
        if count > COMMIT_ENTRIES_MAX or len(message.body) != count * wire.COMMIT_ENTRY.size:
            raise BadRequest(f"COMMIT says {count} entries (at most {COMMIT_ENTRIES_MAX}) in {len(message.body)} bytes")
        entries = [(queue, (epoch, n), offset) for queue, epoch, n, offset in wire.COMMIT_ENTRY.iter_unpack(message.body)]

        def done(fenced: list[int], failure: KourouError | None) -> None:
            if failure is not None:
                peer.reply_error(message, failure)
            else:
                peer.reply_json(message, {"fenced": fenced})

        self._subscriptions.commit(self._subscriber(peer), number, entries, done)

    def seek(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="SEEK")
        self._subscriptions.seek(
            self._subscriber(peer),
            fields.number(value, "subscription"),
            fields.number(value, "queue"),
            parse_start(value, "to"),
            lambda session, offset: peer.reply_json(message, {"session": session, "offset": offset}),
            stay=fields.flag(value, "stay", False),
        )

    def pause(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="PAUSE")
        subscription = self._subscriptions.get(self._subscriber(peer), fields.number(value, "subscription"))
        paused = fields.flag(value, "paused", True)
        queues = fields.numbers(value, "queues", count_max=10_000)
        for queue in list(subscription.cursors) if queues is None else queues:
            self._delivery.pause(subscription, queue, paused)
        peer.reply_json(message, {})
