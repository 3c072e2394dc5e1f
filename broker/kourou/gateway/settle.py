"""AckMessage, ChangeInvisibleDuration, ForwardMessageToDeadLetterQueue, EndTransaction, RecallMessage."""

from __future__ import annotations

import asyncio

from kourou.core.errors import KourouError
from kourou.core.handles import broker_of
from kourou.gateway.convert import milliseconds
from kourou.gateway.messaging import Messaging
from kourou.gateway.names import client_id, group_name, topic_name
from kourou.gateway.passing import Passing
from kourou.gateway.receive import INVISIBLE_MS_MAX
from kourou.gateway.status import OK, Code, Refused, common, status_of
from kourou.http2.call import Call
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

ENTRIES_MAX = 1_024
RECALL = 2  # kind of handle


class SettleHandlers:
    def __init__(self, messaging: Messaging, passing: Passing) -> None:
        self._messaging = messaging
        self._passing = passing

    def ack(self, data: bytes, call: Call) -> asyncio.Future[bytes]:
        request = service.AckMessageRequest.FromString(data)
        client_id(call)
        topic = topic_name(request.topic, call)
        group = group_name(request.group, call)
        entries = request.entries
        if not 0 < len(entries) <= ENTRIES_MAX:
            raise Refused(Code.BAD_REQUEST, f"request has {len(entries)} entries; from 1 to {ENTRIES_MAX} are allowed")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(results: list[KourouError | None]) -> None:
            if future.done():
                return
            statuses = [OK if failure is None else status_of(failure) for failure in results]
            response = service.AckMessageResponse(status=common(statuses))
            for entry, status in zip(entries, statuses, strict=True):
                response.entries.add(message_id=entry.message_id, receipt_handle=entry.receipt_handle, status=status)
            future.set_result(response.SerializeToString())

        self._messaging.ack(group, [entry.receipt_handle for entry in entries], done, topic)
        return future

    def change_invisible(self, data: bytes, call: Call) -> bytes | asyncio.Future[bytes]:
        """The answer always carries a handle: clients take it over without looking at the status."""
        request = service.ChangeInvisibleDurationRequest.FromString(data)
        old = request.receipt_handle
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(outcome: str | KourouError) -> None:
            if future.done():
                return
            if isinstance(outcome, str):
                response = service.ChangeInvisibleDurationResponse(status=OK, receipt_handle=outcome)
            else:
                response = service.ChangeInvisibleDurationResponse(status=status_of(outcome), receipt_handle=old)
            future.set_result(response.SerializeToString())

        try:
            client_id(call)
            topic = topic_name(request.topic, call)
            group = group_name(request.group, call)
            invisible_ms = milliseconds(request.invisible_duration)
            if not 0 <= invisible_ms <= INVISIBLE_MS_MAX:
                raise Refused(
                    Code.ILLEGAL_INVISIBLE_TIME,
                    f"invisible_duration is {invisible_ms} ms; from 0 to {INVISIBLE_MS_MAX} is allowed",
                )
            self._messaging.change_invisible(group, old, invisible_ms, uncounted=request.suspend, done=done, topic=topic)
        except (Refused, KourouError) as failure:
            response = service.ChangeInvisibleDurationResponse(status=status_of(failure), receipt_handle=old)
            return response.SerializeToString()
        return future

    async def forward(self, data: bytes, call: Call) -> bytes:
        request = service.ForwardMessageToDeadLetterQueueRequest.FromString(data)
        client_id(call)
        topic = topic_name(request.topic, call)
        group = group_name(request.group, call)
        attempts = f"given up by the consumer after attempt {request.delivery_attempt} of {request.max_delivery_attempts}"
        await self._messaging.forward(group, request.receipt_handle, attempts, topic)
        return service.ForwardMessageToDeadLetterQueueResponse(status=OK).SerializeToString()

    async def end_transaction(self, data: bytes, call: Call) -> bytes:
        request = service.EndTransactionRequest.FromString(data)
        client_id(call)
        topic = topic_name(request.topic, call)
        if not request.transaction_id.strip():
            raise Refused(Code.INVALID_TRANSACTION_ID, "transaction id is blank")
        if request.resolution in (pb.COMMIT, pb.ROLLBACK):
            await self._messaging.end_transaction(topic, request.transaction_id, commit=request.resolution == pb.COMMIT)
        elif request.resolution != pb.TRANSACTION_RESOLUTION_UNSPECIFIED:
            raise Refused(Code.BAD_REQUEST, f"transaction resolution {request.resolution} is unknown")
        return service.EndTransactionResponse(status=OK).SerializeToString()

    async def recall(self, data: bytes, call: Call) -> bytes:
        request = service.RecallMessageRequest.FromString(data)
        client_id(call)
        topic = topic_name(request.topic, call)
        if self._passing.may(call) and (broker := broker_of(request.recall_handle, RECALL)) != self._messaging.broker:
            return await self._passing.on(broker, "RecallMessage", data, call)
        message_id = await self._messaging.recall(topic, request.recall_handle)
        return service.RecallMessageResponse(status=OK, message_id=message_id).SerializeToString()
