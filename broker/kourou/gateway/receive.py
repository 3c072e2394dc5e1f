"""ReceiveMessage and PullMessage: streams that begin with a status and give one message an item."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from time import time_ns

from kourou.core.errors import KourouError, OffsetOutOfRange
from kourou.core.filter import Filter, parse_filter
from kourou.gateway.clients import Clients
from kourou.gateway.convert import fill, fill_delivered, milliseconds
from kourou.gateway.messaging import Delivered, Messaging
from kourou.gateway.names import client_id, group_name, topic_name
from kourou.gateway.settings import LONG_POLL_S, RECEIVE_BATCH
from kourou.gateway.status import OK, Code, Refused
from kourou.http2.call import Call, StreamCall
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

INVISIBLE_MS_MIN = 1_000
INVISIBLE_MS_MAX = 12 * 3_600_000
RENEWED_MS = 60_000  # the first time; renewed before it is over
WAIT_MS_MAX = 60_000
ATTEMPT_ID_CHARACTERS_MAX = 255  # kept for a while
CUT_MS_MIN = 4_500  # a poll longer than its deadline is cut short, but not shorter than this: it is a mistake then
RESERVE_MS = 200  # an answer leaves so long before the caller's deadline
WATCH = "Watch"  # a call between gateways, beside those of the service
ANSWERED = service.ReceiveMessageResponse(status=OK).SerializeToString()


class ReceiveHandlers:
    def __init__(self, messaging: Messaging, clients: Clients) -> None:
        self._messaging = messaging
        self._clients = clients
        self.received = 0

    async def receive(self, call: StreamCall) -> None:
        data = await call.receive()
        request = service.ReceiveMessageRequest.FromString(data or b"")
        client = client_id(call)
        topic = topic_name(request.message_queue.topic, call)
        group = group_name(request.group, call)
        if len(request.attempt_id) > ATTEMPT_ID_CHARACTERS_MAX:
            raise Refused(Code.BAD_REQUEST, f"attempt_id has more than {ATTEMPT_ID_CHARACTERS_MAX} characters")
        wanted = wanted_of(request.filter_expression)
        invisible_ms = invisible_of(request)
        wait_ms = wait_of(request, call)
        self._messaging.topic(topic)
        view = await self._messaging.group(group)
        queue = request.message_queue.id
        if request.auto_renew:
            self._clients.holds(client)
        future: asyncio.Future[Sequence[Delivered] | KourouError] = asyncio.get_running_loop().create_future()
        parked = self._messaging.receive(
            view,
            topic,
            queue=queue if queue >= 0 else None,
            client=client,
            limit=max(1, min(request.batch_size, RECEIVE_BATCH)),
            invisible_ms=invisible_ms,
            wait_ms=wait_ms,
            wanted=wanted,
            attempt_id=f"{client} {request.attempt_id}" if request.attempt_id else "",
            renewed=request.auto_renew,
            done=_setter(future),
        )
        if not future.done():
            call.on_cancel(lambda: self._gone(parked, future))
        try:
            outcome = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._take_back(view.name, future.result())
            raise
        if isinstance(outcome, KourouError):
            raise outcome
        if outcome and request.auto_renew and not self._clients.knows(client):
            self._take_back(view.name, outcome)  # nobody would let go of what it is handed after it has left
            raise Refused(Code.MESSAGE_NOT_FOUND, "the client has left")
        if not outcome:
            raise Refused(Code.MESSAGE_NOT_FOUND, "no message came in time")
        self._answer(call, request.message_queue.topic, outcome)
        await call.drain()

    async def watch(self, data: bytes, call: Call) -> None:
        """Until there may be something for such a receive, or its time is over; nothing is taken."""
        request = service.ReceiveMessageRequest.FromString(data)
        topic = topic_name(request.message_queue.topic, call)
        self._messaging.topic(topic)
        view = await self._messaging.group(group_name(request.group, call))
        future: asyncio.Future[Sequence[Delivered] | KourouError] = asyncio.get_running_loop().create_future()
        parked = self._messaging.receive(
            view,
            topic,
            queue=None,
            client=client_id(call),
            limit=0,
            invisible_ms=INVISIBLE_MS_MIN,
            wait_ms=wait_of(request, call),
            wanted=wanted_of(request.filter_expression),
            attempt_id="",
            renewed=False,
            done=_setter(future),
        )
        call.on_cancel(lambda: self._gone(parked, future))
        outcome = await future
        if isinstance(outcome, KourouError):
            raise outcome

    def _take_back(self, group: str, outcome: Sequence[Delivered] | KourouError) -> None:
        """Whoever asked has gone before anything was sent: others get it at once, and it does not count."""
        for delivered in outcome if not isinstance(outcome, KourouError) else ():
            self._messaging.change_invisible(group, delivered.handle, 0, uncounted=True, done=lambda outcome: None)

    def _gone(self, parked: object, future: asyncio.Future[Sequence[Delivered] | KourouError]) -> None:
        self._messaging.cancel(parked)
        if not future.done():
            future.set_result([])

    def _answer(self, call: StreamCall, resource: pb.Resource, deliveries: Sequence[Delivered]) -> None:
        """Messages go out as they are encoded, with the next turn of the loop."""
        self.received += len(deliveries)
        send, host = call.send, call.local
        send(ANSWERED)
        for delivered in deliveries:
            item = service.ReceiveMessageResponse()
            fill_delivered(item.message, delivered, resource, host=host)
            send(item.SerializeToString())
        now_ns = time_ns()
        last = service.ReceiveMessageResponse()
        last.delivery_timestamp.seconds, last.delivery_timestamp.nanos = now_ns // 10**9, now_ns % 10**9
        send(last.SerializeToString())

    async def pull(self, call: StreamCall) -> None:
        data = await call.receive()
        request = service.PullMessageRequest.FromString(data or b"")
        client_id(call)
        topic = topic_name(request.message_queue.topic, call)
        group_name(request.group, call)
        wanted = wanted_of(request.filter_expression)
        if request.offset < 0:
            raise Refused(Code.ILLEGAL_OFFSET, f"offset is {request.offset}; from 0 on is allowed")
        if request.message_queue.id < 0:
            raise Refused(Code.BAD_REQUEST, "PullMessage needs the id of a queue")
        wait_ms = min(milliseconds(request.long_polling_timeout), WAIT_MS_MAX)
        left_s = call.remaining_s()
        if left_s is not None:
            wait_ms = min(wait_ms, int(left_s * 1000) - RESERVE_MS)
        try:
            found, next_offset = await self._messaging.pull(
                topic,
                request.message_queue.id,
                request.offset,
                limit=max(1, min(request.batch_size, RECEIVE_BATCH)),
                wait_ms=max(0, wait_ms),
                wanted=wanted,
            )
        except OffsetOutOfRange as failure:
            raise Refused(Code.ILLEGAL_OFFSET, str(failure)) from None
        status = OK if found else pb.Status(code=Code.MESSAGE_NOT_FOUND, message="no message came in time")
        call.send(service.PullMessageResponse(status=status).SerializeToString())
        for stored in found:
            item = service.PullMessageResponse()
            fill(item.message, stored, request.message_queue.topic, request.message_queue.id, host=call.local)
            call.send(item.SerializeToString())
        call.send(service.PullMessageResponse(next_offset=next_offset).SerializeToString())
        await call.drain()


def _setter(
    future: asyncio.Future[Sequence[Delivered] | KourouError],
) -> Callable[[Sequence[Delivered] | KourouError], None]:
    def done(outcome: Sequence[Delivered] | KourouError) -> None:
        if not future.done():
            future.set_result(outcome)

    return done


@lru_cache(maxsize=4_096)
def _parsed(kind: str, expression: str) -> Filter | None:
    found = parse_filter(kind, expression)
    return None if found.kind == "tag" and found.expression == "*" else found


def wanted_of(expression: pb.FilterExpression) -> Filter | None:
    """None: everything. Raises IllegalFilter or Refused."""
    if expression.type not in (pb.TAG, pb.SQL, pb.FILTER_TYPE_UNSPECIFIED):
        raise Refused(Code.ILLEGAL_FILTER_EXPRESSION, f"filter type {expression.type} is unknown")
    return _parsed("sql" if expression.type == pb.SQL else "tag", expression.expression)


def invisible_of(request: service.ReceiveMessageRequest) -> int:
    if request.auto_renew:
        return RENEWED_MS
    invisible_ms = milliseconds(request.invisible_duration) if request.HasField("invisible_duration") else RENEWED_MS
    if not INVISIBLE_MS_MIN <= invisible_ms <= INVISIBLE_MS_MAX:
        raise Refused(
            Code.ILLEGAL_INVISIBLE_TIME,
            f"invisible_duration is {invisible_ms} ms; from {INVISIBLE_MS_MIN} to {INVISIBLE_MS_MAX} is allowed",
        )
    return invisible_ms


def wait_of(request: service.ReceiveMessageRequest, call: Call) -> int:
    """How long a receive may be parked; the answer must leave before the caller's deadline."""
    left_s = call.remaining_s()
    if request.HasField("long_polling_timeout"):
        wait_ms = milliseconds(request.long_polling_timeout)
        if wait_ms < 0:
            raise Refused(Code.ILLEGAL_POLLING_TIME, f"long_polling_timeout is {wait_ms} ms; from 0 on is allowed")
    elif left_s is not None:
        wait_ms = int(left_s * 1000) - 1_500
    else:
        wait_ms = LONG_POLL_S * 1000
    wait_ms = min(wait_ms, WAIT_MS_MAX)
    if left_s is not None and wait_ms > int(left_s * 1000) - RESERVE_MS:
        wait_ms, asked_ms = int(left_s * 1000) - RESERVE_MS, wait_ms
        if wait_ms < CUT_MS_MIN:
            raise Refused(
                Code.ILLEGAL_POLLING_TIME,
                f"long_polling_timeout is {asked_ms} ms, but the call's deadline is only {left_s * 1000:.0f} ms away",
            )
    return max(0, wait_ms)
