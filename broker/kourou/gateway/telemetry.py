"""The telemetry stream, heartbeats and goodbyes."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from kourou.core.errors import KourouError
from kourou.core.route import TopicType
from kourou.gateway.clients import CONSUMERS, Clients
from kourou.gateway.messaging import GroupView, Messaging
from kourou.gateway.names import client_id, group_name, topic_name
from kourou.gateway.settings import merged
from kourou.gateway.status import OK, Code, Refused, ok, status_of
from kourou.http2.call import Call, GrpcError, StatusCode, StreamCall
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

CLIENT_PROPERTIES_MAX = 32
CLIENT_PROPERTIES_BYTES_MAX = 4096
TOPICS_MAX = 10_000
SETTINGS_BYTES_MAX = 1024 * 1024
KNOWN_TYPES = CONSUMERS | {pb.PRODUCER}


class TelemetryHandlers:
    def __init__(self, messaging: Messaging, clients: Clients) -> None:
        self._messaging = messaging
        self._clients = clients

    # ---- the stream

    async def telemetry(self, call: StreamCall) -> None:
        """Settings are answered each time, with a status and all of them; the stream stays open until the client ends it."""
        call.start()
        try:
            client = client_id(call)
        except Refused as failure:
            raise GrpcError(StatusCode.INVALID_ARGUMENT, str(failure)) from None
        try:
            while (data := await call.receive()) is not None:
                try:
                    command = service.TelemetryCommand.FromString(data)
                except DecodeError:
                    raise GrpcError(StatusCode.INVALID_ARGUMENT, "the command does not parse") from None
                await self._command(client, command, call)
        finally:
            self._clients.stream_ended(client, call)

    async def _command(self, client: str, command: service.TelemetryCommand, call: StreamCall) -> None:
        match command.WhichOneof("command"):
            case "settings":
                await self._settings(client, command.settings, call)
            case "thread_stack_trace" | "verify_message_result":
                self.answered(command)

    def answered(self, command: service.TelemetryCommand) -> None:
        """An answer to a command of ours; one that nobody waits for is ignored."""
        if command.HasField("thread_stack_trace"):
            self._clients.answered(command.thread_stack_trace.nonce, command)
        elif command.HasField("verify_message_result"):
            self._clients.answered(command.verify_message_result.nonce, command)

    async def _settings(self, client: str, asked: pb.Settings, call: StreamCall) -> None:
        try:
            settings = await self.accept(client, asked, call, call)
        except (Refused, KourouError) as failure:
            status = status_of(failure)
            raise GrpcError(StatusCode.INVALID_ARGUMENT, f"{Code.Name(status.code)}: {status.message}") from None
        answer = service.TelemetryCommand(status=ok(), settings=settings)
        call.send(answer.SerializeToString())
        await call.drain()

    async def accept(self, client: str, asked: pb.Settings, call: Call, stream: StreamCall | None) -> pb.Settings:
        """Check, merge and remember settings."""
        _check_properties(asked)
        if asked.ByteSize() > SETTINGS_BYTES_MAX:  # they are kept
            raise Refused(Code.BAD_REQUEST, f"settings have {asked.ByteSize()} bytes; the limit is {SETTINGS_BYTES_MAX}")
        kind = asked.WhichOneof("pub_sub")
        if kind is None:
            raise Refused(Code.BAD_REQUEST, "settings need publishing or subscription")
        topics: frozenset[str] = frozenset()
        subscriptions: dict[str, tuple[str, str]] = {}
        group: GroupView | None = None
        fifo = False
        if kind == "publishing":
            if len(asked.publishing.topics) > TOPICS_MAX:
                raise Refused(Code.BAD_REQUEST, f"settings have {len(asked.publishing.topics)} topics; {TOPICS_MAX} may be")
            topics = frozenset(topic_name(topic, call) for topic in asked.publishing.topics)
        else:
            name = group_name(asked.subscription.group, call)
            if len(asked.subscription.subscriptions) > TOPICS_MAX:
                raise Refused(Code.BAD_REQUEST, f"settings have more than {TOPICS_MAX} subscriptions")
            for entry in asked.subscription.subscriptions:
                topic = topic_name(entry.topic, call)
                subscriptions[topic] = (_kind(entry.expression), entry.expression.expression)
                fifo = fifo or self._ordered(topic)
            group = self._messaging.known_group(name)
            if group is None and asked.client_type != pb.CLIENT_TYPE_UNSPECIFIED:
                try:
                    group = await self._messaging.group(name)
                except KourouError:
                    group = None  # the stream stays up: the receive says what is wrong
            fifo = fifo or (group is not None and group.fifo)
        settings = merged(asked, group, fifo=fifo)
        self._clients.settled(
            client,
            settings,
            topics=topics,
            group=group_name(asked.subscription.group, call) if kind == "subscription" else "",
            subscriptions=subscriptions,
            stream=stream,
            peer=call.peer,
        )
        return settings

    def _ordered(self, topic: str) -> bool:
        try:
            return self._messaging.topic(topic).type in (TopicType.FIFO, TopicType.LITE)
        except KourouError:
            return False

    def push_settings(self, group: str) -> None:
        """A group was changed: its members are told."""
        view = self._messaging.known_group(group)
        for client in self._clients.members(group):
            fifo = (view is not None and view.fifo) or any(self._ordered(topic) for topic in client.subscriptions)
            client.settings = merged(client.settings, view, fifo=fifo)
            client.tell(service.TelemetryCommand(status=ok(), settings=client.settings))

    # ---- signs of life

    def heartbeat(self, data: bytes, call: Call) -> bytes:
        request = service.HeartbeatRequest.FromString(data)
        client = client_id(call)
        if request.HasField("group") and request.group.name:
            group_name(request.group, call)
        if self._clients.heard(client) is None:
            raise Refused(Code.UNRECOGNIZED_CLIENT_TYPE, "no settings of this client are known; send them by Telemetry")
        if request.client_type not in KNOWN_TYPES:
            raise Refused(Code.UNRECOGNIZED_CLIENT_TYPE, f"client type {request.client_type} is unknown")
        return service.HeartbeatResponse(status=OK).SerializeToString()

    def goodbye(self, data: bytes, call: Call) -> bytes:
        request = service.NotifyClientTerminationRequest.FromString(data)
        client = client_id(call)
        if request.HasField("group") and request.group.name:
            group_name(request.group, call)
        if self._clients.left(client) is None:
            raise Refused(Code.UNRECOGNIZED_CLIENT_TYPE, "no settings of this client are known")
        return service.NotifyClientTerminationResponse(status=OK).SerializeToString()


def _check_properties(settings: pb.Settings) -> None:
    properties = settings.client_properties
    if not properties:
        return
    size = sum(len(name.encode()) + len(value.encode()) for name, value in properties.items())
    if len(properties) > CLIENT_PROPERTIES_MAX or size > CLIENT_PROPERTIES_BYTES_MAX:
        raise Refused(
            Code.INVALID_CLIENT_PROPERTIES,
            f"client properties: at most {CLIENT_PROPERTIES_MAX} of {CLIENT_PROPERTIES_BYTES_MAX} bytes together",
        )
    for name, value in properties.items():
        legal = name[:1].isalpha() and all(c.isascii() and (c.isalnum() or c in "_.-") for c in name)
        if not legal or len(name) > 64 or len(value) > 256 or name.startswith("rocketmq."):
            raise Refused(Code.INVALID_CLIENT_PROPERTIES, f"client property {name[:64]!r} is not allowed")


def _kind(expression: pb.FilterExpression) -> str:
    """An expression that can't be read is no reason to turn a client away: its receives say what is wrong with it."""
    return "sql" if expression.type == pb.SQL else "tag"
