"""A client of the official API by hand: our stubs over grpc.aio, nothing hidden."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from kourou.client import Client
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.integration.node import Node

Code = pb.Code
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Stub:
    """``stub.SendMessage(request, …)``: the calls of the service, made from its descriptor."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        for method in service.DESCRIPTOR.services_by_name["MessagingService"].methods:
            path = f"/{method.containing_service.full_name}/{method.name}"
            make: Any = channel.unary_unary
            if method.client_streaming:
                make = channel.stream_stream
            elif method.server_streaming:
                make = channel.unary_stream
            request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            setattr(
                self,
                method.name,
                make(path, request_serializer=request.SerializeToString, response_deserializer=answer.FromString),
            )


def endpoints(port: int = 8081) -> pb.Endpoints:
    return pb.Endpoints(scheme=pb.IPv4, addresses=[pb.Address(host="127.0.0.1", port=port)])


def message(topic: str, body: bytes = b"body", **system: Any) -> pb.Message:
    made = pb.Message(topic=pb.Resource(name=topic), body=body)
    properties = system.pop("properties", {})
    due_ms = system.pop("due_ms", None)
    keys = system.pop("keys", ())
    made.system_properties.message_id = f"01{uuid.uuid4().hex.upper()}"
    made.system_properties.born_timestamp.GetCurrentTime()
    made.system_properties.keys.extend(keys)
    made.user_properties.update(properties)
    for name, value in system.items():
        setattr(made.system_properties, name, value)
    if due_ms is not None:
        made.system_properties.delivery_timestamp.FromMilliseconds(due_ms)
    return made


class Received:
    """What the stream of a ReceiveMessage or PullMessage came to."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.statuses = [item.status for item in items if item.WhichOneof("content") == "status"]
        self.messages: list[pb.Message] = [item.message for item in items if item.WhichOneof("content") == "message"]
        self.next_offsets = [item.next_offset for item in items if item.WhichOneof("content") == "next_offset"]
        self.delivered = [item for item in items if item.WhichOneof("content") == "delivery_timestamp"]
        assert len(self.statuses) == 1, items
        self.code = self.statuses[0].code
        self.text = self.statuses[0].message

    @property
    def bodies(self) -> list[bytes]:
        return [found.body for found in self.messages]

    @property
    def handles(self) -> list[str]:
        return [found.system_properties.receipt_handle for found in self.messages]


class Official:
    """One client. Use it inside a running loop; topics and groups get names of their own by ``name``."""

    def __init__(self, node: Node, *, client: str | None = None) -> None:
        self.node = node
        self.address = node.urls["official gRPC"]
        self.client = client if client is not None else f"host@1@{uuid.uuid4().hex}"
        self.metadata: tuple[tuple[str, str], ...] = (("x-mq-client-id", self.client), ("x-mq-language", "PYTHON"))
        self.channel = grpc.aio.insecure_channel(self.address, options=UNLIMITED)
        self.stub: Any = Stub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def call(self, name: str, request: Any, *, timeout_s: float = 20.0) -> Any:
        return await getattr(self.stub, name)(request, metadata=self.metadata, timeout=timeout_s)

    # ---- sending

    async def send(self, *messages: pb.Message) -> Any:
        return await self.call("SendMessage", service.SendMessageRequest(messages=messages))

    async def sent(self, *messages: pb.Message) -> list[Any]:
        """Each in a call of its own, as official clients do; the entries."""
        entries = []
        for one in messages:
            answer = await self.send(one)
            assert answer.status.code == Code.OK, answer
            assert [entry.status.code for entry in answer.entries] == [Code.OK]
            entries.append(answer.entries[0])
        return entries

    # ---- consuming

    def receive_request(self, topic: str, group: str, **fields: Any) -> service.ReceiveMessageRequest:
        request = service.ReceiveMessageRequest(
            group=pb.Resource(name=group),
            message_queue=pb.MessageQueue(topic=pb.Resource(name=topic), id=fields.pop("queue", -1)),
            batch_size=fields.pop("limit", 32),
        )
        request.invisible_duration.FromMilliseconds(fields.pop("invisible_ms", 30_000))
        request.long_polling_timeout.FromMilliseconds(fields.pop("wait_ms", 0))
        filter_type, expression = fields.pop("wanted", (pb.TAG, "*"))
        request.filter_expression.type, request.filter_expression.expression = filter_type, expression
        for name, value in fields.items():
            setattr(request, name, value)
        return request

    async def receive(self, topic: str, group: str, **fields: Any) -> Received:
        request = self.receive_request(topic, group, **fields)
        timeout_s = request.long_polling_timeout.ToMilliseconds() / 1000 + 20
        call = self.stub.ReceiveMessage(request, metadata=self.metadata, timeout=timeout_s)
        return Received([item async for item in call])

    async def received(self, topic: str, group: str, count: int, **fields: Any) -> list[pb.Message]:
        """So many messages, in as many receives as it takes."""
        found: list[pb.Message] = []
        async with asyncio.timeout(30):
            while len(found) < count:
                got = await self.receive(topic, group, **{"wait_ms": 10_000, **fields})
                assert got.code in (Code.OK, Code.MESSAGE_NOT_FOUND), got.text
                found += got.messages
        return found

    async def ack(self, topic: str, group: str, *handles: str) -> Any:
        request = service.AckMessageRequest(group=pb.Resource(name=group), topic=pb.Resource(name=topic))
        for handle in handles:
            request.entries.add(message_id="id", receipt_handle=handle)
        return await self.call("AckMessage", request)

    async def change(self, topic: str, group: str, handle: str, ms: int, **fields: Any) -> Any:
        request = service.ChangeInvisibleDurationRequest(
            group=pb.Resource(name=group), topic=pb.Resource(name=topic), receipt_handle=handle, **fields
        )
        request.invisible_duration.FromMilliseconds(ms)
        return await self.call("ChangeInvisibleDuration", request)

    async def forward(self, topic: str, group: str, handle: str) -> Any:
        request = service.ForwardMessageToDeadLetterQueueRequest(
            group=pb.Resource(name=group), topic=pb.Resource(name=topic), receipt_handle=handle, delivery_attempt=1
        )
        return await self.call("ForwardMessageToDeadLetterQueue", request)

    async def end(self, topic: str, transaction: str, resolution: int) -> Any:
        request = service.EndTransactionRequest(
            topic=pb.Resource(name=topic),
            message_id="id",
            transaction_id=transaction,
            resolution=resolution,  # type: ignore[arg-type]
        )
        return await self.call("EndTransaction", request)

    async def subscribe_lite(self, topic: str, group: str, *names: str) -> Any:
        request = service.SyncLiteSubscriptionRequest(
            action=pb.PARTIAL_ADD,
            topic=pb.Resource(name=topic),
            group=pb.Resource(name=group),
            lite_topic_set=names,
        )
        return await self.call("SyncLiteSubscription", request)

    # ---- telemetry

    def stream(self) -> Any:
        return self.stub.Telemetry(metadata=self.metadata)

    @asynccontextmanager
    async def telemetry(self, settings: pb.Settings) -> AsyncIterator[Any]:
        """An open stream whose settings were answered."""
        stream = self.stream()
        await stream.write(service.TelemetryCommand(settings=settings))
        answer = await stream.read()
        assert answer.status.code == Code.OK
        assert answer.HasField("settings")
        try:
            yield stream
        finally:
            stream.cancel()


def producing(*topics: str) -> pb.Settings:
    settings = pb.Settings(client_type=pb.PRODUCER)
    settings.publishing.SetInParent()
    for topic in topics:
        settings.publishing.topics.add(name=topic)
    return settings


def consuming(group: str, *topics: str, kind: int = pb.PUSH_CONSUMER) -> pb.Settings:
    settings = pb.Settings(client_type=kind)  # type: ignore[arg-type]
    settings.subscription.group.name = group
    for topic in topics:
        entry = settings.subscription.subscriptions.add(topic=pb.Resource(name=topic))
        entry.expression.type, entry.expression.expression = pb.TAG, "*"
    return settings


async def define(node: Node, name: str, kind: str = "normal", queues: int = 4) -> str:
    async with Client(node.address) as client:
        await client.create_topic(name, type=kind, queues=queues)
    return name
