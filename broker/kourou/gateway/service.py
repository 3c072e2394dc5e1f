"""The services of the official API as the engines take them: paths, and handlers that never fail with anything but a
status of the official API."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from kourou.core.clock import Clock
from kourou.gateway.calls import PACKAGE, Log, Stream, Unary, guarded_stream, guarded_unary
from kourou.gateway.clients import Clients, GatewayClient
from kourou.gateway.convert import fill
from kourou.gateway.lite import LiteHandlers
from kourou.gateway.messaging import Messaging, Stored
from kourou.gateway.names import NAMESPACE_SEPARATOR, client_id
from kourou.gateway.offsets import OffsetHandlers
from kourou.gateway.passing import Passing
from kourou.gateway.receive import WATCH, ReceiveHandlers
from kourou.gateway.routes import RouteHandlers
from kourou.gateway.send import SendHandlers
from kourou.gateway.settle import SettleHandlers
from kourou.gateway.status import ok
from kourou.gateway.telemetry import TelemetryHandlers
from kourou.gateway.tunnel import CommandStream, TunnelledCall
from kourou.http2.call import GrpcError, Kind, Method, StatusCode
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

SETTINGS, ANSWERED = "Settings", "Answered"  # calls between gateways, beside those of the service


class Gateway:
    def __init__(self, messaging: Messaging, *, clock: Clock, log: Log) -> None:
        self._log = log
        self._messaging = messaging
        self.clients = Clients(clock=clock, gone=self._gone)
        self.passing = Passing()
        self.sending = SendHandlers(messaging, self.passing, clock=clock)
        self.receiving = ReceiveHandlers(messaging, self.clients)
        self.telemetry = TelemetryHandlers(messaging, self.clients)
        self._settling = SettleHandlers(messaging, self.passing)
        self._routes = RouteHandlers(messaging)
        self._offsets = OffsetHandlers(messaging)
        self._lite = LiteHandlers(messaging)
        self._methods = self._make_methods()

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
                if topic == resource.name or topic.endswith(f"{NAMESPACE_SEPARATOR}{resource.name}"):
                    recover.message.topic.CopyFrom(resource)
            if client.tell(command):
                return True
        return False

    def lite_evicted(self, client: str, lite_topic: str) -> None:
        """Another subscriber has taken over a part of a lite topic."""
        known = self.clients.find(client)
        if known is not None:
            command = service.TelemetryCommand()
            command.notify_unsubscribe_lite_command.lite_topic = lite_topic
            known.tell(command)

    async def tunnelled(
        self, method: str, call: TunnelledCall, data: bytes, push: Callable[[str, bytes], None]
    ) -> list[bytes]:
        """A call that came through a gateway elsewhere; what it is answered. ``push`` sends a command to a client there.
        Raises GrpcError."""
        if method == SETTINGS:
            client = client_id(call)
            command = service.TelemetryCommand.FromString(data)
            stream = CommandStream(call, lambda message: push(client, message))
            settings = await self.telemetry.accept(client, command.settings, call, stream)
            return [service.TelemetryCommand(status=ok(), settings=settings).SerializeToString()]
        if method == ANSWERED:
            self.telemetry.answered(service.TelemetryCommand.FromString(data))
            return []
        if method == WATCH:
            await self.receiving.watch(data, call)
            return []
        known = self._methods.get(f"/{PACKAGE}.MessagingService/{method}")
        if known is None or known.kind is Kind.BIDI_STREAM:
            raise GrpcError(StatusCode.UNIMPLEMENTED, f"no call {method[:100]!r} is known here")
        if known.unary is not None:
            answered = known.unary(data, call)
            return [answered if isinstance(answered, bytes) else await answered]
        assert known.stream is not None
        await known.stream(call)
        return call.sent

    def tunnel_ended(self, clients: set[str]) -> None:
        """A gateway elsewhere has gone: its clients' streams with it."""
        for client in clients:
            known = self.clients.find(client)
            if known is not None and isinstance(known.stream, CommandStream):
                self.clients.stream_ended(client, known.stream)

    async def expire(self) -> None:
        """Called every few seconds."""
        for client in self.clients.expire():
            self._log.info("client_gone", client=client)

    def methods(self) -> dict[str, Method]:
        """By full path."""
        return self._methods

    def _make_methods(self) -> dict[str, Method]:
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
            "SyncLiteSubscription": (self._lite.sync, service.SyncLiteSubscriptionResponse),
            "UpdateOffset": (self._offsets.update, service.UpdateOffsetResponse),
            "GetOffset": (self._offsets.get, service.GetOffsetResponse),
            "QueryOffset": (self._offsets.query, service.QueryOffsetResponse),
        }
        streams: dict[str, tuple[Stream, Callable[..., Message]]] = {
            "ReceiveMessage": (self.receiving.receive, service.ReceiveMessageResponse),
            "PullMessage": (self.receiving.pull, service.PullMessageResponse),
        }
        methods = {
            f"/{PACKAGE}.MessagingService/{name}": Method(Kind.UNARY, unary=guarded_unary(name, handler, answer, self._log))
            for name, (handler, answer) in unary.items()
        }
        for name, (handler, answer) in streams.items():
            methods[f"/{PACKAGE}.MessagingService/{name}"] = Method(
                Kind.SERVER_STREAM, stream=guarded_stream(name, handler, answer, self._log)
            )
        methods[f"/{PACKAGE}.MessagingService/Telemetry"] = Method(Kind.BIDI_STREAM, stream=self.telemetry.telemetry)
        return methods
