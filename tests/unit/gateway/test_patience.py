"""A proxy between two masters of a broker group: what was not done is tried again, what may be done is told."""

from __future__ import annotations

import asyncio

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import BadRequest, Busy, KourouError, NotConnected, NotEnoughReplicas, NotMaster, OutcomeUnknown
from kourou.core.route import BrokerRoute, TopicRoute, TopicType
from kourou.core.views import GroupView, RouteView
from kourou.gateway.patience import PATIENCE_S, patiently
from kourou.gateway.remote import RemoteGateway
from kourou.gateway.status import Code
from kourou.gateway.tunnel import CallInfo
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.unit.gateway.call import FakeCall
from tests.unit.gateway.test_watches import jumping


class Silent:
    def info(self, event: str, **facts: object) -> None: ...

    def error(self, event: str, **facts: object) -> None: ...


class Brokers:
    """``failures``: what each broker answers first."""

    def __init__(self, **failures: list[KourouError]) -> None:
        self.failures = failures
        self.asked: list[str] = []

    async def route(self, topic: str) -> RouteView:
        held = tuple(BrokerRoute(name, 4, 1, None) for name in self.failures)
        return RouteView(TopicRoute(topic, TopicType.NORMAL, 1, held), dict.fromkeys(self.failures))

    def known_group(self, name: str) -> GroupView | None:
        return None

    def brokers(self) -> list[str]:
        return list(self.failures)

    async def call(self, broker: str, method: str, data: bytes, info: CallInfo) -> list[bytes]:
        self.asked.append(broker)
        if self.failures[broker]:
            raise self.failures[broker].pop(0)
        return [service.SendMessageResponse(status=pb.Status(code=Code.OK)).SerializeToString()]


async def send(brokers: Brokers, *, left_s: float | None = None) -> int:
    """The code of the answer."""
    gateway = RemoteGateway(brokers, clock=ManualClock(), log=Silent())
    request = service.SendMessageRequest(messages=[pb.Message(topic=pb.Resource(name="t"), body=b"1")])
    method = gateway.methods()["/apache.rocketmq.v2.MessagingService/SendMessage"]
    assert method.unary is not None
    answer = method.unary(request.SerializeToString(), FakeCall(left_s=left_s))
    data = answer if isinstance(answer, bytes) else await answer
    return service.SendMessageResponse.FromString(data).status.code


async def test_a_send_waits_for_the_next_master() -> None:
    between: list[KourouError] = [NotConnected("1"), NotMaster("2"), NotEnoughReplicas("3"), Busy("4")]
    assert await send(Brokers(a=between)) == Code.OK


async def test_with_two_brokers_the_other_is_asked_at_once() -> None:
    brokers = Brokers(a=[NotConnected("1")] * 2, b=[])
    assert await send(brokers) == Code.OK
    assert brokers.asked == ["a", "b"]


async def test_a_lost_answer_is_told_and_not_tried_again() -> None:
    brokers = Brokers(a=[OutcomeUnknown("the connection ended")])
    assert await send(brokers) == Code.PROXY_TIMEOUT
    assert brokers.asked == ["a"]


async def waits(left_s: float | None) -> float:
    """How long a send takes that nobody answers."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await send(Brokers(a=[NotConnected("away")] * 10_000), left_s=left_s) == Code.PROXY_TIMEOUT
    return loop.time() - began


@jumping
async def test_no_longer_than_the_caller_waits() -> None:
    assert PATIENCE_S - 1 < await waits(None) < PATIENCE_S + 0.1
    assert 2 < await waits(3.0) < 3


async def test_what_is_wrong_is_wrong_at_once() -> None:
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        await patiently(attempt, left_s=10)
    assert calls == 1


async def test_acknowledgements_are_repeated_when_their_answer_was_lost() -> None:
    """Twice is as good as once."""
    brokers = Brokers(a=[OutcomeUnknown("the connection ended")])
    gateway = RemoteGateway(brokers, clock=ManualClock(), log=Silent())
    await gateway._one("a", "AckMessage", b"", FakeCall())
    assert brokers.asked == ["a", "a"]
