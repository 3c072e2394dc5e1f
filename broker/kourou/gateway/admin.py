"""The Admin service of the official API: what operators' tools ask a broker."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

from kourou.core.errors import KourouError, MessageNotFound
from kourou.core.names import check_group, check_topic
from kourou.core.outgoing import OutgoingMessage
from kourou.core.version import VERSION
from kourou.core.views import Accumulation, Sent, TopicView
from kourou.gateway.calls import Log, Unary, guarded_unary
from kourou.gateway.checks import check_message, kind_of
from kourou.gateway.clients import Clients, GatewayClient
from kourou.gateway.convert import TYPES, fill, milliseconds, outgoing
from kourou.gateway.messaging import Stored
from kourou.gateway.status import OK, Code, Refused, status_of
from kourou.http2.call import Call, Kind, Method
from kourou.proto.rocketmq.v2 import admin_pb2 as admin
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

COMMAND_S = 5.0  # a client has so long to answer a command
MESSAGES_MAX = 1_000
LEVELS = {0: "debug", 1: "debug", 2: "info", 3: "warning", 4: "error"}


class Operations(Protocol):
    """What a broker can tell, and do, for operators."""

    broker: str

    def topic(self, name: str) -> TopicView: ...

    def accumulation(self, group: str) -> Mapping[str, Accumulation]: ...

    def filters(self, group: str) -> Sequence[tuple[str, str, str]]: ...

    async def clear_filter(self, group: str, topic: str) -> None: ...

    async def reset(self, group: str, topic: str, time_ms: int) -> None: ...

    async def find(
        self, topic: str, *, message_id: str | None, key: str | None, begin_ms: int, end_ms: int, limit: int
    ) -> Sequence[tuple[int, Stored]]: ...

    def spans(self, group: str, topic: str) -> list[tuple[int, int, int, int]]:
        """(queue, store time of the first message, of the last, of the next to be handed out), ms."""
        ...

    def send(self, message: OutgoingMessage, done: Callable[[Sent | KourouError], None]) -> None: ...

    def counts(self) -> tuple[int, int]:
        """Messages in and out since the start."""
        ...

    def set_log_level(self, level: str) -> None: ...


class AdminHandlers:
    def __init__(self, operations: Operations, clients: Clients, *, log: Log, now_ms: Callable[[], int]) -> None:
        self._operations = operations
        self._clients = clients
        self._log = log
        self._now_ms = now_ms
        self._counted = (now_ms(), 0, 0)

    def methods(self) -> dict[str, Method]:
        table: dict[str, tuple[Unary, Callable[..., Message]]] = {
            "DescribeTopicStatus": (self.describe_topic, admin.DescribeTopicStatusResponse),
            "ListSubscription": (self.list_subscription, admin.ListSubscriptionResponse),
            "DescribeSubscription": (self.describe_subscription, admin.DescribeSubscriptionResponse),
            "DeleteSubscription": (self.delete_subscription, admin.DeleteSubscriptionResponse),
            "DescribeGroupAccumulation": (self.accumulation, admin.DescribeGroupAccumulationResponse),
            "ListConsumerConnection": (self.connections, admin.ListConsumerConnectionResponse),
            "ResetGroupOffset": (self.reset, admin.ResetGroupOffsetResponse),
            "QueryMessage": (self.query_message, admin.ListMessageResponse),
            "PrintThreadStackTrace": (self.stack_trace, admin.PrintThreadStackTraceResponse),
            "VerifyMessage": (self.verify, admin.VerifyMessageResponse),
            "AdminSendMessage": (self.send, admin.AdminSendMessageResponse),
            "GetConsumerRunningInfo": (self.running_info, admin.GetConsumerRunningInfoResponse),
            "GetTopicRoute": (self.topic_route, admin.GetTopicRouteResponse),
            "QueryTimeSpan": (self.time_span, admin.QueryTimeSpanResponse),
            "GetProxyRuntimeStats": (self.stats, admin.GetProxyRuntimeStatsResponse),
        }
        methods = {
            f"/apache.rocketmq.v2.Admin/{name}": Method(Kind.UNARY, unary=guarded_unary(name, handler, answer, self._log))
            for name, (handler, answer) in table.items()
        }
        methods["/apache.rocketmq.v2.Admin/ChangeLogLevel"] = Method(Kind.UNARY, unary=self.log_level)
        return methods

    # ---- topics and groups

    def describe_topic(self, data: bytes, call: Call) -> bytes:
        request = admin.DescribeTopicStatusRequest.FromString(data)
        topic = self._operations.topic(_topic(request.topic))
        response = admin.DescribeTopicStatusResponse(status=OK, topic_message_type=TYPES[topic.type])  # type: ignore[arg-type]
        response.create_timestamp.FromMilliseconds(topic.created_ms)
        response.tags["queues"] = str(topic.queues)
        return response.SerializeToString()

    def topic_route(self, data: bytes, call: Call) -> bytes:
        request = admin.GetTopicRouteRequest.FromString(data)
        topic = self._operations.topic(_topic(request.topic))
        value = {
            "topic": topic.name,
            "queueDatas": [
                {
                    "brokerName": self._operations.broker,
                    "readQueueNums": topic.queues,
                    "writeQueueNums": topic.queues,
                    "perm": 6,
                }
            ],
            "brokerDatas": [{"brokerName": self._operations.broker, "brokerAddrs": {"0": call.local}}],
        }
        return admin.GetTopicRouteResponse(status=OK, topic_route_data=json.dumps(value)).SerializeToString()

    def accumulation(self, data: bytes, call: Call) -> bytes:
        request = admin.DescribeGroupAccumulationRequest.FromString(data)
        wanted = {_topic(topic) for topic in request.topics}
        response = admin.DescribeGroupAccumulationResponse(status=OK)
        total = response.accumulation
        now_ms, oldest = self._now_ms(), 0
        for topic, found in self._operations.accumulation(_group(request.group)).items():
            if wanted and topic not in wanted:
                continue
            part = response.topic_accumulation[topic]
            part.ready_messages, part.inflight_messages = found.ready, found.inflight
            part.accumulation = found.ready + found.inflight
            delay_ms = max(0, now_ms - found.oldest_ms) if found.oldest_ms is not None else 0
            part.deliver_delay_time.FromMilliseconds(delay_ms)
            total.ready_messages += found.ready
            total.inflight_messages += found.inflight
            total.accumulation += found.ready + found.inflight
            oldest = max(oldest, delay_ms)
        total.deliver_delay_time.FromMilliseconds(oldest)
        return response.SerializeToString()

    def time_span(self, data: bytes, call: Call) -> bytes:
        request = admin.QueryTimeSpanRequest.FromString(data)
        response = admin.QueryTimeSpanResponse(status=OK)
        now_ms, group = self._now_ms(), _group(request.group)
        for resource in request.topics:
            for queue, first_ms, last_ms, next_ms in self._operations.spans(group, _topic(resource)):
                span = response.queue_time_span_list.add(
                    min_timestamp=first_ms, max_timestamp=last_ms, consume_timestamp=next_ms,
                    delay_time_ms=max(0, now_ms - next_ms) if next_ms else 0,
                )  # fmt: skip
                span.message_queue.topic.CopyFrom(resource)
                span.message_queue.id = queue
                span.message_queue.broker.name = self._operations.broker
        return response.SerializeToString()

    async def reset(self, data: bytes, call: Call) -> bytes:
        request = admin.ResetGroupOffsetRequest.FromString(data)
        if not request.HasField("reset_timestamp"):
            raise Refused(Code.BAD_REQUEST, "field reset_timestamp is missing")
        time_ms = max(0, milliseconds(request.reset_timestamp))
        await self._operations.reset(_group(request.group), _topic(request.topic), time_ms)
        return admin.ResetGroupOffsetResponse(status=OK).SerializeToString()

    # ---- subscriptions and connections

    def list_subscription(self, data: bytes, call: Call) -> bytes:
        request = admin.ListSubscriptionRequest.FromString(data)
        response = admin.ListSubscriptionResponse(status=OK)
        seen: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for client in self._clients:
            for topic, wanted in client.subscriptions.items():
                if _asked(request, client.group, topic):
                    seen.setdefault((client.group, topic), set()).add(wanted)
        for (group, topic), expressions in sorted(seen.items()):
            for kind, text in sorted(expressions):
                _subscription(response.subscription_info.add(), group, topic, kind, text, agree=len(expressions) == 1)
        return response.SerializeToString()

    def describe_subscription(self, data: bytes, call: Call) -> bytes:
        request = admin.DescribeSubscriptionRequest.FromString(data)
        response = admin.DescribeSubscriptionResponse(status=OK)
        for client in self._clients:
            for topic, (kind, text) in client.subscriptions.items():
                if _asked(request, client.group, topic):
                    entry = response.client_subscription_info.add()
                    _client_info(entry.client_info, client)
                    _subscription(entry.subscription_info, client.group, topic, kind, text, agree=True)
        return response.SerializeToString()

    async def delete_subscription(self, data: bytes, call: Call) -> bytes:
        """What was set for a group by an operator is set no more."""
        request = admin.DeleteSubscriptionRequest.FromString(data)
        await self._operations.clear_filter(_group(request.group), _topic(request.topic))
        return admin.DeleteSubscriptionResponse(status=OK).SerializeToString()

    def connections(self, data: bytes, call: Call) -> bytes:
        request = admin.ListConsumerConnectionRequest.FromString(data)
        response = admin.ListConsumerConnectionResponse(status=OK)
        for client in self._clients.members(_group(request.group)):
            if not request.HasField("topic") or request.topic.name in client.subscriptions:
                _client_info(response.client_info.add(), client)
        return response.SerializeToString()

    def running_info(self, data: bytes, call: Call) -> bytes:
        request = admin.GetConsumerRunningInfoRequest.FromString(data)
        client = self._member(_group(request.group), request.client_id)
        response = admin.GetConsumerRunningInfoResponse(status=OK)
        info = response.consumer_running_info
        info.properties["PROP_CONSUMER_START_TIMESTAMP"] = "0"
        info.properties["client_version"] = client.settings.user_agent.version
        for topic, (kind, text) in client.subscriptions.items():
            info.subscriptions[topic].type = pb.SQL if kind == "sql" else pb.TAG
            info.subscriptions[topic].expression = text
        return response.SerializeToString()

    def _member(self, group: str, client_id: str) -> GatewayClient:
        client = self._clients.find(client_id)
        if client is None or client.group != group:
            raise Refused(Code.NOT_FOUND, f"group {group} has no client {client_id[:100]!r} here")
        return client

    # ---- messages

    async def query_message(self, data: bytes, call: Call) -> bytes:
        request = admin.ListMessageRequest.FromString(data)
        how = request.WhichOneof("search_key")
        if how in ("subscription", "lite_topic"):
            raise Refused(Code.NOT_IMPLEMENTED, f"messages can't be searched by {how}")
        limit = request.max_message_nums or request.page_size or 32
        end_ms = milliseconds(request.end_timestamp) if request.HasField("end_timestamp") else 1 << 60
        response = admin.ListMessageResponse(status=OK)
        try:
            found = await self._operations.find(
                _topic(request.topic),
                message_id=request.message_id if how == "message_id" else None,
                key=request.message_key if how == "message_key" else None,
                begin_ms=max(0, milliseconds(request.begin_timestamp)) if request.HasField("begin_timestamp") else 0,
                end_ms=end_ms,
                limit=max(1, min(limit, MESSAGES_MAX)),
            )
        except MessageNotFound:
            found = ()
        for queue, stored in found:
            fill(response.messages.add(), stored, request.topic, queue, host=call.local)
        return response.SerializeToString()

    def send(self, data: bytes, call: Call) -> Awaitable[bytes]:
        request = admin.AdminSendMessageRequest.FromString(data)
        message = pb.Message(topic=request.topic, body=request.body)
        message.system_properties.CopyFrom(request.system_properties)
        message.user_properties.update(request.user_properties)
        system = message.system_properties
        if request.HasField("tag"):
            system.tag = request.tag
        if request.HasField("key"):
            system.keys.append(request.key)
        if not system.message_id:
            system.message_id = f"01{secrets.token_hex(16).upper()}"
        topic = _topic(request.topic)
        check_message(message)
        out = outgoing(message, topic, kind_of(system), now_ms=self._now_ms(), peer=call.peer)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(outcome: Sent | KourouError) -> None:
            status = OK if isinstance(outcome, Sent) else status_of(outcome)
            if not future.done():
                answer = admin.AdminSendMessageResponse(status=status, message_id=system.message_id)
                future.set_result(answer.SerializeToString())

        self._operations.send(out, done)
        return future

    # ---- commands to clients

    async def stack_trace(self, data: bytes, call: Call) -> bytes:
        request = admin.PrintThreadStackTraceRequest.FromString(data)
        client = self._member(_group(request.group), request.client_id)
        nonce = self._clients.next_nonce()
        command = service.TelemetryCommand(
            print_thread_stack_trace_command=service.PrintThreadStackTraceCommand(nonce=nonce)
        )
        answer = await self._ask(client, command, nonce)
        response = admin.PrintThreadStackTraceResponse(status=answer.status if answer.HasField("status") else OK)
        response.thread_stack_trace = answer.thread_stack_trace.thread_stack_trace
        return response.SerializeToString()

    async def verify(self, data: bytes, call: Call) -> bytes:
        request = admin.VerifyMessageRequest.FromString(data)
        client = self._member(_group(request.group), request.client_id)
        topic = _topic(request.topic)
        found = await self._operations.find(
            topic, message_id=request.message_id, key=None, begin_ms=0, end_ms=1 << 60, limit=1
        )
        queue, stored = found[0]
        nonce = self._clients.next_nonce()
        command = service.TelemetryCommand()
        command.verify_message_command.nonce = nonce
        fill(command.verify_message_command.message, stored, request.topic, queue, host=call.local)
        answer = await self._ask(client, command, nonce)
        status = answer.status if answer.HasField("status") else OK
        return admin.VerifyMessageResponse(status=status).SerializeToString()

    async def _ask(self, client: GatewayClient, command: service.TelemetryCommand, nonce: str) -> service.TelemetryCommand:
        future = self._clients.ask(client, command, nonce)
        if future.cancelled():
            raise Refused(Code.NOT_FOUND, f"client {client.id[:100]!r} has no telemetry stream open")
        try:
            async with asyncio.timeout(COMMAND_S):
                return await future
        except TimeoutError:
            raise Refused(Code.PROXY_TIMEOUT, f"client {client.id[:100]!r} did not answer within {COMMAND_S:g} s") from None

    # ---- the process

    def stats(self, data: bytes, call: Call) -> bytes:
        then_ms, then_in, then_out = self._counted
        now_ms, (came, went) = self._now_ms(), self._operations.counts()
        self._counted = now_ms, came, went
        seconds = max(0.001, (now_ms - then_ms) / 1000)
        clients = list(self._clients)
        consumers = sum(bool(client.group) for client in clients)
        return admin.GetProxyRuntimeStatsResponse(
            status=OK,
            proxy_name=self._operations.broker,
            version=VERSION,
            in_tps=(came - then_in) / seconds,
            out_tps=(went - then_out) / seconds,
            connections=len(clients),
            producers=len(clients) - consumers,
            consumers=consumers,
        ).SerializeToString()

    def log_level(self, data: bytes, call: Call) -> bytes:
        request = admin.ChangeLogLevelRequest.FromString(data)
        level = LEVELS.get(request.level)
        if level is None:
            return admin.ChangeLogLevelResponse(remark=f"log level {request.level} is unknown").SerializeToString()
        self._operations.set_log_level(level)
        return admin.ChangeLogLevelResponse(remark=f"log level is {level} now").SerializeToString()


def _topic(resource: pb.Resource) -> str:
    try:
        return check_topic(resource.name)
    except KourouError as failure:
        raise Refused(Code.ILLEGAL_TOPIC, str(failure)) from None


def _group(resource: pb.Resource) -> str:
    try:
        return check_group(resource.name)
    except KourouError as failure:
        raise Refused(Code.ILLEGAL_CONSUMER_GROUP, str(failure)) from None


def _asked(request: Any, group: str, topic: str) -> bool:
    return (not request.HasField("group") or request.group.name == group) and (
        not request.HasField("topic") or request.topic.name == topic
    )


def _subscription(info: admin.SubscriptionInfo, group: str, topic: str, kind: str, text: str, *, agree: bool) -> None:
    info.group.name, info.topic.name = group, topic
    info.expression.type = pb.SQL if kind == "sql" else pb.TAG
    info.expression.expression = text
    info.online = True
    info.message_model = admin.CLUSTERING
    info.subscription_consistency = agree


def _client_info(info: admin.ClientInfo, client: GatewayClient) -> None:
    agent = client.settings.user_agent
    info.client_id, info.version = client.id, agent.version
    info.language = pb.Language.Name(agent.language) if agent.language in pb.Language.values() else str(agent.language)
    info.hostname, info.egress_ip = agent.hostname, client.peer.rpartition(":")[0]
    info.message_model = admin.CLUSTERING
