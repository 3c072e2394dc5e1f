"""ROUTE, CLUSTER, TOPIC_LIST and STATUS on the data plane, and ROUTE_CHANGED to whoever watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kourou.core import fields, wire
from kourou.core.clock import Clock
from kourou.core.errors import TooManyRequests
from kourou.core.names import check_topic
from kourou.core.wire import Code, WireMessage
from kourou.nameserver.table import BrokerView, RouteTable
from kourou.transport.server import Handler, Peer

TOPICS_PER_REQUEST_MAX = 10_000
WATCHED_MAX = 100_000  # topics of one connection


class RouteHandlers:
    def __init__(self, table: RouteTable, *, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._watched: dict[Peer, set[str]] = {}

    def handlers(self) -> dict[int, Handler]:
        return {Code.ROUTE: self.route, Code.CLUSTER: self.cluster, Code.TOPIC_LIST: self.topic_list}

    def route(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="ROUTE")
        topics = [check_topic(topic) for topic in fields.texts(value, "topics", count_max=TOPICS_PER_REQUEST_MAX) or ()]
        if fields.flag(value, "watch", False):
            self._watch(peer, topics)
        answer = self._routes(peer, topics)
        answer["auto_create"] = self._table.auto_create
        answer["brokers"] = self._masters(peer)
        peer.reply_json(message, answer)

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

    def push_changes(self) -> None:
        """Tell watchers what has changed since the last call. The owner calls it after each fact."""
        topics, brokers = self._table.take_changed()
        if not topics and not brokers:
            return
        for peer, watched in list(self._watched.items()):
            touched = watched & topics
            if touched or brokers:
                value = self._routes(peer, sorted(touched))
                value["brokers"] = self._masters(peer)
                peer.push_json(Code.ROUTE_CHANGED, value)

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

    def _routes(self, peer: Peer, topics: Iterable[str]) -> dict[str, Any]:
        routes: list[dict[str, Any]] = []
        missing: list[str] = []
        for topic in topics:
            found = self._table.route(topic, dialled=peer.dialled)
            if found is None:
                missing.append(topic)
            else:
                routes.append(found.to_json())
        return {"routes": routes, "missing": missing}

    def _masters(self, peer: Peer) -> list[dict[str, Any]]:
        """One entry a broker group that has any member: where to define topics."""
        groups: dict[str, dict[str, Any]] = {}
        for view in self._table.brokers(dialled=peer.dialled, now_ms=self._clock.monotonic_ms()):
            group = groups.setdefault(view.report.broker, {"broker": view.report.broker, "epoch": 0, "master": None})
            if view.master:
                group["epoch"] = view.report.epoch
                group["master"] = str(view.address)
        return list(groups.values())


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
    }
