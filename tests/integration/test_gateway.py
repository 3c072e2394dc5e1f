"""The official API of a live node, on both engines, by hand: every call, its codes, hostile requests, kills."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor as descriptors
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.integration.node import Node
from tests.integration.official import Code, Official, Received, consuming, define, endpoints, message, producing

OPTIONS = ("--transaction-check-after-s", "0.2", "--transaction-check-every-s", "0.5")


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node"), "--grpc-engine", request.param, *OPTIONS) as running:
        yield running


def named(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:8]}"


# ---- routes


async def test_routes(node: Node) -> None:
    topic = await define(node, named("t"), queues=3)
    async with Official(node) as client:
        request = service.QueryRouteRequest(topic=pb.Resource(name=topic), endpoints=endpoints(1234))
        answer = await client.call("QueryRoute", request)
        assert answer.status.code == Code.OK
        assert [queue.id for queue in answer.message_queues] == [0, 1, 2]
        for queue in answer.message_queues:
            assert queue.broker.endpoints == endpoints(1234)  # as the client dialled
            assert (queue.broker.id, queue.permission) == (0, pb.READ_WRITE)
            assert list(queue.accept_message_types) == [pb.NORMAL]
        assert (await client.call("QueryRoute", request)).message_queues == answer.message_queues
        fifo = await define(node, named("f"), "fifo", queues=2)
        for name, queues in ((topic, [-1]), (fifo, [0, 1])):
            asked = service.QueryAssignmentRequest(
                topic=pb.Resource(name=name), group=pb.Resource(name=named("g")), endpoints=endpoints()
            )
            assigned = await client.call("QueryAssignment", asked)
            assert [entry.message_queue.id for entry in assigned.assignments] == queues


@pytest.mark.parametrize(
    ("code", "topic", "asked"),
    [
        (Code.ILLEGAL_TOPIC, "", endpoints()),
        (Code.ILLEGAL_TOPIC, "a b", endpoints()),
        (Code.ILLEGAL_TOPIC, "TBW102", endpoints()),
        (Code.ILLEGAL_ACCESS_POINT, "t", pb.Endpoints()),
        (Code.ILLEGAL_ACCESS_POINT, "t", endpoints(0)),
        (Code.ILLEGAL_ACCESS_POINT, "t", endpoints(70_000)),
        (Code.ILLEGAL_ACCESS_POINT, "t", pb.Endpoints(addresses=endpoints().addresses)),
    ],
)
async def test_routes_that_are_refused(node: Node, code: int, topic: str, asked: pb.Endpoints) -> None:
    async with Official(node) as client:
        request = service.QueryRouteRequest(topic=pb.Resource(name=topic), endpoints=asked)
        assert (await client.call("QueryRoute", request)).status.code == code


async def test_every_call_needs_a_client_id(node: Node) -> None:
    async with Official(node) as client:
        client.metadata = (("x-mq-client-id", "  "),)
        for name, (request, kind) in CALLS.items():
            if kind == "bidi":
                continue
            if kind == "stream":
                answers = [
                    item async for item in getattr(client.stub, name)(request(), metadata=client.metadata, timeout=10)
                ]
                assert [answer.status.code for answer in answers] == [Code.CLIENT_ID_REQUIRED], name
            else:
                answer = await client.call(name, request())
                assert answer.status.code == Code.CLIENT_ID_REQUIRED, name


# ---- sending and receiving


async def test_a_message_with_everything(node: Node) -> None:
    topic, group = await define(node, named("t")), named("g")
    async with Official(node) as client:
        sent = message(
            topic, b"\x1f\x8b...", tag="x", keys=["k1", "k2"], body_encoding=pb.GZIP, trace_context="00-1-2-3",
            born_host="here", properties={"a": "1", "é": "ü"},
        )  # fmt: skip
        (entry,) = await client.sent(sent)
        assert entry.message_id == sent.system_properties.message_id
        assert (entry.transaction_id, entry.recall_handle) == ("", "")
        got = await client.receive(topic, group, wait_ms=10_000)
        assert got.code == Code.OK
        assert len(got.delivered) == 1
        (found,) = got.messages
        system = found.system_properties
        assert (found.topic.name, found.body, dict(found.user_properties)) == (topic, sent.body, {"a": "1", "é": "ü"})
        assert system.body_digest.checksum == hashlib.md5(sent.body).hexdigest().upper()
        assert (system.delivery_attempt, system.queue_offset, system.message_type) == (1, entry.offset, pb.NORMAL)
        for name in ("message_id", "tag", "keys", "body_encoding", "trace_context", "born_host"):
            assert getattr(system, name) == getattr(sent.system_properties, name), name
        acked = await client.ack(topic, group, *got.handles)
        assert acked.status.code == Code.OK
        assert [(result.status.code, result.receipt_handle) for result in acked.entries] == [(Code.OK, got.handles[0])]
        assert (await client.ack(topic, group, *got.handles)).status.code == Code.OK
        assert (await client.receive(topic, group)).code == Code.MESSAGE_NOT_FOUND


async def test_several_in_one_call(node: Node) -> None:
    topic = await define(node, named("t"))
    async with Official(node) as client:
        answer = await client.send(message(topic, b"1"), message(topic, b""), message(topic, b"3"))
        assert answer.status.code == Code.MULTIPLE_RESULTS
        assert [entry.status.code for entry in answer.entries] == [Code.OK, Code.MESSAGE_BODY_EMPTY, Code.OK]
        assert (await client.send()).status.code == Code.MESSAGE_CORRUPTED
        assert (await client.send(message(topic), message("another"))).status.code == Code.MESSAGE_CORRUPTED
        assert sorted(found.body for found in await client.received(topic, named("g"), 2)) == [b"1", b"3"]


@pytest.mark.parametrize(
    ("code", "kind", "fields"),
    [
        (Code.MESSAGE_BODY_TOO_LARGE, "normal", {"body": bytes(4 * 1024 * 1024 + 1)}),
        (Code.ILLEGAL_MESSAGE_TAG, "normal", {"tag": "a|b"}),
        (Code.ILLEGAL_MESSAGE_GROUP, "fifo", {"message_group": "g" * 64}),
        (Code.ILLEGAL_MESSAGE_PROPERTY_KEY, "normal", {"properties": {"UNIQ_KEY": "x"}}),
        (Code.MESSAGE_PROPERTIES_TOO_LARGE, "normal", {"properties": {"a": "x" * 20_000}}),
        (Code.ILLEGAL_DELIVERY_TIME, "delay", {"due_ms": 10**14}),
        (Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "normal", {"message_group": "g"}),
        (Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "fifo", {}),
        (Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "normal", {"message_type": pb.TRANSACTION}),
        (Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "transaction", {}),
    ],
)
async def test_messages_that_are_refused(node: Node, code: int, kind: str, fields: dict[str, Any]) -> None:
    topic = await define(node, named("t"), kind)
    async with Official(node) as client:
        answer = await client.send(message(topic, **fields))
        assert answer.status.code == code, answer
        assert [entry.status.code for entry in answer.entries] == [code]
        missing = await client.send(message(named("missing")))
        assert missing.entries[0].status.code == Code.TOPIC_NOT_FOUND


async def test_filters(node: Node) -> None:
    topic = await define(node, named("t"), queues=1)
    async with Official(node) as client:
        for number in range(4):
            await client.sent(message(topic, str(number).encode(), tag="ab"[number % 2], properties={"n": str(number)}))
        assert (await client.receive(topic, named("g"), wanted=(pb.TAG, "b"), wait_ms=5_000)).bodies == [b"1", b"3"]
        assert (await client.receive(topic, named("g"), wanted=(pb.SQL, "n >= 2"), wait_ms=5_000)).bodies == [b"2", b"3"]
        for wanted in ((pb.TAG, "||"), (pb.SQL, ""), (pb.SQL, "n >"), (7, "x")):
            assert (await client.receive(topic, named("g"), wanted=wanted)).code == Code.ILLEGAL_FILTER_EXPRESSION, wanted


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        (Code.ILLEGAL_INVISIBLE_TIME, {"invisible_ms": 999}),
        (Code.ILLEGAL_INVISIBLE_TIME, {"invisible_ms": 12 * 3_600_000 + 1}),
        (Code.ILLEGAL_POLLING_TIME, {"wait_ms": -1}),
        (Code.BAD_REQUEST, {"attempt_id": "x" * 1_000}),
        (Code.MESSAGE_NOT_FOUND, {}),
        (Code.MESSAGE_NOT_FOUND, {"limit": -5}),
        (Code.MESSAGE_NOT_FOUND, {"limit": 10**6}),
        (Code.MESSAGE_NOT_FOUND, {"queue": 77}),
    ],
)
async def test_receives_and_their_codes(node: Node, code: int, fields: dict[str, Any]) -> None:
    topic = await define(node, named("t"))
    async with Official(node) as client:
        assert (await client.receive(topic, named("g"), **fields)).code == code
        assert (await client.receive(named("missing"), named("g"))).code == Code.TOPIC_NOT_FOUND
        assert (await client.receive(topic, "")).code == Code.ILLEGAL_CONSUMER_GROUP


async def test_a_parked_receive_wakes(node: Node) -> None:
    """For what is new, and for what comes back."""
    topic, group = await define(node, named("t")), named("g")
    async with Official(node) as client, Official(node) as other:
        parked = asyncio.create_task(client.receive(topic, group, wait_ms=15_000))
        while not await _parked(client, topic, parked):
            pass
        await other.sent(message(topic, b"new"))
        got = await parked
        assert got.bodies == [b"new"]
        parked = asyncio.create_task(client.receive(topic, group, wait_ms=15_000))
        answer = await other.change(topic, group, got.handles[0], 0)
        assert answer.status.code == Code.OK
        again = await parked
        assert [found.system_properties.delivery_attempt for found in again.messages] == [2]
        assert (await other.ack(topic, group, got.handles[0])).status.code == Code.INVALID_RECEIPT_HANDLE
        assert (await other.ack(topic, group, answer.receipt_handle)).status.code == Code.INVALID_RECEIPT_HANDLE
        assert (await other.ack(topic, group, *again.handles)).status.code == Code.OK


async def _parked(client: Official, topic: str, parked: asyncio.Task[Received]) -> bool:
    """Two round trips on the same connection later it has been read, and waits."""
    for _ in range(2):
        await client.call("QueryRoute", service.QueryRouteRequest(topic=pb.Resource(name=topic), endpoints=endpoints()))
    assert not parked.done()
    return True


async def test_order_by_message_group(node: Node) -> None:
    topic, group = await define(node, named("f"), "fifo"), named("g")
    async with Official(node) as client:
        for number in range(6):
            await client.sent(message(topic, str(number).encode(), message_group="ab"[number % 2]))
        seen: dict[str, list[bytes]] = {"a": [], "b": []}
        while sum(map(len, seen.values())) < 6:
            got = await client.receive(topic, group, limit=2, wait_ms=10_000)
            for found in got.messages:
                assert found.system_properties.message_type == pb.FIFO
                seen[found.system_properties.message_group].append(found.body)
            assert (await client.ack(topic, group, *reversed(got.handles))).status.code == Code.OK
        assert seen == {"a": [b"0", b"2", b"4"], "b": [b"1", b"3", b"5"]}


async def test_lite_topics_that_were_there_before_the_first_receive(node: Node) -> None:
    topic, group = await define(node, named("l"), "lite"), named("g")
    async with Official(node) as client, Official(node) as other:
        await client.sent(*(message(topic, b"1", lite_topic=name) for name in ("red", "blue", "green")))
        assert (await client.subscribe_lite(topic, group, "red")).status.code == Code.OK
        await client.sent(message(topic, b"2", lite_topic="red"))
        assert (await other.subscribe_lite(topic, group, "blue")).status.code == Code.OK
        assert (await client.receive(topic, group)).bodies == [b"1", b"2"]
        assert (await other.receive(topic, group)).bodies == [b"1"]
        assert (await other.receive(topic, group)).code == Code.MESSAGE_NOT_FOUND


async def test_the_same_attempt_again(node: Node) -> None:
    topic, group = await define(node, named("f"), "fifo"), named("g")
    async with Official(node) as client, Official(node) as other:
        await client.sent(message(topic, b"1", message_group="a"))
        first = await client.receive(topic, group, attempt_id="x", wait_ms=10_000)
        assert (await client.receive(topic, group, attempt_id="x")).handles == first.handles
        assert (await client.receive(topic, group, attempt_id="")).code == Code.MESSAGE_NOT_FOUND
        assert (await other.receive(topic, group, attempt_id="x")).code == Code.MESSAGE_NOT_FOUND


# ---- handles


async def test_handles_of_others_forged_and_stale_ones(node: Node) -> None:
    topic, group, other = await define(node, named("t"), queues=1), named("g"), named("h")
    elsewhere = await define(node, named("u"))
    async with Official(node) as client:
        await client.sent(message(topic, b"1"))
        got = await client.receive(topic, group, wait_ms=10_000)
        (handle,) = got.handles
        assert (await client.receive(topic, other, wait_ms=10_000)).code == Code.OK
        forged = [handle[:at] + ("A" if handle[at] != "A" else "B") + handle[at + 1 :] for at in range(len(handle))]
        for bad in (*forged, "", "x", handle + "=", handle * 50, "\x00", "é"):
            assert (await client.ack(topic, group, bad)).status.code == Code.INVALID_RECEIPT_HANDLE, bad
        for name in ("AckMessage", "ChangeInvisibleDuration", "ForwardMessageToDeadLetterQueue"):
            for used_by, used in ((other, handle), (group, forged[-1]), (group, forged[30])):
                answer = await client.call(name, _settling(name, topic, used_by, used))
                assert answer.status.code == Code.INVALID_RECEIPT_HANDLE, (name, used)
            for wrong in (elsewhere, "nowhere"):
                answer = await client.call(name, _settling(name, wrong, group, handle))
                assert answer.status.code == Code.INVALID_RECEIPT_HANDLE, (name, wrong)
        changed = await client.change(topic, group, handle, 20_000)
        assert changed.receipt_handle not in ("", handle)
        assert (await client.change(topic, group, handle, 20_000)).status.code == Code.INVALID_RECEIPT_HANDLE
        assert (await client.change(topic, group, handle, 20_000)).receipt_handle == handle  # clients take it over
        for ms in (-1, 12 * 3_600_000 + 1):
            assert (await client.change(topic, group, changed.receipt_handle, ms)).status.code == Code.ILLEGAL_INVISIBLE_TIME
        mixed = await client.ack(topic, group, forged[0], changed.receipt_handle)
        assert mixed.status.code == Code.MULTIPLE_RESULTS
        assert [entry.status.code for entry in mixed.entries] == [Code.INVALID_RECEIPT_HANDLE, Code.OK]
        assert (await client.ack(topic, group)).status.code == Code.BAD_REQUEST


def _settling(name: str, topic: str, group: str, handle: str) -> Any:
    request = CALLS[name][0]()
    request.topic.name, request.group.name = topic, group
    if name == "AckMessage":
        request.entries.add(receipt_handle=handle)
    else:
        request.receipt_handle = handle
    return request


async def test_dead_letters(node: Node) -> None:
    topic, group = await define(node, named("t")), named("g")
    async with Official(node) as client:
        (sent,) = await client.sent(message(topic, b"bad", tag="x", keys=["k"]))
        got = await client.receive(topic, group, wait_ms=10_000)
        for _ in range(2):
            assert (await client.forward(topic, group, got.handles[0])).status.code == Code.OK
        (dead,) = await client.received(f"%DLQ%{group}", named("reader"), 1)
        origin = dead.system_properties.dead_letter_queue
        assert (origin.topic, origin.message_id) == (topic, sent.message_id)
        assert (dead.body, dead.system_properties.tag) == (b"bad", "x")
        assert (await client.ack(topic, group, *got.handles)).status.code == Code.OK


# ---- transactions


async def test_transactions(node: Node) -> None:
    topic, group = await define(node, named("t"), "transaction"), named("g")
    async with Official(node) as client:
        one, two, three = await client.sent(
            *(message(topic, body, message_type=pb.TRANSACTION) for body in (b"1", b"2", b"3"))
        )
        assert (await client.end(topic, one.transaction_id, pb.COMMIT)).status.code == Code.OK
        assert (await client.end(topic, one.transaction_id, pb.COMMIT)).status.code == Code.OK
        assert (await client.end(topic, one.transaction_id, pb.ROLLBACK)).status.code == Code.INVALID_TRANSACTION_ID
        assert (await client.end(topic, two.transaction_id, pb.ROLLBACK)).status.code == Code.OK
        assert (await client.end(topic, three.transaction_id, pb.TRANSACTION_RESOLUTION_UNSPECIFIED)).status.code == Code.OK
        for bad in ("", " "):
            assert (await client.end(topic, bad, pb.COMMIT)).status.code == Code.INVALID_TRANSACTION_ID
        for bad in ("x", one.transaction_id[:-3] + "AAA", one.transaction_id + "x"):
            assert (await client.end(topic, bad, pb.COMMIT)).status.code == Code.INVALID_TRANSACTION_ID
        assert (await client.end(topic, three.transaction_id, 9)).status.code == Code.BAD_REQUEST
        (found,) = await client.received(topic, group, 1)
        assert (found.body, found.system_properties.message_type) == (b"1", pb.TRANSACTION)
        async with client.telemetry(producing(topic)) as stream:
            async with asyncio.timeout(20):
                command = await stream.read()
            asked = command.recover_orphaned_transaction_command
            assert (asked.transaction_id, asked.message.body) == (three.transaction_id, b"3")
            assert asked.message.topic.name == topic
            assert asked.message.system_properties.message_type == pb.TRANSACTION
            assert (await client.end(topic, asked.transaction_id, pb.COMMIT)).status.code == Code.OK
        assert [found.body for found in await client.received(topic, group, 1)] == [b"3"]


async def test_delay_and_recall(node: Node) -> None:
    topic, group = await define(node, named("d"), "delay"), named("g")
    async with Official(node) as client:
        now_ms = int(time.time() * 1000)
        past, soon, late = await client.sent(
            message(topic, b"past", due_ms=now_ms - 5_000),
            message(topic, b"soon", due_ms=now_ms + 300),
            message(topic, b"late", due_ms=now_ms + 3_600_000),
        )
        assert late.recall_handle
        request = service.RecallMessageRequest(topic=pb.Resource(name=topic), recall_handle=late.recall_handle)
        answer = await client.call("RecallMessage", request)
        assert (answer.status.code, answer.message_id) == (Code.OK, late.message_id)
        for bad in ("", "x", late.recall_handle[:-2], soon.transaction_id):
            request.recall_handle = bad
            assert (await client.call("RecallMessage", request)).status.code == Code.BAD_REQUEST
        found = await client.received(topic, group, 2)
        assert sorted(each.body for each in found) == [b"past", b"soon"]
        assert {each.system_properties.message_type for each in found} == {pb.DELAY}
        assert past.offset >= 0


# ---- offsets


async def test_pulling_and_offsets(node: Node) -> None:
    topic, group = await define(node, named("t"), queues=1), named("g")
    queue = pb.MessageQueue(topic=pb.Resource(name=topic), id=0)
    async with Official(node) as client:
        await client.sent(*(message(topic, str(number).encode(), tag="ab"[number % 2]) for number in range(5)))
        asked = service.PullMessageRequest(group=pb.Resource(name=group), message_queue=queue, offset=1, batch_size=2)

        async def pull(**fields: Any) -> Received:
            for name, value in fields.items():
                setattr(asked, name, value)
            return Received([item async for item in client.stub.PullMessage(asked, metadata=client.metadata, timeout=10)])

        got = await pull()
        assert (got.code, got.bodies, got.next_offsets) == (Code.OK, [b"1", b"2"], [3])
        got = await pull(offset=3, batch_size=32)
        assert (got.bodies, got.next_offsets) == ([b"3", b"4"], [5])
        got = await pull(offset=5)
        assert (got.code, got.next_offsets) == (Code.MESSAGE_NOT_FOUND, [5])
        for offset in (-1, 6, 2**62):
            assert (await pull(offset=offset)).code == Code.ILLEGAL_OFFSET, offset
        asked.filter_expression.expression = "a"
        assert (await pull(offset=0)).bodies == [b"0", b"2", b"4"]
        asked.message_queue.id = 9
        assert (await pull()).code == Code.BAD_REQUEST

        update = service.UpdateOffsetRequest(group=asked.group, message_queue=queue, offset=3)
        get = service.GetOffsetRequest(group=asked.group, message_queue=queue)
        assert (await client.call("GetOffset", get)).status.code == Code.OFFSET_NOT_FOUND
        assert (await client.call("UpdateOffset", update)).status.code == Code.OK
        assert (await client.call("GetOffset", get)).offset == 3
        update.offset = -1
        assert (await client.call("UpdateOffset", update)).status.code == Code.ILLEGAL_OFFSET
        query = service.QueryOffsetRequest(message_queue=queue)
        for policy, offset in ((pb.BEGINNING, 0), (pb.END, 5)):
            query.query_offset_policy = policy
            assert (await client.call("QueryOffset", query)).offset == offset
        query.query_offset_policy = pb.TIMESTAMP
        assert (await client.call("QueryOffset", query)).status.code == Code.BAD_REQUEST
        query.timestamp.FromMilliseconds(0)
        assert (await client.call("QueryOffset", query)).offset == 0


# ---- telemetry


async def test_settings_are_answered_each_time(node: Node) -> None:
    topic, group = await define(node, named("f"), "fifo"), named("g")
    async with Official(node) as client:
        stream = client.stream()
        await stream.initial_metadata()  # Rust waits for it before it sends anything
        for _ in range(3):
            await stream.write(service.TelemetryCommand(settings=consuming(group, topic)))
            answer = await stream.read()
            assert answer.status.code == Code.OK
            assert answer.settings.subscription.fifo
            assert answer.settings.backoff_policy.customized_backoff.next
        beat = service.HeartbeatRequest(group=pb.Resource(name=group), client_type=pb.PUSH_CONSUMER)
        assert (await client.call("Heartbeat", beat)).status.code == Code.OK
        bye = service.NotifyClientTerminationRequest(group=pb.Resource(name=group))
        assert (await client.call("NotifyClientTermination", bye)).status.code == Code.OK
        assert (await client.call("Heartbeat", beat)).status.code == Code.UNRECOGNIZED_CLIENT_TYPE
        assert (await client.call("NotifyClientTermination", bye)).status.code == Code.UNRECOGNIZED_CLIENT_TYPE
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


@pytest.mark.parametrize("bad", ["nothing", "group", "topic", "size", "properties", "anonymous"])
async def test_settings_that_are_refused(node: Node, bad: str) -> None:
    asked = consuming("g", "t")
    if bad == "nothing":
        asked = pb.Settings(client_type=pb.PRODUCER)
    elif bad == "group":
        asked.subscription.group.name = "a b"
    elif bad == "topic":
        asked = producing("TBW102")
    elif bad == "size":
        asked.subscription.subscriptions[0].expression.expression = "x" * 2_000_000
    elif bad == "properties":
        asked.client_properties["rocketmq.x"] = "y"
    async with Official(node, client=" " if bad == "anonymous" else None) as client:
        stream = client.stream()
        with suppress(grpc.aio.AioRpcError):
            if (
                bad != "anonymous"
            ):  # refused before it says anything, and a write to a stream that is over has its own status
                await stream.write(service.TelemetryCommand(settings=asked))
            assert await stream.read() is grpc.aio.EOF, "it was answered"
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_commands_that_nobody_asked_for_are_let_pass(node: Node) -> None:
    async with Official(node) as client:
        stream = client.stream()
        await stream.write(service.TelemetryCommand())
        command = service.TelemetryCommand(status=pb.Status(code=Code.OK))
        command.verify_message_result.nonce = "77"
        await stream.write(command)
        command.thread_stack_trace.nonce = ""
        await stream.write(command)
        await stream.write(service.TelemetryCommand(settings=producing()))
        assert (await stream.read()).status.code == Code.OK
        stream.cancel()


async def test_a_thousand_streams(node: Node) -> None:
    async with Official(node) as client:
        streams = []
        for number in range(1_000):
            stream = client.stub.Telemetry(metadata=(("x-mq-client-id", f"many-{number}"),))
            streams.append(stream)
        topic = await define(node, named("t"))
        settings_ = producing(topic)

        async def settle(stream: Any) -> None:
            await stream.write(service.TelemetryCommand(settings=settings_))
            answer = await stream.read()
            assert answer.status.code == Code.OK

        async with asyncio.timeout(60):
            for at in range(0, len(streams), 100):
                await asyncio.gather(*map(settle, streams[at : at + 100]))
        for stream in streams[::2]:
            await stream.done_writing()
        for stream in streams[1::2]:
            stream.cancel()
        for stream in streams[::2]:
            assert await stream.read() is grpc.aio.EOF
        await client.sent(message(topic))


# ---- clients that vanish


async def test_messages_of_clients_that_vanish_come_back(node: Node) -> None:
    topic, group = await define(node, named("t"), queues=1), named("g")
    async with Official(node) as other:
        async with Official(node) as client:
            doomed = [asyncio.create_task(client.receive(topic, group, wait_ms=20_000)) for _ in range(5)]
            await _parked(client, topic, doomed[0])
        for task in doomed:
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await task
        await other.sent(message(topic, b"1"))
        assert [found.body for found in await other.received(topic, group, 1)] == [b"1"]
        body = bytes(1024 * 1024)
        await other.sent(*(message(topic, body, tag="big") for _ in range(6)))
        async with Official(node) as client:
            request = client.receive_request(topic, group, invisible_ms=1_000, wait_ms=10_000)
            call = client.stub.ReceiveMessage(request, metadata=client.metadata, timeout=20)
            await call.read()
            call.cancel()  # in the midst of its messages
        found = {each.system_properties.queue_offset for each in await other.received(topic, group, 6)}
        assert len(found) == 6


# ---- fuzz


CALLS: dict[str, tuple[Any, str]] = {
    "QueryRoute": (service.QueryRouteRequest, "unary"),
    "QueryAssignment": (service.QueryAssignmentRequest, "unary"),
    "SendMessage": (service.SendMessageRequest, "unary"),
    "AckMessage": (service.AckMessageRequest, "unary"),
    "ChangeInvisibleDuration": (service.ChangeInvisibleDurationRequest, "unary"),
    "ForwardMessageToDeadLetterQueue": (service.ForwardMessageToDeadLetterQueueRequest, "unary"),
    "EndTransaction": (service.EndTransactionRequest, "unary"),
    "RecallMessage": (service.RecallMessageRequest, "unary"),
    "Heartbeat": (service.HeartbeatRequest, "unary"),
    "NotifyClientTermination": (service.NotifyClientTerminationRequest, "unary"),
    "SyncLiteSubscription": (service.SyncLiteSubscriptionRequest, "unary"),
    "UpdateOffset": (service.UpdateOffsetRequest, "unary"),
    "GetOffset": (service.GetOffsetRequest, "unary"),
    "QueryOffset": (service.QueryOffsetRequest, "unary"),
    "ReceiveMessage": (service.ReceiveMessageRequest, "stream"),
    "PullMessage": (service.PullMessageRequest, "stream"),
    "Telemetry": (service.TelemetryCommand, "bidi"),
}
ANSWERS = {
    name: getattr(service, request.DESCRIPTOR.name.replace("Request", "Response")) for name, (request, _) in CALLS.items()
}
LEGAL = frozenset(Code.values()) - {Code.CODE_UNSPECIFIED, Code.INTERNAL_SERVER_ERROR, Code.INTERNAL_ERROR}
TOPICS = ("fuzz-normal", "fuzz-fifo", "fuzz-delay", "fuzz-transaction", "fuzz-priority", "fuzz-lite")
TEXTS = st.sampled_from(
    [*TOPICS, "fuzz-group", "*", "a || b", "a > 1", "", " ", "a b", "%DLQ%fuzz-group", "\0", "é", "x" * 300]
)
NAMES = st.sampled_from([*TOPICS, "fuzz-group", "%DLQ%fuzz-group"])
EXAMPLES = int(os.environ.get("KOUROU_FUZZ", "30"))
GIVEN: list[str] = []  # handles and ids that the node gave out
HANDLES = st.integers(0, 9).map(lambda number: GIVEN[number % len(GIVEN)] if GIVEN else "")
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    descriptors.FieldDescriptor.TYPE_STRING: TEXTS | st.text(max_size=20),
    descriptors.FieldDescriptor.TYPE_BYTES: st.binary(max_size=50) | st.just(bytes(5 * 1024 * 1024)),
    descriptors.FieldDescriptor.TYPE_BOOL: st.booleans(),
    descriptors.FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 5),
    descriptors.FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5),
    descriptors.FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    descriptors.FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    descriptors.FieldDescriptor.TYPE_DOUBLE: st.floats(),
}


@st.composite
def requests(draw: st.DrawFn, kind: type[Message], depth: int = 0) -> Message:
    """Any message of a type: fields that are missing, hostile, of unknown enum numbers, many times over."""
    made = kind()
    described: Any = kind.DESCRIPTOR
    chosen = {oneof.name: draw(st.sampled_from(list(oneof.fields))).name for oneof in described.oneofs}
    for field in described.fields:
        if draw(st.integers(0, 9)) == 9:
            continue
        if field.containing_oneof is not None and field.name != chosen[field.containing_oneof.name]:
            continue
        if field.name == "resource_namespace" and draw(st.integers(0, 9)):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            names = draw(st.dictionaries(TEXTS, TEXTS, max_size=3))
            getattr(made, field.name).update(names)
            continue
        if field.type == descriptors.FieldDescriptor.TYPE_MESSAGE:
            known = GetMessageClass(field.message_type)
            values: st.SearchStrategy[Any] = requests(known, depth + 1)
        elif field.type == descriptors.FieldDescriptor.TYPE_ENUM:
            assert field.enum_type is not None
            values = st.sampled_from([value.number for value in field.enum_type.values]) | st.integers(-3, 99_999)
        elif field.name == "name" and draw(st.integers(0, 9)):
            values = NAMES
        elif field.name in ("receipt_handle", "transaction_id", "recall_handle") and draw(st.integers(0, 9)):
            values = HANDLES
        else:
            values = SCALARS[field.type]
        if field.is_repeated:
            some = draw(st.lists(values, max_size=2))
            if some and not depth and draw(st.integers(0, 9)) == 0:
                size = some[0].ByteSize() if isinstance(some[0], Message) else 100
                some = some[:1] * min(3_000, 8_000_000 // (size + 1))
            getattr(made, field.name).extend(some)
        elif field.type == descriptors.FieldDescriptor.TYPE_MESSAGE:
            getattr(made, field.name).CopyFrom(draw(values))
        else:
            setattr(made, field.name, draw(values))
    return made


@st.composite
def damaged(draw: st.DrawFn, name: str) -> Message:
    """A request that would do, but for a field or two."""
    topic = pb.Resource(name=draw(st.sampled_from(TOPICS)))
    group = pb.Resource(name="fuzz-group")
    queue = pb.MessageQueue(topic=topic, id=draw(st.integers(0, 4)))
    made: Any = CALLS[name][0]()
    for field, value in {"topic": topic, "group": group, "endpoints": endpoints(), "message_queue": queue}.items():
        if field in made.DESCRIPTOR.fields_by_name:
            getattr(made, field).CopyFrom(value)
    for field in ("receipt_handle", "transaction_id", "recall_handle"):
        if field in made.DESCRIPTOR.fields_by_name:
            setattr(made, field, draw(HANDLES))
    match name:
        case "SendMessage":
            made.messages.extend(message(topic.name, message_group="g", tag="x", properties={"a": "1"}) for _ in range(2))
        case "AckMessage":
            made.entries.add(receipt_handle=draw(HANDLES))
        case "ChangeInvisibleDuration":
            made.invisible_duration.FromSeconds(30)
        case "EndTransaction":
            made.resolution, made.topic.name = pb.COMMIT, "fuzz-transaction"
        case "RecallMessage":
            made.topic.name = "fuzz-delay"
        case "SyncLiteSubscription":
            made.topic.name = "fuzz-lite"
            made.lite_topic_set.extend(["a", "b"])
        case "ReceiveMessage":
            made.invisible_duration.FromSeconds(30)
            made.long_polling_timeout.FromMilliseconds(1)
            made.batch_size = 4
        case "PullMessage":
            made.batch_size = 4
        case "Telemetry":
            made.settings.CopyFrom(draw(st.sampled_from([producing(*TOPICS), consuming("fuzz-group", *TOPICS)])))
    for _ in range(draw(st.integers(0, 3))):
        _damage(draw, made)
    return made  # type: ignore[no-any-return]


def _damage(draw: st.DrawFn, made: Message) -> None:
    field: Any = draw(st.sampled_from(list(made.DESCRIPTOR.fields)))
    if field.type == descriptors.FieldDescriptor.TYPE_MESSAGE and draw(st.integers(0, 3)):
        inner = getattr(made, field.name)
        if not field.is_repeated:
            _damage(draw, inner)
            inner.SetInParent()
            return
        if len(inner) and isinstance(inner[0] if not hasattr(inner, "keys") else None, Message):
            _damage(draw, inner[0])
            return
    made.ClearField(field.name)
    other = draw(requests(type(made)))
    known: Any
    for known, value in other.ListFields():
        if known.name == field.name:
            once = type(made)()
            if known.is_repeated:
                made.MergeFrom(_only(other, field.name, once))
            elif known.type == descriptors.FieldDescriptor.TYPE_MESSAGE:
                getattr(made, field.name).CopyFrom(value)
            else:
                setattr(made, field.name, value)


def _only(other: Message, name: str, once: Message) -> Message:
    """Nothing but one field."""
    once.CopyFrom(other)
    field: Any
    for field, _ in other.ListFields():
        if field.name != name:
            once.ClearField(field.name)
    return once


class Fuzzed:
    """Blocking calls of any bytes."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.channel: Any = grpc.insecure_channel(
            node.urls["official gRPC"],
            options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)),
        )
        self.metadata = (("x-mq-client-id", "fuzz"),)

    def __enter__(self) -> Fuzzed:
        return self

    def __exit__(self, *failure: object) -> None:
        self.channel.close()

    def statuses(self, name: str, data: bytes) -> list[int]:
        """The codes that the answers to a call carry. Raises grpc.RpcError."""
        path = f"/apache.rocketmq.v2.MessagingService/{name}"
        kind = CALLS[name][1]
        if kind == "unary":
            found = [ANSWERS[name].FromString(self.channel.unary_unary(path)(data, metadata=self.metadata, timeout=10))]
        elif kind == "stream":
            answers = self.channel.unary_stream(path)(data, metadata=self.metadata, timeout=1.0)
            found = [ANSWERS[name].FromString(item) for item in answers]
            found = [answer for answer in found if answer.WhichOneof("content") == "status"]
        else:
            answers = self.channel.stream_stream(path)(iter([data]), metadata=self.metadata, timeout=10)
            found = [service.TelemetryCommand.FromString(item) for item in answers]
        return [answer.status.code for answer in found]

    def works(self) -> None:
        sent = service.SendMessageRequest(messages=[message("fuzz-normal")])
        assert self.statuses("SendMessage", sent.SerializeToString()) == [Code.OK]
        assert self.node.process.poll() is None


@pytest.fixture(scope="module")
def fuzzed(node: Node) -> Iterator[Fuzzed]:
    for topic in TOPICS:
        asyncio.run(_defined(node, topic))
    asyncio.run(_handles(node))
    with Fuzzed(node) as client:
        yield client
        client.works()
    output = node.output()
    assert "Traceback" not in output
    assert "call_failed" not in output


async def _handles(node: Node) -> None:
    GIVEN.clear()
    async with Official(node) as client:
        due_ms = int(time.time() * 1000) + 3_600_000
        (half,) = await client.sent(message("fuzz-transaction", message_type=pb.TRANSACTION))
        (late,) = await client.sent(message("fuzz-delay", due_ms=due_ms))
        await client.sent(message("fuzz-normal"), message("fuzz-fifo", message_group="a"))
        GIVEN.extend((half.transaction_id, late.recall_handle))
        for topic in ("fuzz-normal", "fuzz-fifo"):
            GIVEN.extend((await client.receive(topic, "fuzz-group", wait_ms=5_000, invisible_ms=600_000)).handles)


async def _defined(node: Node, topic: str) -> None:
    await define(node, topic, topic.partition("-")[2])


# The statuses of gRPC itself that a call may end with. A long poll's deadline may pass; and a request may be too large.
REFUSALS = {
    "unary": {None, grpc.StatusCode.RESOURCE_EXHAUSTED},
    "stream": {None, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED},
    "bidi": {None, grpc.StatusCode.INVALID_ARGUMENT},
}


@pytest.mark.parametrize("name", CALLS)
def test_whatever_is_asked_is_answered_with_a_code(fuzzed: Fuzzed, name: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(CALLS[name][0]) | damaged(name))
    def ask(request: Message) -> None:
        try:
            codes = fuzzed.statuses(name, request.SerializeToString())
        except grpc.RpcError as error:
            failure: Any = error
            refused = failure.code()
            codes = []
        else:
            refused = None
        assert refused in REFUSALS[CALLS[name][1]], refused
        if refused is not None:
            return
        assert set(codes) <= LEGAL, [Code.Name(code) for code in codes]
        assert codes or CALLS[name][1] == "bidi"

    ask()
    fuzzed.works()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\xff", b"\x08", b"\x0b" * 200, b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message(fuzzed: Fuzzed, name: str, data: bytes) -> None:
    try:
        CALLS[name][0].FromString(data)
    except DecodeError:
        with pytest.raises(grpc.RpcError) as failed:
            fuzzed.statuses(name, data)
        assert isinstance(failed.value, grpc.Call)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    else:  # an unknown field, for this call
        assert set(fuzzed.statuses(name, data)) <= LEGAL


def test_calls_that_do_not_exist(fuzzed: Fuzzed) -> None:
    for path in ("/apache.rocketmq.v2.MessagingService/Nothing", "/apache.rocketmq.v2.Nothing/QueryRoute", "/x"):
        with pytest.raises(grpc.RpcError) as failed:
            fuzzed.channel.unary_unary(path)(b"", timeout=10)
        assert isinstance(failed.value, grpc.Call)
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    fuzzed.works()


def test_messages_beyond_every_limit(fuzzed: Fuzzed) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        fuzzed.statuses("SendMessage", bytes(20 * 1024 * 1024))
    assert isinstance(failed.value, grpc.Call)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    fuzzed.works()


# ---- kill -9


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
async def test_killed_between_receive_and_acknowledgement(tmp_path: Path, engine: str) -> None:
    """What was acknowledged never comes again; what was not comes after its time, in the order of its message group."""
    options = ("--grpc-engine", engine, *OPTIONS)
    group = "g"
    with Node(tmp_path, *options) as node:
        for topic, kind in (("plain", "normal"), ("ordered", "fifo"), ("half", "transaction")):
            await define(node, topic, kind, queues=2)
        async with Official(node) as client:
            await client.sent(*(message("plain", str(number).encode()) for number in range(10)))
            await client.sent(*(message("ordered", str(number).encode(), message_group="a") for number in range(4)))
            (half,) = await client.sent(message("half", b"half", message_type=pb.TRANSACTION))
            held = await client.received("plain", group, 10, invisible_ms=1_000)
            handles = {found.body: found.system_properties.receipt_handle for found in held}
            acked = [str(number).encode() for number in range(5)]
            assert (await client.ack("plain", group, *(handles[body] for body in acked))).status.code == Code.OK
            (first,) = await client.received("ordered", group, 1, limit=1, invisible_ms=1_000)
            assert first.body == b"0"
            ordered = first.system_properties.receipt_handle
            slow = await client.receive("plain", "h", limit=1, invisible_ms=3_600_000, wait_ms=10_000)
            await client.call("Heartbeat", service.HeartbeatRequest())
        await asyncio.to_thread(node.kill)
    with Node(tmp_path, *options) as node:
        async with Official(node) as client:
            back = await client.received("plain", group, 5)
            assert sorted(found.body for found in back) == [str(number).encode() for number in range(5, 10)]
            assert {found.system_properties.delivery_attempt for found in back} == {2}
            stale = await client.ack("plain", group, *(handles[found.body] for found in back))
            assert {entry.status.code for entry in stale.entries} == {Code.INVALID_RECEIPT_HANDLE}
            # of an earlier epoch, but still good
            assert (await client.ack("plain", "h", *slow.handles)).status.code == Code.OK
            assert (await client.receive("plain", group)).code == Code.MESSAGE_NOT_FOUND
            seen: list[tuple[bytes, int]] = []
            while len(seen) < 4:
                (found,) = await client.received("ordered", group, 1, limit=1)
                seen.append((found.body, found.system_properties.delivery_attempt))
                assert (await client.receive("ordered", group)).code == Code.MESSAGE_NOT_FOUND
                assert (await client.ack("ordered", group, ordered)).status.code in (Code.OK, Code.INVALID_RECEIPT_HANDLE)
                answer = await client.ack("ordered", group, found.system_properties.receipt_handle)
                assert answer.status.code == Code.OK
            assert seen == [(b"0", 2), (b"1", 1), (b"2", 1), (b"3", 1)]
            assert (await client.end("half", half.transaction_id, pb.COMMIT)).status.code == Code.OK
            assert [found.body for found in await client.received("half", group, 1)] == [b"half"]
