"""The services of the official API as the engines take them: paths, and handlers that never fail with anything but a
status of the official API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from kourou.core.clock import Clock
from kourou.core.errors import KourouError
from kourou.gateway.clients import Clients, GatewayClient
from kourou.gateway.convert import fill
from kourou.gateway.messaging import Messaging, Stored
from kourou.gateway.offsets import OffsetHandlers
from kourou.gateway.receive import ReceiveHandlers
from kourou.gateway.routes import RouteHandlers
from kourou.gateway.send import SendHandlers
from kourou.gateway.settle import SettleHandlers
from kourou.gateway.status import Code, Refused, status_of
from kourou.gateway.telemetry import TelemetryHandlers
from kourou.http2.call import Call, GrpcError, Kind, Method, StatusCode, StreamCall
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

PACKAGE = "apache.rocketmq.v2"
Unary = Callable[[bytes, Call], bytes | Awaitable[bytes]]
Stream = Callable[[StreamCall], Awaitable[None]]


class Log(Protocol):
    def error(self, event: str, **fields: Any) -> Any: ...

    def info(self, event: str, **fields: Any) -> Any: ...


class Gateway:
    def __init__(self, messaging: Messaging, *, clock: Clock, log: Log) -> None:
        self._log = log
        self._messaging = messaging
        self.clients = Clients(clock=clock, gone=self._gone)
        self.sending = SendHandlers(messaging, clock=clock)
        self.receiving = ReceiveHandlers(messaging, self.clients)
        self.telemetry = TelemetryHandlers(messaging, self.clients)
        self._settling = SettleHandlers(messaging)
        self._routes = RouteHandlers(messaging)
        self._offsets = OffsetHandlers(messaging)

    def _gone(self, client: GatewayClient) -> None:
        self._messaging.client_gone(client.id)

    def ask(self, topic: str, message: Stored, transaction: str, queue: int) -> bool:
        """Ask a live producer of a topic what became of a transaction; False when there is none."""
        command = service.TelemetryCommand()
        recover = command.recover_orphaned_transaction_command
        recover.transaction_id = transaction
        fill(recover.message, message, pb.Resource(name=topic), queue, host="")
        for client in self.clients.producers(topic):
            for resource in client.settings.publishing.topics:
                if topic.endswith(resource.name):
                    recover.message.topic.CopyFrom(resource)
            if client.tell(command):
                return True
        return False

    async def expire(self) -> None:
        """Called every few seconds."""
        for client in self.clients.expire():
            self._log.info("client_gone", client=client)

    def methods(self) -> dict[str, Method]:
        unary: dict[str, tuple[Unary, Callable[..., Message]]] = {
            "QueryRoute": (self._routes.query_route, service.QueryRouteResponse),
            "QueryAssignment": (self._routes.query_assignment, service.QueryAssignmentResponse),
            "SendMessage": (self.sending.send, service.SendMessageResponse),
            "AckMessage": (self._settling.ack, service.AckMessageResponse),
            "ChangeInvisibleDuration": (self._settling.change_invisible, service.ChangeInvisibleDurationResponse),
            "ForwardMessageToDeadLetterQueue": (
                self._settling.forward,
                service.ForwardMessageToDeadLetterQueueResponse,
            ),
            "EndTransaction": (self._settling.end_transaction, service.EndTransactionResponse),
            "RecallMessage": (self._settling.recall, service.RecallMessageResponse),
            "Heartbeat": (self.telemetry.heartbeat, service.HeartbeatResponse),
            "NotifyClientTermination": (self.telemetry.goodbye, service.NotifyClientTerminationResponse),
            "UpdateOffset": (self._offsets.update, service.UpdateOffsetResponse),
            "GetOffset": (self._offsets.get, service.GetOffsetResponse),
            "QueryOffset": (self._offsets.query, service.QueryOffsetResponse),
        }
        streams: dict[str, tuple[Stream, Callable[..., Message]]] = {
            "ReceiveMessage": (self.receiving.receive, service.ReceiveMessageResponse),
            "PullMessage": (self.receiving.pull, service.PullMessageResponse),
        }
        methods = {
            f"/{PACKAGE}.MessagingService/{name}": Method(Kind.UNARY, unary=self._unary(name, handler, answer))
            for name, (handler, answer) in unary.items()
        }
        for name, (handler, answer) in streams.items():
            methods[f"/{PACKAGE}.MessagingService/{name}"] = Method(
                Kind.SERVER_STREAM, stream=self._stream(name, handler, answer)
            )
        methods[f"/{PACKAGE}.MessagingService/Telemetry"] = Method(Kind.BIDI_STREAM, stream=self.telemetry.telemetry)
        return methods

    def _unary(self, name: str, handler: Unary, answer: Callable[..., Message]) -> Unary:
        """Errors become the status in an answer of the call's own type."""

        def failed(failure: BaseException) -> bytes:
            return self._failed(name, failure, answer)

        async def awaited(coroutine: Awaitable[bytes]) -> bytes:
            try:
                return await coroutine
            except (Refused, KourouError, DecodeError, GrpcError) as failure:
                return failed(failure)
            except Exception as bug:
                return failed(bug)

        def handle(data: bytes, call: Call) -> bytes | Awaitable[bytes]:
            try:
                answered = handler(data, call)
            except Exception as failure:
                return failed(failure)
            if isinstance(answered, bytes | asyncio.Future):
                return answered
            return awaited(answered)

        return handle

    def _stream(self, name: str, handler: Stream, answer: Callable[..., Message]) -> Stream:
        async def handle(call: StreamCall) -> None:
            try:
                await handler(call)
            except Exception as failure:
                call.send(self._failed(name, failure, answer))
                await call.drain()

        return handle

    def _failed(self, name: str, failure: BaseException, answer: Callable[..., Message]) -> bytes:
        if isinstance(failure, GrpcError):
            raise failure
        if isinstance(failure, DecodeError):
            raise GrpcError(StatusCode.INVALID_ARGUMENT, "the request does not parse")
        status = status_of(failure)
        if not isinstance(failure, Refused | KourouError):
            self._log.error("call_failed", call=name, exc_info=failure)
            status.code = Code.INTERNAL_SERVER_ERROR
        return answer(status=status).SerializeToString()
