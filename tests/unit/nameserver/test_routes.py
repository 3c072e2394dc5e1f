"""ROUTE, CLUSTER and the pushes, with peers that only write down what they are sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from kourou.core import wire
from kourou.core.clock import ManualClock
from kourou.core.errors import BadRequest, IllegalName, LimitExceeded, TooManyRequests
from kourou.core.route import Placement, TopicRoute, TopicType
from kourou.core.wire import Code, WireMessage
from kourou.nameserver.edge import routes as routes_module
from kourou.nameserver.edge.routes import RouteHandlers
from kourou.nameserver.table import BrokerReport, RouteTable, TopicDefinition
from kourou.transport.server import Peer


class FakePeer:
    def __init__(self, dialled: str = "ns:9876") -> None:
        self.dialled = dialled
        self.answers: list[dict[str, Any]] = []
        self.pushed: list[dict[str, Any]] = []
        self._on_close: list[Callable[[Peer], None]] = []

    def reply(self, message: WireMessage, *, header: bytes = b"", parts: Iterable[bytes] = ()) -> None:
        self.answers.append(json.loads(b"".join(parts)))

    def reply_json(self, message: WireMessage, value: object) -> None:
        self.reply(message, parts=(wire.encode_json(value),))

    def push(self, code: int, *, header: bytes = b"", parts: Iterable[bytes] = ()) -> None:
        assert code == Code.ROUTE_CHANGED
        self.pushed.append(json.loads(b"".join(parts)))

    def on_close(self, callback: Callable[[Peer], None]) -> None:
        self._on_close.append(callback)

    def close(self) -> None:
        for callback in self._on_close:
            callback(cast(Peer, self))


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.table = RouteTable(cluster="kourou", auto_create=True)
        self.handlers = RouteHandlers(self.table, clock=self.clock)

    def register(self, broker: str, *topics: str, stream: int, source: str | None = "10.0.0.5") -> None:
        definitions = tuple(TopicDefinition(t, TopicType.NORMAL, (Placement(broker, 2),), 1) for t in topics)
        report = BrokerReport(broker, 0, 1, True, "auto", 10911, "1", definitions)
        self.table.registered(report, source=source, stream=stream, now_ms=self.clock.monotonic_ms())
        self.handlers.push_changes()

    def ask(self, peer: FakePeer, code: Code, value: object) -> dict[str, Any]:
        message = WireMessage(code, 0, 1, memoryview(b""), memoryview(wire.encode_json(value)))
        handler = self.handlers.handlers()[code]
        assert handler(cast(Peer, peer), message) is None
        return peer.answers[-1]

    def watch(self, peer: FakePeer, *topics: str) -> dict[str, Any]:
        return self.ask(peer, Code.ROUTE, {"topics": list(topics), "watch": True})


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_route_answer(desk: Desk) -> None:
    desk.register("b1", "orders", stream=1)
    answer = desk.ask(FakePeer(), Code.ROUTE, {"topics": ["orders", "other"]})
    assert set(answer) == {"routes", "missing", "brokers", "auto_create"}
    (route,) = answer["routes"]
    assert TopicRoute.from_json(route) == desk.table.route("orders", dialled="ns:9876")
    assert answer["missing"] == ["other"]
    assert answer["auto_create"] is True
    assert answer["brokers"] == [{"broker": "b1", "epoch": 1, "master": "10.0.0.5:10911"}]


def test_each_asker_is_told_the_address_it_can_reach(desk: Desk) -> None:
    desk.register("b1", "orders", stream=1, source="127.0.0.1")
    for dialled in ("localhost:9876", "10.0.0.1:9876", "localhost:9876"):
        answer = desk.ask(FakePeer(dialled), Code.ROUTE, {"topics": ["orders"]})
        told = dialled.replace("9876", "10911")
        assert answer["routes"][0]["brokers"][0]["master"] == told
        assert answer["brokers"][0]["master"] == told
        cluster = desk.ask(FakePeer(dialled), Code.CLUSTER, {})
        assert cluster["brokers"][0]["address"] == told


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"topics": "orders"}, BadRequest),
        ({"topics": [1]}, BadRequest),
        ({"topics": ["../etc"]}, IllegalName),
        ({"topics": [""]}, IllegalName),
        ({"topics": ["x" * 128]}, IllegalName),
        ({"topics": ["orders"], "watch": "yes"}, BadRequest),
        ({"topics": ["t"] * 10_001}, BadRequest),
    ],
)
def test_bad_requests_change_nothing(desk: Desk, value: object, error: type[Exception]) -> None:
    peer = FakePeer()
    with pytest.raises(error):
        desk.ask(peer, Code.ROUTE, value)
    desk.register("b1", "orders", stream=1)
    assert (peer.answers, peer.pushed) == ([], [])


def test_an_answer_that_no_client_would_take_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "JSON_BYTES_MAX", 500)
    names = [f"topic-{n}" for n in range(10)]
    desk.register("b1", *names, stream=1)
    with pytest.raises(LimitExceeded, match="ask for fewer"):
        desk.watch(FakePeer(), *names)
    assert desk.handlers.watchers == 0


def test_watchers_hear_of_their_topics_alone(desk: Desk) -> None:
    """Missing ones too; those who don't watch hear nothing."""
    desk.register("b1", "orders", stream=1)
    watcher, other, asker = FakePeer(), FakePeer(), FakePeer()
    desk.watch(watcher, "orders", "bills")
    desk.watch(other, "else")
    desk.ask(asker, Code.ROUTE, {"topics": ["bills"]})
    desk.register("b1", "orders", "bills", stream=1)
    (push,) = watcher.pushed
    assert [route["topic"] for route in push["routes"]] == ["bills"]
    assert (push["missing"], push["brokers"][0]["broker"]) == ([], "b1")
    desk.register("b1", "bills", stream=1)
    assert watcher.pushed[1]["missing"] == ["orders"]
    assert (other.pushed, asker.pushed) == ([], [])


def test_all_watchers_hear_of_brokers(desk: Desk) -> None:
    peer = FakePeer()
    desk.watch(peer)
    desk.register("b1", "orders", stream=1)
    desk.table.closed(1, now_ms=0)
    desk.handlers.push_changes()
    assert [push["brokers"] for push in peer.pushed] == [
        [{"broker": "b1", "epoch": 1, "master": "10.0.0.5:10911"}],
        [],
    ]


def test_a_closed_peer_is_forgotten(desk: Desk) -> None:
    peer = FakePeer()
    desk.watch(peer, "orders")
    assert desk.handlers.watchers == 1
    peer.close()
    desk.register("b1", "orders", stream=1)
    assert (desk.handlers.watchers, peer.pushed) == (0, [])


def test_watching_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "WATCHED_MAX", 2)
    peer = FakePeer()
    desk.watch(peer, "a", "b")
    desk.watch(peer, "b", "a")
    with pytest.raises(TooManyRequests):
        desk.watch(peer, "c")


async def test_many_watchers_are_told_in_steps(desk: Desk) -> None:
    """One step does not reach all; the loop's next turns do. Each is told what holds by then, once."""
    desk.register("b1", "orders", stream=1)
    peers = [FakePeer() for _ in range(routes_module.PUSH_TOPICS * 2)]
    for peer in peers:
        desk.watch(peer, "orders")
    desk.register("b1", stream=1)
    told = sum(bool(peer.pushed) for peer in peers)
    assert 0 < told < len(peers)
    desk.register("b1", "orders", stream=1)  # back again, while most wait for their turn
    while desk.handlers._pending:
        await asyncio.sleep(0)
    late = [peer for peer in peers if len(peer.pushed) == 1]
    assert late, "changes that came meanwhile are one push"
    for peer in peers:
        assert [route["topic"] for route in peer.pushed[-1]["routes"]] == ["orders"]


async def test_one_who_watches_much_is_told_in_pieces(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message grows beyond what a client takes, and nothing is left out."""
    monkeypatch.setattr(routes_module, "PUSH_BYTES", 2_000)
    names = [f"topic-{n}" for n in range(1_000)]
    peer = FakePeer()
    desk.watch(peer, *names)
    desk.register("b1", *names, stream=1)
    while desk.handlers._pending:
        await asyncio.sleep(0)
    assert sorted(r["topic"] for push in peer.pushed for r in push["routes"]) == sorted(names)
    assert max(len(json.dumps(push)) for push in peer.pushed) < 4_000


async def test_a_peer_that_leaves_before_its_turn(desk: Desk) -> None:
    peers = [FakePeer() for _ in range(routes_module.PUSH_TOPICS * 2)]
    for peer in peers:
        desk.watch(peer, "orders")
    desk.register("b1", "orders", stream=1)
    left = next(peer for peer in peers if not peer.pushed)
    left.close()
    while desk.handlers._pending:
        await asyncio.sleep(0)
    assert left.pushed == []
    assert all(len(peer.pushed) == 1 for peer in peers if peer is not left)


def test_topic_list_and_cluster(desk: Desk) -> None:
    desk.register("b1", "orders", stream=1)
    desk.register("b2", "orders", "bills", stream=2, source="10.0.0.6")
    desk.clock.advance(250)
    topics = desk.ask(FakePeer(), Code.TOPIC_LIST, {})["topics"]
    assert [(t["topic"], t["type"], t["created_ms"]) for t in topics] == [("bills", "normal", 1), ("orders", "normal", 1)]
    answer = desk.ask(FakePeer(), Code.CLUSTER, {})
    assert (answer["cluster"], answer["auto_create"]) == ("kourou", True)
    assert answer["brokers"][1] == {
        "broker": "b2",
        "broker_id": 0,
        "address": "10.0.0.6:10911",
        "epoch": 1,
        "master": True,
        "version": "1",
        "heard_ms_ago": 250,
        "group_epoch": 1,
    }
