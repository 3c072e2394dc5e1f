"""Frames that nobody can read, and a disk that changed what it had: what is behind them is delivered, by a real node."""

from __future__ import annotations

import asyncio
import os
import secrets
from array import array
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from kourou.client import Client, DamagedMessages, HalfMessage
from kourou.core import frame, wire
from kourou.core.frame import Column, Compression
from kourou.core.wire import Code
from tests.integration.command import Shell
from tests.integration.node import Node

T = TypeVar("T")
ENV = {
    "KOUROU_LOG_LEVEL": "warning",
    "KOUROU_TRANSACTION_CHECK_AFTER_S": "0.3",
    "KOUROU_TRANSACTION_CHECK_EVERY_S": "0.3",
}
GARBAGE = b"\xff" * 20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node"), env=ENV) as running:
        yield running


async def store(client: Client, sealed: bytes) -> None:
    """A frame as a producer that is not ours might make it."""
    connection = await client._cluster.broker(next(iter(client._cluster.masters)))
    answer = await connection.ask(Code.PRODUCE, header=wire.PRODUCE_REQUEST.pack(5_000, 1, 0), parts=(sealed,))
    assert wire.PRODUCE_RESULT.unpack_from(answer.body)[0] == 0


def uninflatable(topic: str) -> bytes:
    return frame.seal(
        topic=topic, queue_id=0, records=[b"x" * 100] * 3, born_ms=1, compression=Compression.ZLIB, stored=os.urandom(50)
    )


def garbled(topic: str, columns: dict[Column, array[int]], attributes: int = 0) -> bytes:
    given = {Column.PROPERTY_SIZES: array("I", [len(GARBAGE)]), **columns}
    return frame.seal(
        topic=topic,
        queue_id=0,
        records=[GARBAGE + b"bad"],
        born_ms=1,
        columns=given,
        attributes=attributes,
        producer_id=secrets.randbits(60) + 1,
        sequence=1,
    )


async def test_a_stream_goes_on_behind_poison(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    async with Client(node.address) as client:
        await client.create_topic("streams", queues=1)
        for sealed in (uninflatable("streams"), garbled("streams", {})):
            await store(client, sealed)
        await client.producer().send("streams", b"good")
        async with client.consumer("streams", group="g") as consumer:
            seen = []
            async with asyncio.timeout(30):
                async for message in consumer:
                    seen.append(message.body)
                    if message.body == b"good":
                        break
            assert seen == [b"bad", b"good"]
            assert consumer.damaged_count == 3
        fetched = await client.fetch("streams", 0, 0)
        assert [message.body for message in fetched.messages] == [b"bad", b"good"]
        assert [(damage.offset, damage.count) for damage in fetched.damaged] == [(0, 3)]
    assert "offsets 0 to 2" in caplog.text


async def test_a_shared_group_goes_on_behind_poison(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("shares", queues=1)
        for sealed in (uninflatable("shares"), garbled("shares", {})):
            await store(client, sealed)
        await client.producer().send("shares", b"good")
        async with client.shared_consumer("shares", group="s") as consumer:
            seen = []
            async with asyncio.timeout(30):
                async for message in consumer:
                    seen.append(message.body)
                    if message.body == b"good":
                        break
            assert seen == [b"bad", b"good"]
        await settle_by_hand(client)
    text = node.output()
    assert "messages_left_out" in text, text
    assert '"topic": "shares"' in text, text


async def settle_by_hand(client: Client) -> None:
    """One with garbage can be put off, given up, listed, explained and sent back."""
    await store(client, garbled("shares", {}))
    async with client.shared_consumer("shares", group="s") as consumer:
        (message,) = await consumer.receive(1, wait_s=20)
        await message.nack(0)
        (message,) = await consumer.receive(1, wait_s=20)
        assert (message.body, message.attempt) == (b"bad", 2)
        await message.bury("garbage")
        count, (letter,) = await client.dead_letters("s")
        assert (count, letter["topic"], letter["reason"]) == (1, "shares", "garbage")
        (life,) = await client.explain("shares", id=message.id)
        assert "dead-lettered" in str(life)
        assert await client.redrive("s") == 1
        (message,) = await consumer.receive(1, wait_s=20)
        assert message.body == b"bad"
        await message.ack()


async def test_delays_and_order_with_garbage_are_delivered(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("delays", type="delay", queues=1)
        await store(client, garbled("delays", {Column.DUE_TIMES: array("q", [1])}))
        await client.producer().send("delays", b"good", delay=0)
        async with client.shared_consumer("delays", group="s") as consumer:
            seen = []
            async with asyncio.timeout(30):
                async for message in consumer:
                    seen.append(message.body)
                    if len(seen) == 2:
                        break
            assert sorted(seen) == [b"bad", b"good"]
        await client.create_topic("fifos", type="fifo", queues=1)
        await store(client, garbled("fifos", {Column.GROUP_HASHES: array("I", [7])}))
        await client.producer().send("fifos", b"good", message_group="a")
        async with client.shared_consumer("fifos", group="s") as consumer:
            async with asyncio.timeout(30):
                seen = [message.body async for message in first(consumer, 2)]
            assert sorted(seen) == [b"bad", b"good"]


async def test_a_transaction_with_garbage_is_asked_about(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("halves", type="transaction", queues=1)
        asked: list[bytes] = []

        def check(message: HalfMessage) -> str:
            asked.append(message.body)
            assert message.key is None
            return "commit"

        client.producer(transaction_checker=check, transaction_topics=["halves"])
        await store(client, garbled("halves", {}, attributes=frame.HALF))
        async with client.shared_consumer("halves", group="s") as consumer, asyncio.timeout(30):
            (message,) = [message async for message in first(consumer, 1)]
        assert message.body == b"bad"
        assert set(asked) == {b"bad"}


async def first(consumer: AsyncIterable[T], count: int) -> AsyncIterator[T]:
    async for message in consumer:
        yield message
        count -= 1
        if not count:
            return


async def test_a_changed_disk_says_where_and_how_to_go_on(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node:
        async with Client(node.address) as client:
            await client.create_topic("t", queues=1)
            producer = client.producer()
            for number in range(10):
                await producer.send("t", b"body-%d" % number)
            _flip(tmp_path / "data", b"body-5")
            async with client.consumer("t", group="g") as consumer:
                seen = []
                with pytest.raises(DamagedMessages, match="--queue broker-a:0 --to offset:6"):
                    async with asyncio.timeout(30):
                        async for message in consumer:
                            seen.append(message.body)
                assert seen == [b"body-%d" % number for number in range(5)]
            shell = Shell(node.address, tmp_path)
            shell.done("group", "reset", "g", "t", "--queue", "broker-a:0", "--to", "offset:6")
            async with client.consumer("t", group="g") as consumer, asyncio.timeout(30):
                seen = [message.body async for message in first(consumer, 4)]
            assert seen == [b"body-%d" % number for number in range(6, 10)]


def _flip(directory: Path, found: bytes) -> None:
    """A bit of what the node has written, under its hands."""
    (segment,) = (directory / "log").glob("*.seg")
    with segment.open("r+b") as file:
        place = file.read().index(found)
        file.seek(place)
        file.write(bytes([found[0] ^ 1]))


async def test_a_changed_disk_holds_up_one_queue_of_a_shared_group_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Node(tmp_path / "data") as node:
        async with Client(node.address) as client:
            await client.create_topic("t", queues=2)
            producer = client.producer()
            receipts = [await producer.send("t", b"body-%d" % number) for number in range(4)]
            _flip(tmp_path / "data", b"body-0")
            wanted = {b"body-%d" % n for n, receipt in enumerate(receipts) if receipt.queue != receipts[0].queue}
            seen: set[bytes] = set()
            async with client.shared_consumer("t", group="g") as consumer, asyncio.timeout(30):
                async for message in consumer:
                    seen.add(message.body)
                    if wanted <= seen and "can't be read" in caplog.text:
                        break
                    await producer.send("t", b"more")
            assert b"body-0" not in seen
            assert "reset the group to offset 1" in caplog.text
            await client.reset_offsets("g", "t", to={"offset": 1}, queue=receipts[0].queue, broker="broker-a")
            wanted = {b"body-%d" % number for number in range(1, 4)}
            async with client.shared_consumer("t", group="g") as consumer, asyncio.timeout(30):
                while not wanted <= seen:
                    for message in await consumer.receive():
                        seen.add(message.body)
                        await message.ack()
