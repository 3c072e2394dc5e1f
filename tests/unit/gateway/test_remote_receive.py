"""A receive through a proxy: from whichever broker has something, and nothing is taken for those who have gone."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import KourouError, NotConnected
from kourou.core.route import BrokerRoute, TopicRoute, TopicType
from kourou.core.views import RouteView
from kourou.gateway.clients import Clients
from kourou.gateway.receive import WATCH
from kourou.gateway.remotereceive import RemoteReceive
from kourou.gateway.status import Code
from kourou.gateway.tunnel import CallInfo
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.unit.gateway.call import FakeCall


class ReceiveCall(FakeCall):
    def __init__(self, request: service.ReceiveMessageRequest, *, client: str) -> None:
        super().__init__(client=client)
        self.request = request

    async def receive(self) -> bytes | None:
        return self.request.SerializeToString()


class Brokers:
    """Two brokers, ``a`` and ``b``, and what lies there."""

    def __init__(self) -> None:
        self.messages: dict[str, list[bytes]] = defaultdict(list)
        self.away: set[str] = set()
        self.watched: asyncio.Queue[str] = asyncio.Queue()
        self.calls: list[tuple[str, str]] = []
        self.asked: list[service.ReceiveMessageRequest] = []
        self._arrived = {name: asyncio.Event() for name in "ab"}

    def put(self, broker: str, body: bytes) -> None:
        self.messages[broker].append(body)
        self._arrived[broker].set()

    async def route(self, topic: str) -> RouteView:
        held = tuple(BrokerRoute(name, 4, 1, None) for name in "ab")
        return RouteView(TopicRoute(topic, TopicType.NORMAL, 1, held), {"a": None, "b": None})

    def brokers(self) -> list[str]:
        return [name for name in "ab" if name not in self.away]

    async def call(self, broker: str, method: str, data: bytes, info: CallInfo) -> list[bytes]:
        self.calls.append((broker, method))
        if broker in self.away:
            raise NotConnected(f"broker {broker} is away")
        if method == WATCH:
            self._arrived[broker].clear()
            self.watched.put_nowait(broker)
            if not self.messages[broker]:
                await self._arrived[broker].wait()
            return []
        self.asked.append(service.ReceiveMessageRequest.FromString(data))
        status = pb.Status(code=Code.OK if self.messages[broker] else Code.MESSAGE_NOT_FOUND)
        found = [service.ReceiveMessageResponse(status=status)]
        found += [service.ReceiveMessageResponse(message=pb.Message(body=body)) for body in self.messages[broker]]
        self.messages[broker].clear()
        return [each.SerializeToString() for each in found]


class Proxy:
    def __init__(self) -> None:
        self.brokers = Brokers()
        self.clients = Clients(clock=ManualClock(), gone=lambda client: None)
        self.receiving = RemoteReceive(self.brokers, self.clients, lambda route: "a")

    async def receive(self, *, wait_ms: int = 0, named: str = "a", client: str = "c") -> list[bytes]:
        """The bodies that came."""
        request = service.ReceiveMessageRequest()
        request.message_queue.topic.name, request.message_queue.broker.name = "t", named
        request.long_polling_timeout.FromMilliseconds(wait_ms)
        call = ReceiveCall(request, client=client)
        await self.receiving.receive(call)
        answers = [service.ReceiveMessageResponse.FromString(sent) for sent in call.sent]
        assert answers[0].status.code == (Code.OK if len(answers) > 1 else Code.MESSAGE_NOT_FOUND)
        return [answer.message.body for answer in answers[1:]]


async def test_the_named_broker_first_then_the_others() -> None:
    proxy = Proxy()
    proxy.brokers.put("a", b"1")
    proxy.brokers.put("b", b"2")
    assert [await proxy.receive(named="b") for _ in range(3)] == [[b"2"], [b"1"], []]
    assert {asked.long_polling_timeout.ToMilliseconds() for asked in proxy.brokers.asked} == {0}


async def test_what_comes_to_any_of_them_ends_the_wait() -> None:
    proxy = Proxy()
    waiting = asyncio.ensure_future(proxy.receive(wait_ms=30_000))
    assert {await proxy.brokers.watched.get(), await proxy.brokers.watched.get()} == {"a", "b"}
    proxy.brokers.put("b", b"1")
    async with asyncio.timeout(10):
        assert await waiting == [b"1"]


async def test_nothing_is_taken_for_a_client_that_has_gone() -> None:
    proxy = Proxy()
    waiting = asyncio.ensure_future(proxy.receive(wait_ms=30_000))
    assert {await proxy.brokers.watched.get(), await proxy.brokers.watched.get()} == {"a", "b"}
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    proxy.brokers.put("a", b"1")
    assert await proxy.receive() == [b"1"]


async def test_a_push_consumer_gets_what_the_named_broker_has() -> None:
    """It asks the others itself, at the same time."""
    proxy = Proxy()
    settings = pb.Settings(client_type=pb.PUSH_CONSUMER)
    proxy.clients.settled("c", settings, topics=frozenset(), group="g", subscriptions={}, stream=None, peer="192.0.2.1:5000")
    proxy.brokers.put("b", b"1")
    assert await proxy.receive() == []
    assert await proxy.receive(client="other") == [b"1"]


async def test_a_broker_that_is_away() -> None:
    proxy = Proxy()
    proxy.brokers.away = {"a"}
    proxy.brokers.put("b", b"1")
    assert await proxy.receive() == [b"1"]
    proxy.brokers.away = {"a", "b"}
    with pytest.raises(KourouError, match="away"):
        await proxy.receive()


async def test_a_message_is_asked_for_by_one_of_those_who_wait() -> None:
    """However many: each asks when it comes, then a message makes an ask or two."""
    proxy = Proxy()
    waiting = [asyncio.ensure_future(proxy.receive(wait_ms=30_000, client=f"c{number}")) for number in range(200)]
    assert {await proxy.brokers.watched.get(), await proxy.brokers.watched.get()} == {"a", "b"}
    assert len(proxy.brokers.asked) == 400
    for number in range(10):
        proxy.brokers.put("b", b"%d" % number)
        async with asyncio.timeout(10):
            done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert [await each for each in done] == [[b"%d" % number]]
            waiting = list(rest)
            while await proxy.brokers.watched.get() != "b":
                pass
    assert len(proxy.brokers.asked) <= 400 + 2 * 10
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
