"""Delays, priorities and transactions through the native client, against a real node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kourou.client import Client, HalfMessage, Message, SharedConsumer, SharedMessage
from kourou.core.errors import (
    BadRequest,
    IllegalDeliveryTime,
    InvalidRecallHandle,
    InvalidTransaction,
    TopicNotFound,
    TopicTypeMismatch,
)
from tests.integration.node import Node

ASKS_SOON = {
    "KOUROU_TRANSACTION_CHECK_AFTER_S": "0.3",
    "KOUROU_TRANSACTION_CHECK_EVERY_S": "0.3",
    "KOUROU_LOG_LEVEL": "warning",
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node"), env=ASKS_SOON) as running:
        yield running


async def take(consumer: SharedConsumer, count: int) -> list[SharedMessage]:
    found: list[SharedMessage] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await consumer.receive(count - len(found))
    for message in found:
        await message.ack()
    return found


async def nothing_comes(consumer: SharedConsumer, *, wait_s: float = 0.3) -> None:
    assert await consumer.receive(16, wait_s=wait_s) == []


# ---- delays


async def test_a_delayed_message_is_never_early(node: Node) -> None:
    """Of several batches at once: in the order of their times, none before its own."""
    async with Client(node.address) as client:
        await client.create_topic("delays", type="delay", queues=2)
        producer = client.producer()
        async with client.shared_consumer("delays", group="delays") as consumer:
            now = time.time()
            await producer.send("delays", b"3", delay=timedelta(milliseconds=900), key="k", properties={"a": "b"})
            await producer.send("delays", b"2", deliver_at=now + 0.6)
            await producer.send("delays", b"1", deliver_at=datetime.fromtimestamp(now + 0.3, UTC))
            receipts = await producer.send_many("delays", [Message(b"0", delay=0), Message(b"4", delay=1.2)])
            assert all(receipt.recall_handle for receipt in receipts)
            found = []
            for _ in range(5):
                (message,) = await take(consumer, 1)
                assert message.deliver_at_ms is not None
                assert time.time() * 1000 >= message.deliver_at_ms
                found.append(message)
        assert [m.body for m in found] == [b"0", b"1", b"2", b"3", b"4"]
        assert (found[3].key, found[3].properties) == ("k", {"a": "b"})
        assert [found[0].id, found[4].id] == [receipt.id for receipt in receipts]


async def test_recall(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("recalls", type="delay", queues=1)
        producer = client.producer()
        kept, *taken = await producer.send_many("recalls", [Message(b"%d" % i, delay=0.7) for i in range(3)])
        count, listed = await client.scheduled("recalls", limit=2)
        assert (count, len(listed)) == (3, 2)
        assert listed[0]["due_ms"] <= listed[1]["due_ms"]
        assert await producer.recall(taken[0]) == taken[0].id
        assert (await client.scheduled("recalls"))[0] == 2
        with pytest.raises(TopicNotFound):
            await client.scheduled("nowhere")
        assert taken[1].recall_handle is not None
        assert await client.recall("recalls", taken[1].recall_handle) == taken[1].id
        with pytest.raises(InvalidRecallHandle):
            await producer.recall(taken[0])
        async with client.shared_consumer("recalls", group="recalls") as consumer:
            (message,) = await take(consumer, 1)
            assert message.id == kept.id
            await nothing_comes(consumer)
            with pytest.raises(InvalidRecallHandle):
                await producer.recall(kept)
        await client.create_topic("plain", queues=1)
        with pytest.raises(InvalidRecallHandle, match="not delayed"):
            await producer.recall(await producer.send("plain", b"x"))
        with pytest.raises(InvalidRecallHandle):
            await client.recall("recalls", "nonsense")
        with pytest.raises(BadRequest, match="topic"):
            await producer.recall("broker-a:0:0:0")


async def test_topics_take_what_they_are_for(node: Node) -> None:
    async with Client(node.address) as client:
        for kind in ("normal", "delay", "priority", "transaction"):
            await client.create_topic(f"type-{kind}", type=kind, queues=1)
        producer = client.producer()
        with pytest.raises(TopicTypeMismatch, match="delay or deliver_at"):
            await producer.send("type-delay", b"x")
        with pytest.raises(TopicTypeMismatch, match="needs a topic of type delay"):
            await producer.send("type-normal", b"x", delay=1)
        with pytest.raises(TopicTypeMismatch, match="needs a topic of type priority"):
            await producer.send_many("type-delay", [Message(b"x", priority=1)])
        with pytest.raises(TopicTypeMismatch, match="producer.transaction"):
            await producer.send("type-transaction", b"x")
        with pytest.raises(TopicTypeMismatch, match="topic of type transaction"):
            async with producer.transaction("type-normal") as tx:
                await tx.send(b"x")
        with pytest.raises(BadRequest, match="not both"):
            await producer.send("type-delay", b"x", delay=1, deliver_at=2)
        with pytest.raises(BadRequest, match="priority is -1"):
            await producer.send("type-priority", b"x", priority=-1)
        with pytest.raises(IllegalDeliveryTime, match="40 days"):
            await producer.send("type-delay", b"x", delay=timedelta(days=41))


async def test_urgent_ones_first(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("urgent", type="priority", queues=4)
        producer = client.producer()
        for priority in (0, 3, 1, 9, 2):
            await producer.send("urgent", b"%d" % priority, priority=priority)
        async with client.shared_consumer("urgent", group="urgent") as consumer:
            found = await take(consumer, 5)
        assert [m.body for m in found] == [b"3", b"9", b"2", b"1", b"0"]  # four queues: what is above 3 counts as 3
        assert [m.priority for m in found] == [3, 9, 2, 1, 0]


# ---- transactions


async def test_commit_and_rollback(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("orders", type="transaction", queues=2)
        producer = client.producer()
        async with client.shared_consumer("orders", group="orders") as consumer:
            async with producer.transaction("orders") as tx:
                one = await tx.send(b"one", key="k", tag="t", properties={"a": "b"})
                two = await tx.send("two")
                await nothing_comes(consumer)
            found = {m.id: m for m in await take(consumer, 2)}
            assert set(found) == {one.id, two.id}
            assert (found[one.id].key, found[one.id].tag, found[one.id].properties) == ("k", "t", {"a": "b"})
            with pytest.raises(ZeroDivisionError):
                async with producer.transaction("orders") as tx:
                    await tx.send(b"never")
                    raise ZeroDivisionError
            async with producer.transaction("orders") as tx:
                await tx.send(b"nor this")
                await tx.rollback()
            async with producer.transaction("orders") as tx:
                await tx.send(b"three")
                await tx.commit()
                with pytest.raises(BadRequest, match="ended"):
                    await tx.send(b"too late")
                with pytest.raises(BadRequest, match="ended"):
                    await tx.rollback()
            async with producer.transaction("orders"):
                pass
            assert [m.body for m in await take(consumer, 1)] == [b"three"]
            await nothing_comes(consumer, wait_s=0.7)


async def begin_and_die(node: Node, topic: str, body: bytes) -> None:
    """A producer whose process ends in the middle of a transaction."""
    async with Client(node.address) as client:
        tx = client.producer().transaction(topic)
        await tx.send(body, key=body.decode())


async def test_another_producer_answers_for_a_dead_one(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("checked", type="transaction", queues=2)
        for body in (b"commit", b"rollback", b"unknown", b"raises"):
            await begin_and_die(node, "checked", body)
        asked: list[bytes] = []
        again = asyncio.Event()

        async def check(message: HalfMessage) -> str:
            asked.append(message.body)
            assert (message.topic, message.key) == ("checked", message.body.decode())
            if asked.count(b"unknown") > 1 and asked.count(b"raises") > 1:
                again.set()
            if message.body == b"raises":
                raise RuntimeError
            return message.body.decode()

        client.producer(transaction_checker=check, transaction_topics=["checked"])
        async with client.shared_consumer("checked", group="checked") as consumer:
            assert [m.body for m in await take(consumer, 1)] == [b"commit"]
            async with asyncio.timeout(30):
                await again.wait()
            await nothing_comes(consumer)
        assert asked.count(b"commit") == asked.count(b"rollback") == 1


async def test_an_open_transaction_is_not_decided_by_the_checker(node: Node) -> None:
    """The broker asks while its body still runs: nobody can know yet."""
    async with Client(node.address) as client:
        await client.create_topic("open", type="transaction", queues=1)
        orphan_asked = asyncio.Event()

        def check(message: HalfMessage) -> str:
            if message.body == b"orphan":
                orphan_asked.set()
            return "rollback"

        producer = client.producer(transaction_checker=check)
        async with client.shared_consumer("open", group="open") as consumer:
            async with producer.transaction("open") as tx:
                receipt = await tx.send(b"open", key="k")
                await begin_and_die(node, "open", b"orphan")
                async with asyncio.timeout(30):
                    await orphan_asked.wait()  # so the older one was asked about too
            assert [m.id for m in await take(consumer, 1)] == [receipt.id]


async def test_what_was_decided_stays_so(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("decided", type="transaction", queues=1)
        rolled_back = asyncio.Event()

        async def check(message: HalfMessage) -> str:
            rolled_back.set()
            return "rollback"

        async with Client(node.address) as other:
            tx = client.producer().transaction("decided")
            await tx.send(b"x")
            other.producer(transaction_checker=check, transaction_topics=["decided"])
            async with asyncio.timeout(30):
                await rolled_back.wait()
                await begin_and_die(node, "decided", b"y")
                rolled_back.clear()
                await rolled_back.wait()
            with pytest.raises(InvalidTransaction, match="rollback"):
                await tx.commit()


async def test_all_of_it_survives_kill_9(tmp_path: Path) -> None:
    """A delayed message, a half one that its producer commits later, and one that is checked back."""
    running = Node(tmp_path / "data", env=ASKS_SOON)
    port = running.port
    try:
        async with Client(running.address) as client:
            await client.create_topic("delays", type="delay", queues=1)
            await client.create_topic("orders", type="transaction", queues=1)
            producer = client.producer(deadline_s=60)
            later = await producer.send("delays", b"later", delay=2)
            gone = await producer.send("delays", b"gone", delay=60)
            async with producer.transaction("orders", timeout_s=60) as tx:
                await tx.send(b"mine")
                await begin_and_die(running, "orders", b"orphan")
                await asyncio.to_thread(running.kill)
                running = await asyncio.to_thread(lambda: Node(tmp_path / "data", port=port, env=ASKS_SOON))
            assert await producer.recall(gone) == gone.id

            async def check(message: HalfMessage) -> str:
                return "commit"

            client.producer(transaction_checker=check, transaction_topics=["orders"])
            async with client.shared_consumer("orders", group="g") as consumer:
                assert {m.body for m in await take(consumer, 2)} == {b"mine", b"orphan"}
            async with client.shared_consumer("delays", group="g") as consumer:
                assert [m.id for m in await take(consumer, 1)] == [later.id]
                await nothing_comes(consumer)
    finally:
        if running.process.poll() is None:
            running.stop()
