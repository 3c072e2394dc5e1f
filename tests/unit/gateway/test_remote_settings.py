"""What a consumer is told through a proxy while the brokers have no masters: whether it consumes in order above all."""

from __future__ import annotations

import asyncio

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import NotConnected
from kourou.core.retry import RetryPolicy
from kourou.core.route import BrokerRoute, TopicRoute, TopicType
from kourou.core.views import GroupView, RouteView
from kourou.gateway.remote import RemoteGateway, RemoteTelemetry
from kourou.gateway.settings import merged
from kourou.gateway.tunnel import CallInfo
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.unit.gateway.call import FakeCall

pytestmark = pytest.mark.virtual_time


class Silent:
    """Where to log."""

    def info(self, event: str, **facts: object) -> None: ...


class Brokers:
    """One broker, which is between two masters for the first ``refusals`` calls. Its group consumes in order."""

    def __init__(self, kind: TopicType, refusals: int) -> None:
        self.kind = kind
        self.refusals = refusals
        self.asked = 0
        self.methods: list[str] = []
        self.called = asyncio.Event()
        self.answers = asyncio.Event()  # when it is set
        self.answers.set()

    async def route(self, topic: str) -> RouteView:
        return RouteView(TopicRoute(topic, self.kind, 1, (BrokerRoute("a", 4, 1, None),)), {"a": None})

    def known_group(self, name: str) -> GroupView | None:
        return None

    def brokers(self) -> list[str]:
        return ["a"]

    async def call(self, broker: str, method: str, data: bytes, info: CallInfo) -> list[bytes]:
        self.asked += 1
        self.methods.append(method)
        self.called.set()
        await self.answers.wait()
        if self.asked <= self.refusals:
            raise NotConnected("between two masters")
        asked = service.TelemetryCommand.FromString(data).settings
        group = GroupView(name="g", fifo=True, max_attempts=5, retry=RetryPolicy())
        told = merged(asked, group, fifo=True)
        return [service.TelemetryCommand(status=pb.Status(code=pb.OK), settings=told).SerializeToString()]


async def told(brokers: Brokers) -> pb.Settings:
    gateway = RemoteGateway(brokers, clock=ManualClock(), log=Silent())
    telemetry = RemoteTelemetry(gateway, brokers, gateway.clients)
    asked = pb.Settings(client_type=pb.PUSH_CONSUMER)
    asked.subscription.group.name = "g"
    entry = asked.subscription.subscriptions.add()
    entry.topic.name = "t"
    entry.expression.expression = "*"
    settings = await telemetry.accept("c", asked, FakeCall(), None)
    known = gateway.clients.find("c")
    assert known is not None
    assert known.settings == settings
    return settings


async def test_it_waits_until_a_broker_knows_the_group() -> None:
    settings = await told(Brokers(TopicType.NORMAL, refusals=3))
    assert settings.subscription.fifo
    assert settings.backoff_policy.max_attempts == 5


@pytest.mark.parametrize(("kind", "fifo"), [(TopicType.FIFO, True), (TopicType.LITE, True), (TopicType.NORMAL, False)])
async def test_where_none_answers_in_time_the_topic_decides(kind: TopicType, fifo: bool) -> None:
    brokers = Brokers(kind, refusals=1 << 30)
    assert (await told(brokers)).subscription.fifo is fifo
    assert brokers.asked > 1


async def test_a_client_that_leaves_while_brokers_are_told_leaves_nothing() -> None:
    """They hear of its settings, then of its end; the gateway forgets it."""
    brokers = Brokers(TopicType.NORMAL, refusals=0)
    brokers.answers.clear()
    gateway = RemoteGateway(brokers, clock=ManualClock(), log=Silent())
    telemetry = RemoteTelemetry(gateway, brokers, gateway.clients)
    asked = pb.Settings(client_type=pb.PRODUCER)
    asked.publishing.topics.add(name="t")
    accepting = asyncio.ensure_future(telemetry.accept("c", asked, FakeCall(), None))
    await brokers.called.wait()
    telemetry.goodbye(service.NotifyClientTerminationRequest().SerializeToString(), FakeCall())
    assert gateway.clients.find("c") is None
    brokers.answers.set()
    await accepting
    await asyncio.gather(*gateway._tasks)
    assert brokers.methods == ["Settings", "NotifyClientTermination"]
    gateway.pass_to_brokers("c", "Heartbeat", b"", CallInfo.of(FakeCall()))
    await asyncio.gather(*gateway._tasks)
    assert brokers.methods == ["Settings", "NotifyClientTermination"]
