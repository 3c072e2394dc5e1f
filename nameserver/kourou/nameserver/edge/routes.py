"""ROUTE, CLUSTER and TOPIC_LIST on the data plane, and ROUTE_CHANGED to whoever watches.

A route looks the same to all who dialled the same address, so it is encoded once for them. A change that touches many
watchers, or one who watches many topics, is pushed in steps, so that the loop is never held: a client waiting for its
turn gets what holds by then, and several changes meanwhile are one push.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Any

from kourou.core import fields, wire
from kourou.core.clock import Clock
from kourou.core.errors import LimitExceeded, TooManyRequests
from kourou.core.limits import JSON_BYTES_MAX
from kourou.core.names import check_topic
from kourou.core.wire import Code, WireMessage
from kourou.nameserver.table import BrokerView, RouteTable
from kourou.transport.server import Handler, Peer

TOPICS_PER_REQUEST_MAX = 10_000
WATCHED_MAX = 100_000  # topics of one connection
PUSH_TOPICS = 100  # of one step: 4 ms on a busy machine (39 us for a route of three groups that is not encoded yet)
PUSH_BYTES = 256 * 1024  # of routes in one message, far below what a client accepts
ENCODED_MAX = 20_000  # routes kept encoded, all of the table's present version
MASTERS_MAX = 1_000  # lists of masters kept encoded, one for each address that clients dial


class RouteHandlers:
    def __init__(self, table: RouteTable, *, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._watched: dict[Peer, set[str]] = {}
        self._pending: dict[Peer, set[str]] = {}  # who has to be told of which topics (none: of the brokers alone)
        self._turn: asyncio.Handle | None = None
        self._encoded: dict[tuple[str, str], bytes | None] = {}  # by what was dialled and topic
        self._encoded_masters: dict[str, bytes] = {}
        self._encoded_version = 0

    def handlers(self) -> dict[int, Handler]:
        return {Code.ROUTE: self.route, Code.CLUSTER: self.cluster, Code.TOPIC_LIST: self.topic_list}

    @property
    def watchers(self) -> int:
        return len(self._watched)

    def route(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="ROUTE")
        topics = [check_topic(topic) for topic in fields.texts(value, "topics", count_max=TOPICS_PER_REQUEST_MAX) or ()]
        watch = fields.flag(value, "watch", False)
        auto_create = b"true" if self._table.auto_create else b"false"
        body = self._answer(peer, topics, more=b',"auto_create":' + auto_create)
        if len(body) > JSON_BYTES_MAX:
            raise LimitExceeded(
                f"the routes of {len(topics)} topics take {len(body)} bytes; the limit is {JSON_BYTES_MAX}: "
                "ask for fewer at a time"
            )
        if watch:
            self._watch(peer, topics)
        peer.reply(message, parts=(body,))

    def cluster(self, peer: Peer, message: WireMessage) -> None:
        views = self._table.brokers(dialled=peer.dialled, now_ms=self._clock.monotonic_ms())
        peer.reply_json(
            message,
            {
                "cluster": self._table.cluster,
                "auto_create": self._table.auto_create,
                "brokers": [_broker_json(view) for view in views],
            },
        )

    def topic_list(self, peer: Peer, message: WireMessage) -> None:
        topics = [
            {
                "topic": topic.name,
                "type": topic.type.value,
                "placement": [[place.broker, place.queues] for place in topic.placement],
                "created_ms": topic.created_ms,
            }
            for topic in self._table.topics()
        ]
        peer.reply_json(message, {"topics": topics})

    # ---- watching

    def push_changes(self) -> None:
        """Tell watchers what has changed since the last call: the first of them now, many in the loop's next turns.
        The owner calls it after each fact."""
        topics, brokers = self._table.take_changed()
        if not topics and not brokers:
            return
        for peer, watched in self._watched.items():
            touched = watched & topics
            if touched or brokers:
                self._pending.setdefault(peer, set()).update(touched)
        if self._turn is None:
            self._push_some()

    def _push_some(self) -> None:
        self._turn = None
        self._forget_old()
        left = PUSH_TOPICS
        while self._pending and left > 0:
            peer, topics = next(iter(self._pending.items()))
            some, size = [], 0
            for topic in islice(topics, left):
                some.append(topic)
                size += len(self._route(peer.dialled, topic) or topic)
                if size >= PUSH_BYTES:
                    break
            topics.difference_update(some)
            if not topics:
                del self._pending[peer]
            left -= len(some) + 1
            peer.push(Code.ROUTE_CHANGED, parts=(self._answer(peer, some),))
        if self._pending:
            self._turn = asyncio.get_running_loop().call_soon(self._push_some)

    def _watch(self, peer: Peer, topics: Iterable[str]) -> None:
        watched = self._watched.get(peer)
        if watched is None:
            watched = self._watched[peer] = set()
            peer.on_close(self._gone)
        if len(watched) + len(set(topics) - watched) > WATCHED_MAX:
            raise TooManyRequests(f"the connection watches {len(watched)} topics; the limit is {WATCHED_MAX}")
        watched.update(topics)

    def _gone(self, peer: Peer) -> None:
        self._watched.pop(peer, None)
        self._pending.pop(peer, None)

    # ---- bodies

    def _answer(self, peer: Peer, topics: Iterable[str], *, more: bytes = b"") -> bytes:
        """``{"routes", "missing", "brokers"}``, put together from encoded parts."""
        self._forget_old()
        routes: list[bytes] = []
        missing: list[str] = []
        for topic in topics:
            found = self._route(peer.dialled, topic)
            if found is None:
                missing.append(topic)
            else:
                routes.append(found)
        parts = (b'{"routes":[', b",".join(routes), b'],"missing":', wire.encode_json(missing), b',"brokers":')
        return b"".join((*parts, self._masters(peer.dialled), more, b"}"))

    def _forget_old(self) -> None:
        """What is encoded holds for one version of the table."""
        full = len(self._encoded) > ENCODED_MAX or len(self._encoded_masters) > MASTERS_MAX
        if full or self._encoded_version != self._table.version:
            self._encoded.clear()
            self._encoded_masters.clear()
            self._encoded_version = self._table.version

    def _route(self, dialled: str, topic: str) -> bytes | None:
        key = (dialled, topic)
        try:
            return self._encoded[key]
        except KeyError:
            route = self._table.route(topic, dialled=dialled)
            encoded = self._encoded[key] = wire.encode_json(route.to_json()) if route is not None else None
            return encoded

    def _masters(self, dialled: str) -> bytes:
        """One entry a broker group that has any member: where to define topics."""
        known = self._encoded_masters.get(dialled)
        if known is not None:
            return known
        groups: dict[str, dict[str, Any]] = {}
        for view in self._table.brokers(dialled=dialled, now_ms=self._clock.monotonic_ms()):
            group = groups.setdefault(view.report.broker, {"broker": view.report.broker, "epoch": 0, "master": None})
            if view.master:
                group["epoch"] = view.report.epoch
                group["master"] = str(view.address)
        encoded = self._encoded_masters[dialled] = wire.encode_json(list(groups.values()))
        return encoded


def _broker_json(view: BrokerView) -> dict[str, Any]:
    report = view.report
    return {
        "broker": report.broker,
        "broker_id": report.broker_id,
        "address": str(view.address),
        "epoch": report.epoch,
        "master": view.master,
        "version": report.version,
        "heard_ms_ago": view.heard_ms_ago,
        "group_epoch": view.group_epoch,
    }
