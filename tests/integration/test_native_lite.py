"""Lite topics through the native client, against a real node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from kourou.client import Client, Message, SharedConsumer
from kourou.client.blocking import Client as BlockingClient
from kourou.core.errors import BadRequest, IllegalName, TopicTypeMismatch
from tests.integration.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node"), env={"KOUROU_LOG_LEVEL": "warning"}) as running:
        yield running


async def take(consumer: SharedConsumer, count: int) -> list[tuple[str | None, bytes]]:
    found: list[tuple[str | None, bytes]] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            for message in await consumer.receive(count - len(found)):
                found.append((message.lite_topic, message.body))
                await message.ack()
    return found


async def test_each_gets_what_it_subscribes_to(node: Node) -> None:
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("chats", type="lite", queues=2)
        producer = client.producer()
        async with (
            client.shared_consumer("chats", group="chats", lite=["ann", "bob"]) as first,
            other.shared_consumer("chats", group="chats", lite=["cid"]) as second,
        ):
            await producer.send("chats", b"1", lite_topic="ann")
            await producer.post("chats", b"2", lite_topic="cid")
            await producer.send_many("chats", [Message(b"3", lite_topic="bob"), Message(b"4", lite_topic="cid")])
            await producer.flush()
            assert sorted(await take(first, 2)) == [("ann", b"1"), ("bob", b"3")]
            assert await take(second, 2) == [("cid", b"2"), ("cid", b"4")]
            await first.subscribe("cid")
            await second.unsubscribe("cid")
            assert (first.lite_topics, second.lite_topics) == (("ann", "bob", "cid"), ())
            await producer.send("chats", b"5", lite_topic="cid")
            assert await take(first, 1) == [("cid", b"5")]
        async with client.shared_consumer("chats", group="late") as consumer:
            await consumer.subscribe("cid", start={"tail": 2})
            assert await take(consumer, 2) == [("cid", b"4"), ("cid", b"5")]


async def test_a_lite_topic_is_in_order(node: Node) -> None:
    """Handlers run side by side, but never two of one lite topic; those of other lite topics go on meanwhile."""
    async with Client(node.address) as client:
        await client.create_topic("ordered", type="lite", queues=1)
        names = [f"n{number}" for number in range(5)]
        producer = client.producer()
        seen: dict[str, list[int]] = {name: [] for name in names}
        busy: set[str] = set()

        async with client.shared_consumer("ordered", group="ordered", lite=names, concurrency=4) as consumer:
            for number in range(20):
                await producer.send_many("ordered", [Message(b"%d" % number, lite_topic=name) for name in names])

            async def work(message: object) -> None:
                name = message.lite_topic  # type: ignore[attr-defined]
                assert name not in busy
                busy.add(name)
                await asyncio.sleep(0)
                seen[name].append(int(message.body))  # type: ignore[attr-defined]
                busy.discard(name)
                if sum(map(len, seen.values())) == 100:
                    consumer.stop()

            async with asyncio.timeout(60):
                await consumer.run(work)
        assert all(numbers == list(range(20)) for numbers in seen.values())


async def test_an_exclusive_group_has_one_member_for_each(node: Node) -> None:
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("alone", type="lite", queues=1)
        await client.create_group("alone", shape="shared")
        await client.update_group("alone", exclusive=True)
        async with (
            client.shared_consumer("alone", group="alone", lite=["a", "b"]) as first,
            other.shared_consumer("alone", group="alone", lite=["a"]) as second,
        ):
            assert await first.receive(1, wait_s=0) == []
            assert await second.receive(1, wait_s=0) == []
            async with asyncio.timeout(30):
                while first.lite_topics != ("b",):
                    await asyncio.sleep(0.01)
            await client.producer().send("alone", b"x", lite_topic="a")
            assert await take(second, 1) == [("a", b"x")]


async def test_a_connection_that_was_lost_is_no_matter(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("lost", type="lite", queues=1)
        async with client.shared_consumer("lost", group="lost", lite=["a"]) as consumer:
            assert await consumer.receive(1, wait_s=0) == []
            (broker,) = client._cluster.masters
            (await client._cluster.broker(broker)).abort("lost")
            await client.producer().send("lost", b"x", lite_topic="a")
            assert await take(consumer, 1) == [("a", b"x")]


async def test_what_does_not_fit_is_said(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("fits", type="lite", queues=1)
        await client.create_topic("plain", queues=1)
        producer = client.producer()
        with pytest.raises(TopicTypeMismatch, match="needs a lite_topic"):
            await producer.send("fits", b"x")
        with pytest.raises(TopicTypeMismatch, match="a lite_topic needs a topic of type lite"):
            await producer.send("plain", b"x", lite_topic="a")
        with pytest.raises(IllegalName, match="letters, digits"):
            await producer.send("fits", b"x", lite_topic="a b")
        with pytest.raises(TopicTypeMismatch, match="no lite topics"):
            async with client.shared_consumer("plain", group="g", lite=["a"]):
                pass
        with pytest.raises(TopicTypeMismatch, match="shared_consumer"):
            async with client.consumer("fits", group="streams"):
                pass
        async with client.shared_consumer("fits", group="h") as consumer:
            with pytest.raises(BadRequest, match="already"):
                await client.shared_consumer("fits", group="h").open()
            with pytest.raises(BadRequest, match="start must be"):
                await consumer.subscribe("a", start="yesterday")


def test_blocking(node: Node) -> None:
    with BlockingClient(node.address) as client:
        client.create_topic("blocking", type="lite", queues=1)
        producer = client.producer()
        with client.shared_consumer("blocking", group="blocking") as consumer:
            consumer.subscribe("a")
            producer.send("blocking", b"1", lite_topic="a")
            producer.post("blocking", b"2", lite_topic="a")
            producer.flush()
            seen = []
            for message in consumer:
                seen.append((message.lite_topic, message.body))
                if len(seen) == 2:
                    break
            assert seen == [("a", b"1"), ("a", b"2")]
            consumer.unsubscribe("a")
            assert consumer.lite_topics == ()
