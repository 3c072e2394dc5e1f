"""The official API at a distance: in nameservers (an access point) and in proxies, for a whole cluster.

Nothing is decided here. A call is passed on to the broker that it concerns: the one that the request or its handle names,
the owner of its message group, or any that holds the topic. Clients' settings are passed to the brokers of their topics,
which know the groups; the telemetry streams end here, and brokers' commands come back through the tunnel.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import Any, Protocol

from google.protobuf.message import Message

from kourou.core.clock import Clock
from kourou.core.errors import KourouError, NotConnected, NotMaster, OutcomeUnknown
from kourou.core.handles import broker_of
from kourou.core.route import TopicRoute, TopicType
from kourou.core.siphash import message_group_index
from kourou.core.views import GroupView, RouteView
from kourou.gateway.calls import PACKAGE, Stream, Unary, guarded_stream, guarded_unary
from kourou.gateway.clients import Clients, GatewayClient
from kourou.gateway.names import client_id, topic_name
from kourou.gateway.patience import BETWEEN_MASTERS, patiently
from kourou.gateway.remotereceive import RemoteReceive
from kourou.gateway.routes import RouteHandlers
from kourou.gateway.settings import merged
from kourou.gateway.status import OK, Code, Refused, common, status_of
from kourou.gateway.telemetry import TelemetryHandlers
from kourou.gateway.tunnel import CallInfo
from kourou.http2.call import Call, Kind, Method, StreamCall
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

SETTINGS, ANSWERED = "Settings", "Answered"  # calls between gateways, beside those of the service
SETTINGS_S = 2.0  # for a consumer's settings, while no broker answers; official clients wait 3 s for them
REPEATABLE = frozenset({"AckMessage", "UpdateOffset", "GetOffset", "QueryOffset"})  # twice is as good as once
RECEIPT, RECALL, TRANSACTION = 1, 2, 3  # kinds of handles


class Tunnel(Protocol):
    """The way to the brokers."""

    async def route(self, topic: str) -> RouteView:
        """Raises TopicNotFound; creates the topic where that is allowed."""
        ...

    def known_group(self, name: str) -> GroupView | None: ...

    def brokers(self) -> list[str]:
        """Those that have a master now."""
        ...

    async def call(self, broker: str, method: str, data: bytes, info: CallInfo) -> list[bytes]:
        """Raises what the broker's handler raised, NotConnected where it was not reached."""
        ...


class RemoteGateway:
    def __init__(self, tunnel: Tunnel, *, clock: Clock, log: Any) -> None:
        self._tunnel = tunnel
        self._log = log
        self._turns = count()
        self._told: dict[str, set[str]] = {}  # client -> brokers that know its settings
        self._tasks: set[asyncio.Task[Any]] = set()
        self.clients = Clients(clock=clock, gone=self._gone)
        self._telemetry = RemoteTelemetry(self, tunnel, self.clients)
        self._routes = RouteHandlers(tunnel)
        self._receiving = RemoteReceive(tunnel, self.clients, self._any)

    def methods(self) -> dict[str, Method]:
        to_queue, passed = self._to_queue, self._pass
        unary: dict[str, tuple[Unary, Callable[..., Message]]] = {
            "QueryRoute": (self._routes.query_route, service.QueryRouteResponse),
            "QueryAssignment": (self._routes.query_assignment, service.QueryAssignmentResponse),
            "SendMessage": (self._send, service.SendMessageResponse),
            "AckMessage": (self._ack, service.AckMessageResponse),
            "ChangeInvisibleDuration": (self._change_invisible, service.ChangeInvisibleDurationResponse),
            "ForwardMessageToDeadLetterQueue": (
                passed("ForwardMessageToDeadLetterQueue", service.ForwardMessageToDeadLetterQueueRequest, _receipt),
                service.ForwardMessageToDeadLetterQueueResponse,
            ),
            "EndTransaction": (
                passed("EndTransaction", service.EndTransactionRequest, _transaction),
                service.EndTransactionResponse,
            ),
            "RecallMessage": (
                passed("RecallMessage", service.RecallMessageRequest, _recall),
                service.RecallMessageResponse,
            ),
            "Heartbeat": (self._telemetry.heartbeat_remote, service.HeartbeatResponse),
            "NotifyClientTermination": (self._telemetry.goodbye, service.NotifyClientTerminationResponse),
            "SyncLiteSubscription": (self._sync_lite, service.SyncLiteSubscriptionResponse),
            "UpdateOffset": (to_queue("UpdateOffset", service.UpdateOffsetRequest), service.UpdateOffsetResponse),
            "GetOffset": (to_queue("GetOffset", service.GetOffsetRequest), service.GetOffsetResponse),
            "QueryOffset": (to_queue("QueryOffset", service.QueryOffsetRequest), service.QueryOffsetResponse),
        }
        streams: dict[str, tuple[Stream, Callable[..., Message]]] = {
            "ReceiveMessage": (self._receiving.receive, service.ReceiveMessageResponse),
            "PullMessage": (self._stream("PullMessage", service.PullMessageRequest), service.PullMessageResponse),
        }
        methods = {
            f"/{PACKAGE}.MessagingService/{name}": Method(Kind.UNARY, unary=guarded_unary(name, handler, answer, self._log))
            for name, (handler, answer) in unary.items()
        }
        for name, (handler, answer) in streams.items():
            methods[f"/{PACKAGE}.MessagingService/{name}"] = Method(
                Kind.SERVER_STREAM, stream=guarded_stream(name, handler, answer, self._log)
            )
        methods[f"/{PACKAGE}.MessagingService/Telemetry"] = Method(Kind.BIDI_STREAM, stream=self._telemetry.telemetry)
        return methods

    # ---- passing on

    def _pass(
        self, name: str, request: Callable[..., Any], broker: Callable[[Any], str]
    ) -> Callable[[bytes, Call], Awaitable[bytes]]:
        """A call whose broker stands in it."""

        async def handle(data: bytes, call: Call) -> bytes:
            parsed = request.FromString(data)  # type: ignore[attr-defined]
            client_id(call)
            topic_name(parsed.topic, call)
            return await self._one(broker(parsed), name, data, call)

        return handle

    def _to_queue(self, name: str, request: Callable[..., Any]) -> Callable[[bytes, Call], Awaitable[bytes]]:
        async def handle(data: bytes, call: Call) -> bytes:
            parsed = request.FromString(data)  # type: ignore[attr-defined]
            client_id(call)
            return await self._one(await self._broker_of_queue(parsed.message_queue, call), name, data, call)

        return handle

    def _stream(self, name: str, request: Callable[..., Any]) -> Stream:
        async def handle(call: StreamCall) -> None:
            data = await call.receive() or b""
            parsed = request.FromString(data)  # type: ignore[attr-defined]
            client_id(call)
            broker = await self._broker_of_queue(parsed.message_queue, call)
            for message in await self._tunnel.call(broker, name, data, CallInfo.of(call)):
                call.send(message)
            await call.drain()

        return handle

    async def _one(self, broker: str, name: str, data: bytes, call: Call) -> bytes:
        """What one broker group answers, its next master if need be."""
        return await patiently(lambda: self._once(broker, name, data, call), left_s=call.remaining_s())

    async def _once(self, broker: str, name: str, data: bytes, call: Call) -> bytes:
        try:
            (answer,) = await self._tunnel.call(broker, name, data, CallInfo.of(call))
        except OutcomeUnknown as failure:
            if name not in REPEATABLE:
                raise
            raise NotConnected(str(failure)) from None
        return answer

    async def _broker_of_queue(self, queue: pb.MessageQueue, call: Call) -> str:
        view = await self._tunnel.route(topic_name(queue.topic, call))
        named = queue.broker.name
        if named and any(broker.broker == named for broker in view.route.brokers):
            return named
        return self._any(view.route)

    def _any(self, route: TopicRoute, *, but: Iterable[str] = ()) -> str:
        """A broker of a topic that can be reached, a different one each time."""
        live = set(self._tunnel.brokers()) - set(but)
        able = [broker.broker for broker in route.brokers if broker.queues and broker.broker in live]
        if not able:
            raise NotConnected(f"no broker of topic {route.topic} can be reached at present")
        return able[next(self._turns) % len(able)]

    # ---- calls with parts for several brokers

    async def _send(self, data: bytes, call: Call) -> bytes:
        request = service.SendMessageRequest.FromString(data)
        client_id(call)
        if not request.messages:
            raise Refused(Code.MESSAGE_CORRUPTED, "request has no messages")
        route = (await self._tunnel.route(topic_name(request.messages[0].topic, call))).route
        parts: dict[str, list[int]] = {}
        for number, message in enumerate(request.messages):
            parts.setdefault(_owner(route, message), []).append(number)
        if len(parts) == 1:
            return await self._send_to(next(iter(parts)), route, data, call)
        entries: list[service.SendResultEntry] = [service.SendResultEntry() for _ in request.messages]
        await asyncio.gather(*(self._send_part(owner, route, some, request, entries, call) for owner, some in parts.items()))
        response = service.SendMessageResponse(status=common(entry.status for entry in entries), entries=entries)
        return response.SerializeToString()

    async def _send_to(self, owner: str, route: TopicRoute, data: bytes, call: Call) -> bytes:
        """To the broker that the messages belong to; "": to any."""
        if owner:
            return await self._one(owner, "SendMessage", data, call)
        return await patiently(lambda: self._send_anywhere(route, data, call), left_s=call.remaining_s())

    async def _send_anywhere(self, route: TopicRoute, data: bytes, call: Call) -> bytes:
        broker = self._any(route)
        try:
            return await self._once(broker, "SendMessage", data, call)
        except BETWEEN_MASTERS as failure:
            try:
                other = self._any(route, but=(broker,))
            except NotConnected:
                raise failure from None
            return await self._once(other, "SendMessage", data, call)

    async def _send_part(
        self,
        owner: str,
        route: TopicRoute,
        numbers: list[int],
        request: service.SendMessageRequest,
        entries: list[service.SendResultEntry],
        call: Call,
    ) -> None:
        part = service.SendMessageRequest(messages=[request.messages[number] for number in numbers])
        try:
            answer = await self._send_to(owner, route, part.SerializeToString(), call)
            found = list(service.SendMessageResponse.FromString(answer).entries)
        except KourouError as failure:
            found = [service.SendResultEntry(status=status_of(failure)) for _ in numbers]
        for number, entry in zip(numbers, found, strict=True):
            entries[number].CopyFrom(entry)

    async def _ack(self, data: bytes, call: Call) -> bytes:
        request = service.AckMessageRequest.FromString(data)
        client_id(call)
        if not request.entries:
            raise Refused(Code.BAD_REQUEST, "request has no entries")
        results: list[pb.Status] = [OK for _ in request.entries]
        parts: dict[str, list[int]] = {}
        for number, entry in enumerate(request.entries):
            try:
                parts.setdefault(broker_of(entry.receipt_handle, RECEIPT), []).append(number)
            except KourouError as failure:
                results[number] = status_of(failure)
        await asyncio.gather(*(self._ack_part(broker, some, request, results, call) for broker, some in parts.items()))
        response = service.AckMessageResponse(status=common(results))
        for entry, status in zip(request.entries, results, strict=True):
            response.entries.add(message_id=entry.message_id, receipt_handle=entry.receipt_handle, status=status)
        return response.SerializeToString()

    async def _ack_part(
        self,
        broker: str,
        numbers: list[int],
        request: service.AckMessageRequest,
        results: list[pb.Status],
        call: Call,
    ) -> None:
        part = service.AckMessageRequest(
            group=request.group, topic=request.topic, entries=[request.entries[number] for number in numbers]
        )
        try:
            answer = service.AckMessageResponse.FromString(
                await self._one(broker, "AckMessage", part.SerializeToString(), call)
            )
            found = [entry.status for entry in answer.entries] or [answer.status] * len(numbers)
        except KourouError as failure:
            found = [status_of(failure)] * len(numbers)
        for number, status in zip(numbers, found, strict=True):
            results[number] = status

    async def _change_invisible(self, data: bytes, call: Call) -> bytes:
        """The answer always carries a handle, also here."""
        request = service.ChangeInvisibleDurationRequest.FromString(data)
        try:
            client_id(call)
            broker = broker_of(request.receipt_handle, RECEIPT)
            return await self._one(broker, "ChangeInvisibleDuration", data, call)
        except (Refused, KourouError) as failure:
            return service.ChangeInvisibleDurationResponse(
                status=status_of(failure), receipt_handle=request.receipt_handle
            ).SerializeToString()

    async def _sync_lite(self, data: bytes, call: Call) -> bytes:
        """Parts of a lite topic may lie on any of its brokers: all of them are told."""
        request = service.SyncLiteSubscriptionRequest.FromString(data)
        client_id(call)
        view = await self._tunnel.route(topic_name(request.topic, call))
        live = set(self._tunnel.brokers())
        brokers = [broker.broker for broker in view.route.brokers if broker.broker in live]
        if not brokers:
            raise NotConnected(f"no broker of topic {view.route.topic} can be reached at present")
        answers = await asyncio.gather(*(self._one(broker, "SyncLiteSubscription", data, call) for broker in brokers))
        statuses = [service.SyncLiteSubscriptionResponse.FromString(answer).status for answer in answers]
        refused = next((status for status in statuses if status.code != Code.OK), OK)
        return service.SyncLiteSubscriptionResponse(status=refused).SerializeToString()

    # ---- clients

    async def tell(self, client: GatewayClient, command: bytes, info: CallInfo) -> list[bytes]:
        """Settings for the brokers that a client has to do with; what those that could be reached answer."""
        topics = client.topics | client.subscriptions.keys()
        wanted: set[str] = set()
        for topic in topics:
            try:
                wanted.update(broker.broker for broker in (await self._tunnel.route(topic)).route.brokers)
            except KourouError:
                continue
        brokers = (wanted & set(self._tunnel.brokers())) or set(self._tunnel.brokers())
        answers = await asyncio.gather(
            *(self._tunnel.call(broker, SETTINGS, command, info) for broker in sorted(brokers)), return_exceptions=True
        )
        told = self._told.setdefault(client.id, set())
        found: list[bytes] = []
        for broker, answer in zip(sorted(brokers), answers, strict=True):
            if isinstance(answer, BaseException):
                self._log.info("settings_not_passed_on", client=client.id, broker=broker, reason=str(answer))
            else:
                told.add(broker)
                found += answer
        if self.clients.find(client.id) is None:  # it has left meanwhile: those that were told now hear of that, too
            self._gone(client)
        return found

    def pass_to_brokers(self, client: str, method: str, data: bytes, info: CallInfo) -> None:
        """To all that know a client; nobody waits for the answers."""
        for broker in self._told.get(client, ()):
            self._spawn(self._quietly(broker, method, data, info))

    async def _quietly(self, broker: str, method: str, data: bytes, info: CallInfo) -> None:
        try:
            await self._tunnel.call(broker, method, data, info)
        except Exception as failure:  # the root of a task
            self._log.info("call_not_passed_on", call=method, broker=broker, reason=str(failure))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _gone(self, client: GatewayClient) -> None:
        info = CallInfo({"x-mq-client-id": client.id}, "", client.peer, "", False, 3_000)
        self.pass_to_brokers(client.id, "NotifyClientTermination", b"", info)
        self._told.pop(client.id, None)

    def command(self, client: str, data: bytes) -> None:
        """A broker has something to say to a client."""
        known = self.clients.find(client)
        if known is not None and known.stream is not None:
            known.stream.send(data)

    def broker_back(self, broker: str) -> None:
        """A connection to a broker was made anew: it knows none of our clients any more."""
        for client in self.clients:
            if broker in self._told.get(client.id, ()):
                info = CallInfo({"x-mq-client-id": client.id}, "", client.peer, "", False, 3_000)
                command = service.TelemetryCommand(settings=client.settings)
                self._spawn(self._quietly(broker, SETTINGS, command.SerializeToString(), info))

    async def expire(self) -> None:
        """Called every few seconds."""
        self.clients.expire()


class _Views:
    """What the telemetry handlers ask of a ``Messaging``: nothing is known of groups here."""

    def known_group(self, name: str) -> GroupView | None:
        return None

    async def group(self, name: str) -> GroupView:
        raise NotMaster("groups are known to brokers alone")

    def topic(self, name: str) -> Any:
        raise NotMaster("topics are known to brokers alone")


class RemoteTelemetry(TelemetryHandlers):
    """The telemetry stream ends here; what it says is passed on."""

    def __init__(self, gateway: RemoteGateway, tunnel: Tunnel, clients: Clients) -> None:
        super().__init__(_Views(), clients)  # type: ignore[arg-type]
        self._gateway = gateway
        self._tunnel = tunnel

    async def accept(self, client: str, asked: pb.Settings, call: Call, stream: StreamCall | None) -> pb.Settings:
        settings = await super().accept(client, asked, call, stream)
        known = self._clients.find(client)
        if known is None:
            return settings
        try:
            if not known.subscriptions:
                known.settings = await self._told(known, asked, call)
            else:  # a push consumer takes over once for all whether it consumes in order: better late than wrong
                known.settings = await patiently(lambda: self._told(known, asked, call), left_s=SETTINGS_S)
        except NotConnected:
            known.settings = merged(asked, None, fifo=await self._reads_in_order(known))
        return known.settings

    async def _told(self, client: GatewayClient, asked: pb.Settings, call: Call) -> pb.Settings:
        """What the brokers say to them. Raises NotConnected where none does."""
        command = service.TelemetryCommand(settings=asked).SerializeToString()
        for answer in await self._gateway.tell(client, command, CallInfo.of(call)):
            told = service.TelemetryCommand.FromString(answer)
            if told.status.code == Code.OK and told.HasField("settings"):
                return told.settings
        raise NotConnected("no broker has answered to settings")

    async def _reads_in_order(self, client: GatewayClient) -> bool:
        """As far as nameservers know: topics, not groups."""
        for topic in client.subscriptions:
            with contextlib.suppress(KourouError):
                if (await self._tunnel.route(topic)).route.type in (TopicType.FIFO, TopicType.LITE):
                    return True
        return False

    async def _command(self, client: str, command: service.TelemetryCommand, call: StreamCall) -> None:
        if command.WhichOneof("command") in ("thread_stack_trace", "verify_message_result"):
            self._gateway.pass_to_brokers(client, ANSWERED, command.SerializeToString(), CallInfo.of(call))
        await super()._command(client, command, call)

    def heartbeat_remote(self, data: bytes, call: Call) -> bytes:
        answer = self.heartbeat(data, call)
        self._gateway.pass_to_brokers(client_id(call), "Heartbeat", data, CallInfo.of(call))
        return answer


def _owner(route: TopicRoute, message: pb.Message) -> str:
    """The broker that a message must go to, "" where any will do."""
    system = message.system_properties
    if route.type is TopicType.FIFO and system.HasField("message_group") and route.queues:
        return route.queues[message_group_index(system.message_group, len(route.queues))][0]
    return ""


def _receipt(request: Any) -> str:
    return broker_of(request.receipt_handle, RECEIPT)


def _recall(request: Any) -> str:
    return broker_of(request.recall_handle, RECALL)


def _transaction(request: Any) -> str:
    if not request.transaction_id.strip():
        raise Refused(Code.INVALID_TRANSACTION_ID, "transaction id is blank")
    return broker_of(request.transaction_id, TRANSACTION)
