"""SendMessage."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from itertools import islice
from typing import Any

from kourou.core.clock import Clock
from kourou.core.errors import KourouError, NotMaster
from kourou.gateway.checks import check_message, kind_of
from kourou.gateway.convert import outgoing
from kourou.gateway.messaging import Messaging, Sent
from kourou.gateway.names import client_id, topic_name
from kourou.gateway.passing import Passing
from kourou.gateway.status import OK, Code, Refused, common, status_of
from kourou.http2.call import Call
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

MESSAGES_MAX = 1_024
MESSAGES_A_TURN = 64  # of requests of several messages; a new lite topic takes 60 to 100 us in all
Step = tuple[str, pb.Message, Call, Callable[[service.SendResultEntry], None]]


class SendHandlers:
    def __init__(self, messaging: Messaging, passing: Passing, *, clock: Clock) -> None:
        self._messaging = messaging
        self._passing = passing
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = clock
        self.sent = 0
        self.refused = 0
        self._portions: deque[tuple[asyncio.Future[bytes], Iterator[Step]]] = deque()
        self._turned = False  # in this turn of the loop

    def send(self, data: bytes, call: Call) -> asyncio.Future[bytes]:
        request = service.SendMessageRequest.FromString(data)
        client_id(call)
        messages = request.messages
        count = len(messages)
        if not 0 < count <= MESSAGES_MAX:
            raise Refused(Code.MESSAGE_CORRUPTED, f"request has {count} messages; from 1 to {MESSAGES_MAX} are allowed")
        topic = topic_name(messages[0].topic, call)
        if count > 1:
            first = messages[0].topic
            if any(m.topic.name != first.name or m.topic.resource_namespace != first.resource_namespace for m in messages):
                raise Refused(Code.MESSAGE_CORRUPTED, "messages of one request must be of one topic")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        entries: list[service.SendResultEntry | None] = [None] * count
        missing = count

        def finish() -> None:
            if not future.done():
                done = [entry for entry in entries if entry is not None]
                response = service.SendMessageResponse(entries=done)
                response.status.CopyFrom(
                    OK if count == 1 and done[0].status.code == Code.OK else common(e.status for e in done)
                )
                future.set_result(response.SerializeToString())

        def settle(number: int, entry: service.SendResultEntry) -> None:
            nonlocal missing
            entries[number] = entry
            missing -= 1
            if missing == 0:
                finish()

        steps = ((topic, message, call, _settler(settle, number)) for number, message in enumerate(messages))
        if count > 1 or self._portions:
            self._portions.append((future, steps))
            if not self._turned:
                self._turn()
        else:
            self._send_one(*next(steps))
        return future

    def _turn(self) -> None:
        """So many of what came, in the order in which it came; the rest after others had their turn."""
        self._turned = bool(self._portions)
        if self._turned:
            asyncio.get_running_loop().call_soon(self._turn)
        left = MESSAGES_A_TURN
        while self._portions and left:
            future, steps = self._portions[0]
            try:
                for step in islice(steps, left):
                    left -= 1
                    self._send_one(*step)
            except Exception as failure:  # whoever waits for the answer logs it
                self._portions.popleft()
                if not future.done():
                    future.set_exception(failure)
                continue
            if left:
                self._portions.popleft()

    def _send_one(
        self, topic: str, message: pb.Message, call: Call, settle: Callable[[service.SendResultEntry], None]
    ) -> None:
        message_id = message.system_properties.message_id

        def done(outcome: Sent | KourouError) -> None:
            if isinstance(outcome, Sent):
                self.sent += 1
                entry = service.SendResultEntry(status=OK, message_id=message_id, offset=outcome.offset)
                if outcome.transaction_id:
                    entry.transaction_id = outcome.transaction_id
                if outcome.recall_handle:
                    entry.recall_handle = outcome.recall_handle
                settle(entry)
            else:
                self.refused += 1
                settle(service.SendResultEntry(status=status_of(outcome), message_id=message_id))

        try:
            check_message(message)
            kind = kind_of(message.system_properties)
            out = outgoing(message, topic, kind, now_ms=self._clock.wall_ms(), peer=call.peer)
            self._messaging.send(out, done)
        except (Refused, KourouError) as failure:
            if isinstance(failure, NotMaster) and failure.owner and self._passing.may(call):
                self._spawn(self._pass_on(failure.owner, message, call, settle))
                return
            self.refused += 1
            settle(service.SendResultEntry(status=status_of(failure), message_id=message_id))

    async def _pass_on(
        self, broker: str, message: pb.Message, call: Call, settle: Callable[[service.SendResultEntry], None]
    ) -> None:
        request = service.SendMessageRequest(messages=[message]).SerializeToString()
        try:
            answer = service.SendMessageResponse.FromString(await self._passing.on(broker, "SendMessage", request, call))
            entry = answer.entries[0] if answer.entries else service.SendResultEntry(status=answer.status)
        except Exception as failure:  # whatever it was: the sender waits for an entry
            self.refused += 1
            entry = service.SendResultEntry(status=status_of(failure), message_id=message.system_properties.message_id)
        settle(entry)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _settler(
    settle: Callable[[int, service.SendResultEntry], None], number: int
) -> Callable[[service.SendResultEntry], None]:
    return lambda entry: settle(number, entry)
