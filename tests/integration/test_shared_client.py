"""Shared groups through the native client, against a real node."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from kourou.client import Client, Message, Producer, SharedConsumer, SharedMessage, Sql
from kourou.core.errors import (
    BadRequest,
    GroupShapeMismatch,
    IllegalFilter,
    InvalidReceiptHandle,
    SubscriptionConflict,
    TopicNotFound,
)
from tests.integration.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node"), env={"KOUROU_LOG_LEVEL": "warning"}) as running:
        yield running


async def take(consumer: SharedConsumer, count: int) -> list[SharedMessage]:
    """The next messages, each acknowledged when the next one is asked for; the last one too."""
    found: list[SharedMessage] = []
    async with asyncio.timeout(30):
        async for message in consumer:
            found.append(message)
            if len(found) == count:
                await message.ack()
                break
    return found


async def nothing_comes(consumer: SharedConsumer, *, wait_s: float = 0.3) -> None:
    assert await consumer.receive(16, wait_s=wait_s) == []


async def test_what_is_sent_comes_back(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("fields", queues=1)
        producer = client.producer()
        receipt = await producer.send("fields", "text", key="k", keys=["l"], tag="t", properties={"a": "ä", "b": ""})
        await producer.send_many("fields", [b"plain", Message(b"rich", tag="u")])
        async with client.shared_consumer("fields", group="fields") as consumer:
            first, *rest = await take(consumer, 3)
        assert (first.body, first.id, first.offset, first.queue, first.attempt) == (b"text", receipt.id, 0, 0, 1)
        assert (first.key, first.keys, first.tag, first.properties) == ("k", ("k", "l"), "t", {"a": "ä", "b": ""})
        assert [(m.body, m.tag) for m in rest] == [(b"plain", None), (b"rich", "u")]
        assert (first.topic, first.broker, first.message_group, first.deliver_at_ms) == (
            "fields",
            receipt.broker,
            None,
            None,
        )
        assert first.store_ms == receipt.store_ms
        assert len({m.id for m in [first, *rest]}) == 3
        async with client.shared_consumer("fields", group="fields") as consumer:
            await nothing_comes(consumer)


async def test_two_consumers_share(node: Node) -> None:
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("pair", queues=4)
        seen: dict[str, list[bytes]] = {"one": [], "two": []}
        both = asyncio.Event()

        async def read(name: str, consumer: SharedConsumer) -> None:
            async for message in consumer:
                seen[name].append(message.body)
                if sum(map(len, seen.values())) == 400:
                    both.set()
                await asyncio.sleep(0)

        one = client.shared_consumer("pair", group="pair", prefetch=4)
        two = other.shared_consumer("pair", group="pair", prefetch=4)
        async with one, two, asyncio.TaskGroup() as group:
            tasks = [group.create_task(read("one", one)), group.create_task(read("two", two))]
            await client.producer().send_many("pair", [b"%d" % i for i in range(400)])
            async with asyncio.timeout(30):
                await both.wait()
            for task in tasks:
                task.cancel()
        assert sorted(seen["one"] + seen["two"], key=int) == [b"%d" % i for i in range(400)]
        assert seen["one"]
        assert seen["two"]


async def test_what_is_not_settled_comes_again_with_attempts(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("again", queues=1)
        await client.producer().send("again", b"x")
        async with client.shared_consumer("again", group="again", invisible_s=1) as consumer:
            for attempt in (1, 2, 3):
                (message,) = await consumer.receive(1, wait_s=20)
                assert message.attempt == attempt
            await message.ack()
            await nothing_comes(consumer, wait_s=1.5)


async def test_what_receive_handed_out_and_nobody_settled_does_not_hold_up_its_group(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("left-alone", type="fifo", queues=1)
        for body in (b"1", b"2"):
            await client.producer().send("left-alone", body, message_group="a")
        async with client.shared_consumer("left-alone", group="g", invisible_s=1) as consumer:
            seen: list[tuple[bytes, int]] = []
            async with asyncio.timeout(30):
                while len(seen) < 3:
                    for message in await consumer.receive(1, wait_s=2):
                        seen.append((message.body, message.attempt))
                        if len(seen) > 1:
                            await message.ack()
            assert [body for body, _ in seen] == [b"1", b"1", b"2"]
            assert seen[1][1] == 2


async def test_an_outdated_handle_is_refused(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("stale", queues=1)
        await client.producer().send("stale", b"x")
        async with client.shared_consumer("stale", group="stale", invisible_s=1) as consumer:
            (first,) = await consumer.receive(1)
            (second,) = await consumer.receive(1)
            with pytest.raises(InvalidReceiptHandle):
                await first.ack()
            await second.ack()
            with pytest.raises(BadRequest, match="settled before"):
                await second.nack()


async def test_a_slow_body_keeps_its_message(node: Node) -> None:
    """Invisible for a second, worked on for three: renewed, so that it comes once."""
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("slow", queues=1)
        await client.producer().send("slow", b"x")
        seen: list[int] = []
        consumer = client.shared_consumer("slow", group="slow", invisible_s=1)
        rival = other.shared_consumer("slow", group="slow", invisible_s=1)
        async with consumer, rival:
            async for message in consumer:
                seen.append(message.attempt)
                found = await rival.receive(1, wait_s=3)
                assert found == []
                assert not message.lost
                break
        async with client.shared_consumer("slow", group="slow") as after:
            await nothing_comes(after, wait_s=1.5)
        assert seen == [1]


async def test_extend_keeps_a_received_message(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("extend", queues=1)
        await client.producer().send("extend", b"x")
        async with client.shared_consumer("extend", group="extend", invisible_s=1) as consumer:
            (message,) = await consumer.receive(1)
            await message.extend(60)
            await nothing_comes(consumer, wait_s=2)
            await message.ack()


async def test_a_body_that_raises_gives_the_message_back(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("raises", queues=1)
        await client.create_group("raises", shape="shared", retry_s=[0.05])
        await client.producer().send_many("raises", [b"a", b"b"])
        with pytest.raises(ZeroDivisionError):
            async with client.shared_consumer("raises", group="raises") as consumer:
                async for message in consumer:
                    assert message.body == b"a"
                    raise ZeroDivisionError
        async with client.shared_consumer("raises", group="raises") as consumer:
            found = await take(consumer, 2)
        attempts = {m.body: m.attempt for m in found}
        assert attempts == {b"a": 2, b"b": 1}  # b had been fetched ahead: that does not count


async def test_break_leaves_the_message_to_the_next_loop(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("breaks", queues=1)
        await client.producer().send_many("breaks", [b"a", b"b"])
        async with client.shared_consumer("breaks", group="breaks") as consumer:
            async for message in consumer:
                assert message.body == b"a"
                break
            assert [m.body for m in await take(consumer, 2)] == [b"a", b"b"]


async def test_nack_backs_off_as_the_group_says(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("backoff", queues=1)
        await client.create_group("backoff", shape="shared", retry_s=[0.4, 0.9])
        await client.producer().send("backoff", b"x")
        async with client.shared_consumer("backoff", group="backoff") as consumer:
            waited: list[float] = []
            for _ in range(2):
                (message,) = await consumer.receive(1)
                before = time.monotonic()
                await message.nack()
                (message,) = await consumer.receive(1)
                waited.append(time.monotonic() - before)
                if len(waited) == 1:
                    await message.nack(0)
            assert message.attempt == 4
            await message.ack()
        assert waited[0] >= 0.39
        assert waited[1] >= 0.89


async def test_the_last_attempt_goes_to_the_dead_letters(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("dying", queues=1)
        await client.create_group("dying", shape="shared", max_attempts=3, retry_s=[0.02])
        receipt = await client.producer().send("dying", b"x", key="k", tag="t")
        async with client.shared_consumer("dying", group="dying") as consumer:
            for attempt in (1, 2, 3):
                (message,) = await consumer.receive(1)
                assert (message.attempt, message.max_attempts) == (attempt, 3)
                await message.nack(reason=f"failed {attempt} times")
            await nothing_comes(consumer)
        await client.create_topic("%DLQ%dying", queues=1)
        async with client.shared_consumer("%DLQ%dying", group="undertaker") as consumer:
            (dead,) = await take(consumer, 1)
        assert (dead.body, dead.id, dead.key, dead.tag) == (b"x", receipt.id, "k", "t")
        assert dead.properties["DLQ_REASON"] == "failed 3 times"


async def test_bury(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("bury", queues=1)
        await client.producer().send("bury", b"x")
        async with client.shared_consumer("bury", group="bury") as consumer:
            (message,) = await consumer.receive(1)
            await message.bury("no such customer")
            await nothing_comes(consumer)
        async with client.shared_consumer("%DLQ%bury", group="undertaker") as consumer:
            (dead,) = await take(consumer, 1)
        assert dead.properties["DLQ_REASON"] == "no such customer"


async def test_what_was_fetched_ahead_is_given_back_at_once(node: Node) -> None:
    """The second consumer gets it long before the first one's invisible time is over, as a first attempt."""
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("ahead", queues=2)
        await client.producer().send_many("ahead", [b"%d" % i for i in range(20)])
        async with client.shared_consumer("ahead", group="ahead", invisible_s=600) as consumer:
            (first,) = await take(consumer, 1)
        async with other.shared_consumer("ahead", group="ahead") as consumer:
            rest = await take(consumer, 19)
        assert {m.body for m in rest} | {first.body} == {b"%d" % i for i in range(20)}
        assert {m.attempt for m in rest} == {1}


async def test_filters(node: Node) -> None:
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("filters", queues=2)
        producer = client.producer()
        for i in range(10):
            await producer.send("filters", b"%d" % i, tag="ab"[i % 2], properties={"price": str(i)})
        async with client.shared_consumer("filters", group="sql", filter=Sql("price > 6 AND TAGS = 'b'")) as consumer:
            assert {m.body for m in await take(consumer, 2)} == {b"7", b"9"}
            with pytest.raises(SubscriptionConflict, match="sql"):
                async with other.shared_consumer("filters", group="sql"):
                    pass
        async with client.shared_consumer("filters", group="tags", filter="a || c") as consumer:
            assert {m.body for m in await take(consumer, 5)} == {b"0", b"2", b"4", b"6", b"8"}
            await nothing_comes(consumer)
        with pytest.raises(IllegalFilter, match="column 8"):
            async with client.shared_consumer("filters", group="broken", filter=Sql("price >")):
                pass


async def test_what_can_not_be_used_is_said_at_once(node: Node, tmp_path: Path) -> None:
    async with Client(node.address) as client:
        await client.create_topic("said", queues=1)
        await client.create_group("streams", shape="stream")
        with pytest.raises(GroupShapeMismatch, match="stream"):
            async with client.shared_consumer("said", group="streams"):
                pass
        async with client.shared_consumer("said", group="shares"):
            pass
        with pytest.raises(GroupShapeMismatch, match="shared"):
            async with client.consumer("said", group="shares"):
                pass
        for bad in ({"invisible_s": 0.5}, {"prefetch": 0}, {"concurrency": 0}, {"filter": 5}):
            with pytest.raises(BadRequest):
                client.shared_consumer("said", group="g", **bad)
        (message,) = await _one(client, "said")
        with pytest.raises(BadRequest, match="from 0 to 43200"):
            await message.nack(13 * 3_600)
    with Node(tmp_path / "strict", "--no-auto-create") as strict:
        async with Client(strict.address) as client:
            with pytest.raises(TopicNotFound):
                async with client.shared_consumer("missing", group="g"):
                    pass


async def _one(client: Client, topic: str) -> list[SharedMessage]:
    await client.producer().send(topic, b"x")
    consumer = client.shared_consumer(topic, group="one")
    await consumer.open()
    return await consumer.receive(1)


async def test_a_deleted_topic_ends_the_loop(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("doomed", queues=1)
        async with client.shared_consumer("doomed", group="doomed") as consumer:
            task = asyncio.create_task(take(consumer, 1))
            await asyncio.sleep(0)
            await client.delete_topic("doomed")
            with pytest.raises(TopicNotFound):
                await task


async def send_groups(producer: Producer, topic: str, groups: int, each: int) -> None:
    for number in range(each):
        await producer.send_many(
            topic, [Message(b"%d" % number, message_group=f"g{group}", key=f"g{group}") for group in range(groups)]
        )


async def test_order_holds_under_failures_and_concurrency(node: Node) -> None:
    """Every group's messages end well in their order, whatever fails in between, with two clients of eight handlers."""
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("ordered", type="fifo", queues=4)
        await client.create_group("ordered", shape="shared", retry_s=[0.01])
        ended: dict[str, list[int]] = defaultdict(list)
        working: set[str] = set()
        all_ended = asyncio.Event()

        async def handle(message: SharedMessage) -> None:
            group, number = message.message_group, int(message.body)
            assert group is not None
            assert group not in working, "two messages of a group at a time"
            working.add(group)
            try:
                await asyncio.sleep(0.001)
                if number % 3 == 1 and message.attempt == 1:
                    raise RuntimeError("the first attempt fails")
                ended[group].append(number)
            finally:
                working.discard(group)
            if sum(map(len, ended.values())) == 12 * 20:
                all_ended.set()

        for each in (client, other):
            each.on("ordered", group="ordered", concurrency=8)(handle)
        await send_groups(client.producer(), "ordered", 12, 20)
        runs = [asyncio.create_task(each.run()) for each in (client, other)]
        async with asyncio.timeout(60):
            await all_ended.wait()
        for each in (client, other):
            each.stop()
        await asyncio.gather(*runs)
        assert dict(ended) == {f"g{group}": list(range(20)) for group in range(12)}


async def test_handlers_acknowledge_and_retry(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("handled", queues=2)
        await client.create_group("handled", shape="shared", max_attempts=2, retry_s=[0.02])
        seen: list[tuple[bytes, int]] = []
        done = asyncio.Event()

        @client.on("handled", group="handled", concurrency=4)
        async def handle(message: SharedMessage) -> None:
            seen.append((message.body, message.attempt))
            if message.body == b"bad":
                raise ValueError("what a pity")
            if message.body == b"last":
                done.set()

        running = asyncio.create_task(client.run())
        producer = client.producer()
        await producer.send_many("handled", [b"good", b"bad"])
        async with client.shared_consumer("%DLQ%handled", group="undertaker", auto_ack=False) as graves:
            async with asyncio.timeout(30):
                while not (dead := await graves.receive(1)):
                    pass
        assert dead[0].properties["DLQ_REASON"] == "ValueError: what a pity"
        await producer.send("handled", b"last")
        async with asyncio.timeout(30):
            await done.wait()
        client.stop()
        await running
        assert sorted(seen) == [(b"bad", 1), (b"bad", 2), (b"good", 1), (b"last", 1)]


async def test_interrupted_handlers_give_back_what_they_had(node: Node) -> None:
    async with Client(node.address) as client, Client(node.address) as other:
        await client.create_topic("interrupted", queues=1)
        begun = asyncio.Event()

        @client.on("interrupted", group="interrupted", invisible_s=600)
        async def handle(message: SharedMessage) -> None:
            begun.set()
            await asyncio.Event().wait()

        running = asyncio.create_task(client.run())
        await client.producer().send("interrupted", b"x")
        async with asyncio.timeout(30):
            await begun.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        async with other.shared_consumer("interrupted", group="interrupted") as consumer:
            (message,) = await take(consumer, 1)
        assert message.attempt == 1


async def test_a_dead_consumers_messages_come_back(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("dead", queues=1)
        await client.producer().send("dead", b"x")
        doomed = await Client(node.address).open()
        consumer = doomed.shared_consumer("dead", group="dead", invisible_s=1)
        await consumer.open()
        assert len(await consumer.receive(1)) == 1
        for connection in (doomed._cluster._nameserver, *doomed._cluster._brokers.values()):
            assert connection is not None
            connection.abort("the process died")
        await doomed._cluster.close()
        async with client.shared_consumer("dead", group="dead") as survivor:
            (message,) = await take(survivor, 1)
        assert message.attempt == 2


async def test_kill_and_restart_in_the_middle(tmp_path: Path) -> None:
    """Nothing is lost, nothing that was acknowledged comes again, consumers go on by themselves."""
    running = Node(tmp_path / "data")
    port = running.port
    acked: set[bytes] = set()
    again: list[bytes] = []
    try:
        async with Client(running.address) as client:
            await client.create_topic("killed", queues=4)
            await client.create_group("killed", shape="shared", retry_s=[0.01])
            consumer = client.shared_consumer("killed", group="killed", invisible_s=1, auto_ack=False, prefetch=8)
            half, all_of_them = asyncio.Event(), asyncio.Event()
            producer = client.producer(deadline_s=60)
            await producer.send_many("killed", [b"%d" % i for i in range(400)])

            async def read() -> None:
                async for message in consumer:
                    if message.body in acked:
                        again.append(message.body)
                    try:
                        await message.ack()
                    except InvalidReceiptHandle:
                        continue
                    acked.add(message.body)
                    if len(acked) >= 100:
                        half.set()
                    if len(acked) == 450:
                        all_of_them.set()

            async with consumer:
                task = asyncio.create_task(read())
                async with asyncio.timeout(30):
                    await half.wait()
                await asyncio.to_thread(running.kill)
                running = await asyncio.to_thread(lambda: Node(tmp_path / "data", port=port))
                await producer.send_many("killed", [b"%d" % i for i in range(400, 450)])
                async with asyncio.timeout(60):
                    await all_of_them.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert acked == {b"%d" % i for i in range(450)}
        assert again == []
    finally:
        if running.process.poll() is None:
            running.stop()


async def test_a_loop_that_ends_leaves_no_poll_behind(node: Node) -> None:
    """It ends just as it asks for more: a poll that stayed at the broker would be handed what comes next."""
    async with Client(node.address) as client:
        await client.create_topic("ends", queues=1)
        producer = client.producer()
        for number in range(3):
            receipt = await producer.send("ends", b"x")
            async with client.shared_consumer("ends", group="ends") as consumer:
                async for message in consumer:
                    assert (message.id, message.attempt) == (receipt.id, 1), number
                    break
        await producer.send("ends", b"last")
        async with client.shared_consumer("ends", group="ends") as consumer:
            (message,) = await consumer.receive(1, wait_s=20)
            await message.ack()


async def test_two_who_redrive_side_by_side_send_each_dead_letter_back_once(node: Node) -> None:
    async with Client(node.address) as client:
        await client.create_topic("twice", queues=2)
        await client.producer().send_many("twice", [str(number).encode() for number in range(100)])
        async with client.shared_consumer("twice", group="twice") as consumer:
            buried = 0
            while buried < 100:
                for message in await consumer.receive(32):
                    await message.bury("no good")
                    buried += 1
            sent = await asyncio.gather(*(client.redrive("twice", rate=1_000) for _ in range(3)))
            assert sum(sent) == 100
            assert sorted(int(message.body) for message in await take(consumer, 100)) == list(range(100))
            await nothing_comes(consumer)
        assert sum(await asyncio.gather(client.purge_dead_letters("twice"), client.redrive("twice"))) == 0
