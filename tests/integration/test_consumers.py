"""The native client against a real node: groups, hand-over, commits, filters, restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kourou.client import Client, Consumer, Message, ReceivedMessage
from kourou.core import wire
from kourou.core.errors import GroupShapeMismatch, NotConnected, TopicNotFound, TopicTypeMismatch
from kourou.core.wire import Code, WireMessage
from tests.integration.node import Node
from tests.integration.raw import Raw, sealed


async def until(condition: Callable[[], bool], what: str, *, timeout_s: float = 30.0) -> None:
    """Wait for something that other tasks bring about."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {what}") from None


async def take(consumer: Consumer, count: int) -> list[ReceivedMessage]:
    """The next messages, finished one by one."""
    found: list[ReceivedMessage] = []
    async with asyncio.timeout(30):
        async for message in consumer:
            found.append(message)
            if len(found) == count:
                consumer.done(message)
                break
    return found


async def test_what_is_sent_comes_back(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("fields", queues=1)
        producer = client.producer()
        receipt = await producer.send("fields", "text", key="k", keys=["l"], tag="t", properties={"a": "\u00e4", "b": ""})
        await producer.send_many("fields", [b"plain", Message(b"rich", tag="u"), "str"])
        async with client.consumer("fields", group="fields") as consumer:
            first, *rest = await take(consumer, 4)
        assert (first.body, first.id, first.offset, first.queue) == (b"text", receipt.id, 0, 0)
        assert (first.key, first.keys, first.tag, first.properties) == ("k", ("k", "l"), "t", {"a": "\u00e4", "b": ""})
        assert [(m.body, m.tag) for m in rest] == [(b"plain", None), (b"rich", "u"), (b"str", None)]
        assert len({m.id for m in [first, *rest]}) == 4
        assert abs(first.born_ms - first.store_ms) < 60_000
        for found in (await client.find("fields", id=rest[1].id), await client.find("fields", queue=0, offset=2)):
            assert [m.body for m in found] == [b"rich"]
        assert [m.body for m in await client.find("fields", key="l")] == [b"text"]
        assert [m.body for m in await client.find("fields", time_ms=0)] == [b"text", b"plain", b"rich", b"str"]


async def test_two_consumers_share_and_hand_over_at_once(node: Node) -> None:
    """Queues move when a consumer joins and when one leaves; every message is seen; order holds in each queue."""
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("shared", queues=8)
        seen: list[tuple[int, int]] = []

        async def read(consumer: Consumer) -> None:
            async for message in consumer:
                seen.append((message.queue, message.offset))

        producer = client.producer()
        async with client.consumer("shared", group="pair") as one:
            await until(lambda: len(one.assignment) == 8, "one consumer has all queues")
            task = asyncio.create_task(read(one))
            await producer.send_many("shared", [b"%d" % i for i in range(1000)])
            async with other.consumer("shared", group="pair") as two:
                await until(lambda: len(one.assignment) == len(two.assignment) == 4, "both have half")
                assert not set(one.assignment) & set(two.assignment)
                second = asyncio.create_task(read(two))
                for i in range(50):
                    await producer.send_many("shared", [b"%d" % i] * 20)
                await until(lambda: len(set(seen)) == 2000, "all were seen")
                second.cancel()
                await asyncio.gather(second, return_exceptions=True)
            await until(lambda: len(one.assignment) == 8, "its queues came back")
            await producer.send_many("shared", [b"x"] * 100)
            await until(lambda: len(set(seen)) == 2100, "all were seen")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for queue in range(8):
            first_seen = list(dict.fromkeys(offset for q, offset in seen if q == queue))
            assert first_seen == sorted(first_seen)


async def test_a_dead_socket_moves_queues_at_once(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("dead", queues=4)
        doomed = await Client(node.address).open()
        consumer = doomed.consumer("dead", group="dead")
        await consumer.open()
        await until(lambda: len(consumer.assignment) == 4, "it has all")
        async with client.consumer("dead", group="dead") as heir:
            await until(lambda: len(heir.assignment) == 2, "half each")
            for connection in doomed._cluster._brokers.values():
                connection.abort("killed by the test")
            doomed._cluster.closed = True
            await until(lambda: len(heir.assignment) == 4, "it has inherited", timeout_s=5.0)
        await doomed.close()


async def test_only_finished_messages_are_committed(node: Node) -> None:
    """An exception in the loop's body commits nothing of that message; it comes again."""
    async with Client(node.address) as client:
        await client.create_topic("finish", queues=1)
        await client.producer().send_many("finish", [b"0", b"1", b"2", b"3"])
        with pytest.raises(ZeroDivisionError):
            async with client.consumer("finish", group="finish") as consumer:
                async for message in consumer:
                    if message.body == b"2":
                        raise ZeroDivisionError
        described = await client.describe_group("finish")
        assert [(q["committed"], q["lag"]) for q in described["queues"]] == [(2, 2)]
        async with client.consumer("finish", group="finish") as consumer:
            assert [m.body for m in await take(consumer, 2)] == [b"2", b"3"]
        assert (await client.describe_group("finish"))["lag"] == 0


async def test_manual_commit_and_seek(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("manual", queues=1)
        await client.producer().send_many("manual", [b"%d" % i for i in range(10)])
        async with client.consumer("manual", group="manual", auto_commit=False) as consumer:
            messages = await take(consumer, 10)
            consumer.done(messages[4])
        async with client.consumer("manual", group="manual", auto_commit=False) as consumer:
            again = await take(consumer, 10)
            assert again[0].offset == 0  # done, but never committed
            consumer.done(again[4])
            await consumer.commit()
            await consumer.seek(0, 7)
            assert [m.offset for m in await take(consumer, 3)] == [7, 8, 9]
            await consumer.seek(0, "earliest")
            assert [m.offset for m in await take(consumer, 2)] == [0, 1]


async def test_starts_and_resets(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("starts", queues=1)
        producer = client.producer()
        await producer.send_many("starts", [b"old"] * 5)
        async with client.consumer("starts", group="latest", start="latest") as consumer:
            await until(lambda: bool(consumer.assignment), "assigned")
            await producer.send("starts", b"new")
            assert [m.body for m in await take(consumer, 1)] == [b"new"]
        async with client.consumer("starts", group="offset", start={"offset": 4}) as consumer:
            assert [m.offset for m in await take(consumer, 2)] == [4, 5]
        (message,) = await client.find("starts", queue=0, offset=5)
        async with client.consumer("starts", group="time", start={"time": message.store_ms + 1_000_000}) as consumer:
            await until(lambda: bool(consumer.assignment), "assigned")
            await producer.send("starts", b"newer")
            assert [m.body for m in await take(consumer, 1)] == [b"newer"]
            moved = await client.reset_offsets("time", "starts", to="earliest")
            assert [(q["queue"], q["to"]) for q in moved] == [(0, 0)]
            assert [m.offset for m in await take(consumer, 7)] == list(range(7))


async def test_a_commit_never_undoes_a_reset(tmp_path: Path) -> None:
    """A consumer commits without pause while its offsets are reset: what it read before is not committed after.

    It stops at the first message that it is handed again, until the committed offset has been looked at. With flush = sync
    a reset takes as long as the disk, and many commits come meanwhile.
    """
    with Node(tmp_path / "data", "--flush", "sync") as running:
        async with Client(running.address) as client, Client(running.address) as admin:
            await client.create_topic("undo", queues=1)
            await client.producer().send_many("undo", [b"%d" % i for i in range(5_000)])
            rounds, held, go_on = 0, asyncio.Event(), asyncio.Event()
            seen = 0
            async with client.consumer("undo", group="undo", auto_commit=False) as consumer:

                async def read() -> None:
                    nonlocal seen
                    async for message in consumer:
                        if message.offset == 0 and rounds:
                            held.set()
                            await go_on.wait()
                            go_on.clear()
                        consumer.done(message)
                        seen = message.offset

                async def commit() -> None:
                    while True:
                        await consumer.commit()
                        await asyncio.sleep(0)  # with nothing to commit it returns at once

                tasks = [asyncio.create_task(read()), asyncio.create_task(commit())]
                for _ in range(15):
                    await until(lambda: seen > 100, "it reads")  # noqa: B023
                    rounds += 1
                    moved = await admin.reset_offsets("undo", "undo", to="earliest")
                    assert [(q["queue"], q["to"]) for q in moved] == [(0, 0)]
                    async with asyncio.timeout(30):
                        await held.wait()
                    for _ in range(3):
                        await consumer.commit()
                    described = await admin.describe_group("undo")
                    assert [q["committed"] for q in described["queues"]] == [1]  # with what the loop works on
                    seen = 0
                    held.clear()
                    go_on.set()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("flush", ["async", "sync"])
def test_commits_that_come_during_a_reset(tmp_path: Path, flush: str) -> None:
    """Each commit is before the reset or fenced; none moves what was set. Method: many are sent right behind the reset."""
    with Node(tmp_path / "data", "--flush", flush) as running, Raw(running.address) as raw:
        raw.create_topic("raced")
        raw.produce(sealed("raced", *[b"%d" % i for i in range(1_000)]))
        number = raw.ask_json(Code.SUBSCRIBE, {"group": "g", "topic": "raced", "member": "m", "credit": 0})["subscription"]
        header = wire.COMMIT_REQUEST.pack(number, 1)
        while (message := raw.receive()).code != Code.ASSIGN:
            pass
        for round_ in range(10):
            (queue,) = wire.decode_json(message.body)["queues"]
            assert queue["offset"] == (2 if round_ else 0)
            reset = raw.send(Code.RESET, body=wire.encode_json({"group": "g", "topic": "raced", "to": {"offset": 2}}))
            commits = [
                raw.send(Code.COMMIT, header=header, body=wire.COMMIT_ENTRY.pack(0, queue["epoch"], queue["n"], at))
                for at in range(3, 203)
            ]
            answers: dict[int, Any] = {}
            fresh: WireMessage | None = None
            while len(answers) <= len(commits) or fresh is None:
                message = raw.receive()
                if message.is_answer:
                    assert not message.is_error
                    answers[message.opaque] = wire.decode_json(message.body)
                elif message.code == Code.ASSIGN:
                    fresh = message
            fenced = [bool(answers[commit]["fenced"]) for commit in commits]
            assert fenced == sorted(fenced)  # first those before the reset, then those behind it
            (moved,) = answers[reset]["queues"]
            if not fenced[0]:
                assert moved == {"queue": 0, "from": 2 + fenced.count(False), "to": 2}
            (found,) = raw.ask_json(Code.OFFSETS, {"topic": "raced", "group": "g"})["queues"]
            assert found["committed"] == 2
            message = fresh


async def test_tags(node: Node) -> None:
    """Only messages with the tag come, also where a frame holds others too; a conflicting member is refused."""
    async with Client(node.address) as client:
        await client.create_topic("tags", queues=2)
        producer = client.producer()
        await producer.send_many("tags", [Message(b"%d" % i, tag="abc"[i % 3]) for i in range(300)])
        await producer.send_many("tags", [b"untagged"] * 50)
        async with client.consumer("tags", group="tags", tags=["a", "c"]) as consumer:
            assert Counter(m.tag for m in await take(consumer, 200)) == {"a": 100, "c": 100}
            with pytest.raises(Exception, match="must agree"):
                async with client.consumer("tags", group="tags", tags="b"):
                    pass


async def test_broadcast(node: Node) -> None:
    """Each client sees everything, and goes on where it was by its client id."""
    for round_ in range(2):
        async with Client(node.address, client_id="radio-1") as one, Client(node.address, client_id="radio-2") as two:
            await one.create_topic("radio", queues=3)
            await one.producer().send_many("radio", [b"%d" % i for i in range(30)])
            for client in (one, two):
                async with client.consumer("radio", group="radio", mode="broadcast") as consumer:
                    assert len(await take(consumer, 30)) == 30, round_


async def test_fifo_keeps_the_order_of_each_message_group(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("fifo", type="fifo", queues=4)
        producer = client.producer()
        with pytest.raises(TopicTypeMismatch):
            await producer.send("fifo", b"no group")
        for i in range(500):
            await producer.post("fifo", b"%d" % i, message_group=f"g{i % 7}")
        await producer.flush()
        async with client.consumer("fifo", group="fifo") as consumer:
            groups: dict[str | None, list[int]] = {}
            for message in await take(consumer, 500):
                groups.setdefault(message.message_group, []).append(int(message.body))
        assert len(groups) == 7
        assert all(numbers == sorted(numbers) for numbers in groups.values())


@pytest.mark.parametrize("compression", ["zlib"])
async def test_compression(node: Node, compression: str) -> None:
    async with Client(node.address) as client:
        await client.create_topic("packed", queues=1)
        bodies = [b"%d %s" % (i, b"x" * (i % 500)) for i in range(2_000)]
        receipts = await client.producer(compression=compression).send_many("packed", bodies)
        assert len(receipts) == 2_000
        assert (await client.status())["broker-a"]["log"]["end"] > 0
        async with client.consumer("packed", group="packed") as consumer:
            assert [m.body for m in await take(consumer, 2_000)] == bodies


async def test_pause(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("paused", queues=1)
        producer = client.producer()
        async with client.consumer("paused", group="paused") as consumer:
            await until(lambda: bool(consumer.assignment), "assigned")
            await consumer.pause()
            await producer.send("paused", b"1")
            assert await consumer.receive(timeout_s=0.2) is None
            await consumer.resume()
            assert [m.body for m in await take(consumer, 1)] == [b"1"]


async def test_clear_errors(node: Node, tmp_path: Path) -> None:
    with pytest.raises(NotConnected, match="is Kourou running there"):
        await Client("127.0.0.1:1").open()
    with Node(tmp_path / "strict", "--no-auto-create") as strict:
        async with Client(strict.address) as client:
            with pytest.raises(TopicNotFound, match="create it with"):
                await client.producer().send("nope", b"x")
            await client.create_topic("there")
            with pytest.raises(Exception, match="automatic creation is switched off"):
                async with client.consumer("there", group="nope"):
                    pass
            await client.create_group("pop", shape="shared")
            with pytest.raises(GroupShapeMismatch):
                async with client.consumer("there", group="pop"):
                    pass


async def test_automatic_creation(node: Node) -> None:
    async with Client(node.address) as client:
        await client.producer().send("by-itself", b"x")
        described = await client.describe_topic("by-itself")
        assert (described["type"], len(described["queues"])) == ("normal", 8)


async def test_a_restart_in_the_middle(tmp_path: Path) -> None:
    """kill -9 while a producer sends and a consumer reads: both go on by themselves, nothing is lost or out of order."""
    node = Node(tmp_path / "data")
    port, wanted = node.port, 0
    enough = asyncio.Event()
    try:
        async with Client(node.address) as client:
            await client.create_topic("restart", queues=4)
            seen: dict[int, list[int]] = {}

            async def read() -> None:
                async with client.consumer("restart", group="restart") as consumer:
                    async for message in consumer:
                        seen.setdefault(message.queue, []).append(int(message.body))

            async def write() -> None:
                nonlocal wanted
                producer = client.producer(deadline_s=60)
                while not enough.is_set():
                    await producer.send_many("restart", [b"%d" % i for i in range(wanted, wanted + 10)])
                    wanted += 10

            reader, writer = asyncio.create_task(read()), asyncio.create_task(write())
            for _ in range(3):
                mark = sum(map(len, seen.values()))
                await until(lambda mark=mark: sum(map(len, seen.values())) > mark + 300, "some were read")  # type: ignore[misc]
                await asyncio.to_thread(node.kill)
                node = await asyncio.to_thread(Node, tmp_path / "data", port=port)
            enough.set()
            async with asyncio.timeout(60):
                await writer
            await until(lambda: len({n for numbers in seen.values() for n in numbers}) == wanted, "all were read")
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            stored = sum(queue["max"] for queue in (await client.describe_topic("restart"))["queues"])
            assert stored == wanted  # retries of an idempotent producer left no duplicates
    finally:
        if node.process.poll() is None:
            node.stop()
    for numbers in seen.values():
        once = list(dict.fromkeys(numbers))
        assert once == sorted(once)
