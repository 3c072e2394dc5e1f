"""Requests of very many messages: in portions, so that others get their turn, and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import KourouError
from kourou.gateway.messaging import Messaging, Sent
from kourou.gateway.passing import Passing
from kourou.gateway.send import MESSAGES_A_TURN, SendHandlers
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.unit.gateway.call import FakeCall


class Stored:
    """Messages are stored at once."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.breaks_at = ""

    def send(self, out: Any, done: Callable[[Sent | KourouError], None]) -> None:
        if out.message_id == self.breaks_at:
            raise RuntimeError("a fault of ours")
        self.ids.append(out.message_id)
        done(Sent(0, 0))


def request(name: str, count: int) -> bytes:
    made = service.SendMessageRequest()
    for number in range(count):
        message = made.messages.add(topic=pb.Resource(name="t"), body=b"x")
        message.system_properties.message_id = f"{name}{number}"
    return made.SerializeToString()


async def test_big_requests_take_turns_and_keep_their_order() -> None:
    stored = Stored()
    sending = SendHandlers(cast(Messaging, stored), Passing(), clock=ManualClock())
    count = MESSAGES_A_TURN + 40
    first, second, third = (sending.send(request(*what), FakeCall()) for what in (("a", count), ("b", count), ("c", 1)))
    assert len(stored.ids) == MESSAGES_A_TURN, "what one turn of the loop does is bounded"
    await asyncio.sleep(0)
    assert len(stored.ids) == 2 * MESSAGES_A_TURN
    for future, size in ((first, count), (second, count), (third, 1)):
        answer = service.SendMessageResponse.FromString(await future)
        assert len(answer.entries) == size
    names = [f"{name}{number}" for name, size in (("a", count), ("b", count), ("c", 1)) for number in range(size)]
    assert stored.ids == names
    await asyncio.sleep(0)
    sending.send(request("d", 1), FakeCall())
    assert stored.ids[-1] == "d0", "a request of one goes at once"


async def test_a_fault_in_one_request_holds_up_no_other() -> None:
    stored = Stored()
    stored.breaks_at = "a1"
    sending = SendHandlers(cast(Messaging, stored), Passing(), clock=ManualClock())
    first, second = (sending.send(request(name, 3), FakeCall()) for name in "ab")
    with pytest.raises(RuntimeError):
        await first
    await second
    assert stored.ids == ["a0", "b0", "b1", "b2"]
