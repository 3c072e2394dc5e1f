"""What a ReceiveMessage asks for, in our terms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import IllegalFilter
from kourou.gateway.clients import Clients
from kourou.gateway.receive import (
    INVISIBLE_MS_MAX,
    RENEWED_MS,
    WAIT_MS_MAX,
    ReceiveHandlers,
    invisible_of,
    wait_of,
    wanted_of,
)
from kourou.gateway.status import Code, Refused
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.unit.gateway.call import FakeCall


def request(
    *, wait_ms: int | None = None, invisible_ms: int | None = None, renew: bool = False
) -> service.ReceiveMessageRequest:
    made = service.ReceiveMessageRequest(auto_renew=renew)
    if wait_ms is not None:
        made.long_polling_timeout.FromMilliseconds(wait_ms)
    if invisible_ms is not None:
        made.invisible_duration.FromMilliseconds(invisible_ms)
    return made


@pytest.mark.parametrize(
    ("asked_ms", "left_s", "wait_ms"),
    [
        (20_000, 23.0, 20_000),
        (20_000, None, 20_000),
        (0, 3.0, 0),
        (1, 3.0, 1),
        (40_000, 40.0, 39_800),  # Rust's deadline is its poll: the answer must leave before
        (60_000, 10.0, 9_800),
        (10**9, None, WAIT_MS_MAX),
        (None, 23.0, 21_500),  # Go does not say
        (None, 1.0, 0),
        (None, 0.0, 0),
        (None, None, 20_000),
    ],
)
def test_how_long_it_is_parked(asked_ms: int | None, left_s: float | None, wait_ms: int) -> None:
    assert wait_of(request(wait_ms=asked_ms), FakeCall(left_s=left_s)) == wait_ms


@pytest.mark.parametrize(("asked_ms", "left_s"), [(-1, None), (20_000, 3.0), (1_000, 0.0)])
def test_polls_that_can_not_be(asked_ms: int, left_s: float | None) -> None:
    with pytest.raises(Refused) as refused:
        wait_of(request(wait_ms=asked_ms), FakeCall(left_s=left_s))
    assert refused.value.code == Code.ILLEGAL_POLLING_TIME


@pytest.mark.parametrize(
    ("asked_ms", "renew", "invisible_ms"),
    [
        (1_000, False, 1_000),
        (INVISIBLE_MS_MAX, False, INVISIBLE_MS_MAX),
        (None, False, RENEWED_MS),
        (5, True, RENEWED_MS),
        (None, True, RENEWED_MS),
    ],
)
def test_how_long_messages_are_invisible(asked_ms: int | None, renew: bool, invisible_ms: int) -> None:
    assert invisible_of(request(invisible_ms=asked_ms, renew=renew)) == invisible_ms


@pytest.mark.parametrize("asked_ms", [-1, 0, 999, INVISIBLE_MS_MAX + 1])
def test_invisible_times_that_are_refused(asked_ms: int) -> None:
    with pytest.raises(Refused) as refused:
        invisible_of(request(invisible_ms=asked_ms))
    assert refused.value.code == Code.ILLEGAL_INVISIBLE_TIME


@pytest.mark.parametrize("text", ["", "*", " * ", "a || *"][:3])
@pytest.mark.parametrize("kind", [pb.TAG, pb.FILTER_TYPE_UNSPECIFIED])
def test_filters_that_want_everything(kind: int, text: str) -> None:
    assert wanted_of(pb.FilterExpression(type=kind, expression=text)) is None  # type: ignore[arg-type]


def test_filters() -> None:
    tags = wanted_of(pb.FilterExpression(type=pb.TAG, expression=" b || a"))
    assert tags is not None
    assert tags.expression == "a || b"
    sql = wanted_of(pb.FilterExpression(type=pb.SQL, expression="a > 3"))
    assert sql is not None
    assert sql.matches(None, {"a": "4"})
    for kind, text in ((pb.TAG, "||"), (pb.TAG, "a|b"), (pb.SQL, ""), (pb.SQL, "a >"), (9, "a")):
        with pytest.raises((Refused, IllegalFilter)):
            wanted_of(pb.FilterExpression(type=kind, expression=text))  # type: ignore[arg-type]


class SlowMessaging:
    """A broker whose hand-outs take their time to be confirmed."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Callable[[Any], None]] = asyncio.Queue()
        self.taken_back: list[tuple[str, str, int, bool]] = []

    def topic(self, name: str) -> None:
        pass

    async def group(self, name: str) -> Any:
        return SimpleNamespace(name=name)

    def receive(self, *given: object, done: Callable[[Any], None], **named: object) -> None:
        self.asked.put_nowait(done)

    def change_invisible(
        self, group: str, handle: str, invisible_ms: int, *, uncounted: bool, done: Callable[[Any], None]
    ) -> None:
        self.taken_back.append((group, handle, invisible_ms, uncounted))


async def test_what_is_handed_to_a_client_that_has_left_is_taken_back() -> None:
    """It said goodbye between the hand-out and its confirmation: its leases would be renewed for hours."""
    messaging = SlowMessaging()
    clients = Clients(clock=ManualClock(), gone=lambda client: None)
    asked = request(wait_ms=1_000, renew=True)
    asked.group.name, asked.message_queue.topic.name = "g", "t"
    call = FakeCall(message=asked.SerializeToString())
    receiving = asyncio.create_task(ReceiveHandlers(messaging, clients).receive(call))  # type: ignore[arg-type]
    done = await messaging.asked.get()
    clients.left("c")
    done([SimpleNamespace(handle="h")])
    with pytest.raises(Refused) as refused:
        await receiving
    assert refused.value.code == Code.MESSAGE_NOT_FOUND
    assert messaging.taken_back == [("g", "h", 0, True)]
    assert call.sent == []
