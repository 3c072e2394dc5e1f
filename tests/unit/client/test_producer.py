"""The producer against a scripted server: what is retried, moved, refused, ordered, and how it ends."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from kourou.client import Client, Message, SendFailed, cluster
from kourou.core.errors import (
    BadRequest,
    BodyTooLarge,
    Busy,
    DeadlineExceeded,
    FlushFailed,
    FrameInvalid,
    NotConnected,
    OutcomeUnknown,
    SequenceExpired,
    TopicNotFound,
    TopicTypeMismatch,
)
from kourou.core.ids import parse_id
from kourou.core.limits import PRODUCER_WINDOW
from kourou.core.siphash import message_group_index
from kourou.core.wire import Code
from kourou.transport.connection import connect
from tests.unit.client.fake_server import Action, FakeServer


async def test_a_receipt_says_where_the_message_is() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.producer() as producer:
            first = await producer.send("t", b"one", key="k", tag="x", properties={"a": "b"})
            second = await producer.send("t", "two")
            assert (first.topic, first.broker, first.queue, first.offset, first.duplicate) == ("t", "a", 0, 0, False)
            assert second.offset == 1
            parsed = parse_id(first.id)
            assert parsed == (producer.id, 1, 0)
        assert [f.bodies for f in server.frames] == [[b"one"], [b"two"]]


async def test_a_lost_answer_is_asked_for_again_with_the_same_bytes() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=4)
        server.script += [Action.LOSE_ANSWER, Action.LOSE_ANSWER]
        async with Client(server.address) as client, client.producer() as producer:
            receipt = await producer.send("t", b"once")
        assert receipt.duplicate
        assert len(server.frames) == 1
        assert len({written.sealed for written in server.writes}) == 1
        assert len(server.writes) == 3


async def test_a_lost_request_is_written_again_with_the_same_bytes() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=4)
        server.script += [Action.LOSE_REQUEST]
        async with Client(server.address) as client, client.producer() as producer:
            receipt = await producer.send("t", b"once")
        assert not receipt.duplicate
        assert len({written.sealed for written in server.writes}) == 1


async def test_a_refused_frame_moves_with_a_new_sequence() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=4)
        server.script += [Busy("busy", retry_after_ms=1)]
        async with Client(server.address) as client, client.producer() as producer:
            receipt = await producer.send("t", b"x")
        refused, stored = server.writes
        assert (refused.header.sequence, stored.header.sequence) == (1, 2)
        assert stored.header.queue_id == (refused.header.queue_id + 1) % 4 == receipt.queue
        assert refused.bodies == stored.bodies


@pytest.mark.parametrize("failure", [Busy("later"), FlushFailed("disk")])
async def test_a_frame_that_may_be_stored_never_moves(failure: Exception) -> None:
    """Refused after its answer was lost, or not made durable: only the same bytes can tell."""
    async with FakeServer() as server:
        server.add_topic("t", queues=4)
        lost: list[Action] = [] if isinstance(failure, FlushFailed) else [Action.LOSE_ANSWER]
        server.script += [*lost, failure]  # type: ignore[list-item]
        async with Client(server.address) as client, client.producer() as producer:
            await producer.send("t", b"x")
        assert len(server.writes) == len(lost) + 2
        assert len({written.sealed for written in server.writes}) == 1
        assert len(server.frames) == 1


async def test_a_forgotten_attempt_is_unknown() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        server.script += [Action.LOSE_ANSWER, SequenceExpired("too old")]
        async with Client(server.address) as client, client.producer() as producer:
            with pytest.raises(OutcomeUnknown, match="forgotten"):
                await producer.send("t", b"x")


async def test_the_callers_fault_fails_at_once() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        server.script += [FrameInvalid("bad")]
        async with Client(server.address) as client, client.producer() as producer:
            with pytest.raises(FrameInvalid, match="bad"):
                await producer.send("t", b"x")
            with pytest.raises(BodyTooLarge, match="4194304"):
                await producer.send("t", bytes(4 * 1024 * 1024 + 1))
            with pytest.raises(BodyTooLarge):
                await producer.send_many("t", [b"", bytes(4 * 1024 * 1024 + 1)])
            with pytest.raises(BadRequest, match="bytes or str"):
                await producer.send("t", 5)  # type: ignore[arg-type]
            with pytest.raises(TopicTypeMismatch, match="needs a topic of type fifo"):
                await producer.send("t", b"x", message_group="g")
            await producer.send("t", b"fine")
        assert len(server.writes) == 2


async def test_no_answer_until_the_deadline_is_unknown() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        server.script += [Action.HOLD]
        async with Client(server.address) as client, client.producer(deadline_s=1.0) as producer:
            with pytest.raises(OutcomeUnknown):
                await producer.send("t", b"x")
            assert (await producer.send("t", b"y")).offset == 1


async def test_a_broker_that_is_away_until_the_deadline() -> None:
    """Never written: DeadlineExceeded, which says why."""
    async with FakeServer() as server, FakeServer("b") as other:
        server.brokers["b"] = other
        server.add_topic("t", placement={"b": 2})
        await other.stop()
        async with Client(server.address) as client, client.producer(deadline_s=0.2) as producer:
            with pytest.raises(DeadlineExceeded, match="not sent"):
                await producer.send("t", b"x")


async def test_another_broker_takes_over() -> None:
    async with FakeServer() as server, FakeServer("b") as other:
        server.brokers["b"] = other
        server.add_topic("t", placement={"a": 2, "b": 2})
        other.topics = server.topics
        await other.stop()
        async with Client(server.address) as client, client.producer() as producer:
            receipts = [await producer.send("t", b"x") for _ in range(8)]
        assert {receipt.broker for receipt in receipts} == {"a"}


async def test_the_window_is_kept() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=4)
        server.script += [Action.HOLD] * 200
        async with Client(server.address) as client, client.producer(batch_bytes=10) as producer:
            sending = asyncio.create_task(producer.send_many("t", [bytes(10)] * 100))
            await server.until(lambda: len(server.writes) >= PRODUCER_WINDOW)
            assert [w.header.sequence for w in server.writes] == list(range(1, PRODUCER_WINDOW + 1))
            held, server.held = server.held, server.held[:1]
            for answer in held[1:]:
                answer()  # all but the lowest: the window must not move
            lane = producer._dispatcher.lanes["a"]
            while len(lane.unresolved) > 1:
                await asyncio.sleep(0)
            await client._cluster.forget("t")  # a round trip later
            assert len(server.writes) == PRODUCER_WINDOW
            while not sending.done():
                server.release()
                await server.until(lambda: bool(server.held) or sending.done() or len(server.frames) == 100)
                await asyncio.sleep(0)
            assert len(await sending) == 100
        assert len(server.frames) == 100


async def test_receipts_are_in_the_order_given() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=3)
        async with Client(server.address) as client, client.producer(batch_bytes=100) as producer:
            bodies = [b"%d" % i * (i % 9) for i in range(300)]
            receipts = await producer.send_many("t", bodies)
            mixed: list[bytes | str | Message] = [b"a", "b", Message(b"c", tag="t"), Message(b"d", key="k")]
            more = await producer.send_many("t", mixed)
            assert len(await producer.send_many("t", [])) == 0
        stored = {(f.header.queue_id, f.offset + i): body for f in server.frames for i, body in enumerate(f.bodies)}
        assert [stored[r.queue, r.offset] for r in receipts] == bodies
        assert [stored[r.queue, r.offset] for r in more] == [b"a", b"b", b"c", b"d"]
        assert len({r.id for r in receipts}) == 300
        assert receipts[-1] == receipts[299] == list(receipts)[-1]
        assert receipts[1:3] == [receipts[1], receipts[2]]
        with pytest.raises(IndexError):
            receipts[300]
        assert {len(f.sealed) < 1_000 for f in server.frames} == {True}


async def test_post_and_flush_collect_failures() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        server.script += [FrameInvalid("bad"), Action.HOLD]
        async with Client(server.address) as client, client.producer(deadline_s=1.0) as producer:
            await producer.post("t", b"x")
            with pytest.raises(SendFailed, match="1 messages to t failed") as caught:
                await producer.flush()
            assert not caught.value.unknown
            await producer.post("t", b"y")
            with pytest.raises(SendFailed) as caught:
                await producer.flush()
            assert caught.value.unknown
            await producer.post("t", b"z")
            await producer.flush()
            await producer.flush()
        with pytest.raises(NotConnected, match="closed"):
            await producer.send("t", b"x")


async def test_flush_waits_for_what_was_posted_before_it_only() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        server.script += [Action.STORE, Action.HOLD]
        async with Client(server.address) as client, client.producer() as producer:
            await producer.post("t", b"1")
            flushed = asyncio.create_task(producer.flush())
            await asyncio.sleep(0)
            later = asyncio.create_task(producer.send("t", b"2"))
            async with asyncio.timeout(5):
                await flushed
            assert not later.done()
            await server.until(lambda: bool(server.held))
            server.release()
            await later


async def test_senders_wait_for_room() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        server.script += [Action.HOLD]
        async with Client(server.address) as client, client.producer(buffer_bytes=1_000) as producer:
            await producer.post("t", bytes(1_000))
            posts = [asyncio.create_task(producer.post("t", bytes(900))) for _ in range(5)]
            await server.until(lambda: bool(server.held))
            assert not any(post.done() for post in posts)
            posts[0].cancel()
            server.release()
            async with asyncio.timeout(5):
                await asyncio.gather(*posts, return_exceptions=True)
            await producer.flush()
        assert sum(len(f.bodies) for f in server.frames) == 5


async def test_many_senders_share_frames() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=2)
        async with Client(server.address) as client, client.producer() as producer:
            receipts = await asyncio.gather(*(producer.send("t", b"%d" % i) for i in range(500)))
        assert len({r.id for r in receipts}) == 500
        assert len(server.frames) < 20


async def test_fifo_one_frame_at_a_time_on_the_queue_of_its_group() -> None:
    async with FakeServer() as server:
        server.add_topic("f", queues=4, type="fifo")
        server.script += [Action.HOLD]
        async with Client(server.address) as client, client.producer(batch_bytes=30) as producer:
            with pytest.raises(TopicTypeMismatch, match="needs a message_group"):
                await producer.send("f", b"x")
            with pytest.raises(TopicTypeMismatch, match="needs a message_group"):
                await producer.send_many("f", [b"x"])
            for i in range(50):
                await producer.post("f", b"%d" % i, message_group="g")
            await server.until(lambda: bool(server.held))
            assert len(server.writes) == 1
            server.script += [Action.LOSE_ANSWER, Busy("later", retry_after_ms=1), Action.STORE, Action.LOSE_REQUEST]
            server.release()
            await producer.flush()
        assert {f.header.queue_id for f in server.frames} == {message_group_index("g", 4)}
        assert [body for f in server.frames for body in f.bodies] == [b"%d" % i for i in range(50)]


async def test_a_missing_topic() -> None:
    async with FakeServer() as server:
        async with Client(server.address) as client, client.producer() as producer:
            with pytest.raises(TopicNotFound, match="create it with 'kourou topic create t'"):
                await producer.send("t", b"x")
            server.auto_create = True
            await asyncio.gather(*(producer.send("t", b"x") for _ in range(50)))
        (created,) = server.asked(Code.TOPIC_CREATE)
        assert (created["auto"], created["placement"]) == (True, [["a", 8]])


async def test_a_deleted_topic_fails_what_waits() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.producer() as producer:
            await producer.send("t", b"x")
            del server.topics["t"]
            with pytest.raises(TopicNotFound, match="deleted"):
                await producer.send("t", b"x")


async def test_a_nameserver_that_knows_nothing_is_not_believed() -> None:
    """Restarted, it has not heard of the brokers: the last route stays."""
    async with FakeServer() as server, FakeServer("b") as broker:
        server.brokers = {"b": broker}
        server.add_topic("t", placement={"b": 1})
        broker.topics = dict(server.topics)
        async with Client(server.address) as client, client.producer() as producer:
            await producer.send("t", b"x")
            server.topics, server.brokers = {}, {}
            await server.cut()
            await server.until(lambda: len(server.asked(Code.HELLO)) == 2)
            await producer.send("t", b"x")
            await server.stop()
            await producer.send("t", b"x")
        assert len(broker.frames) == 3


async def test_a_new_master_takes_over_what_is_unknown() -> None:
    async with FakeServer() as server, FakeServer("b") as old, FakeServer("b") as new:
        server.brokers = {"b": old}
        server.add_topic("t", placement={"b": 1})
        old.topics = new.topics = server.topics
        old.script += [Action.HOLD]
        async with Client(server.address) as client, client.producer() as producer:
            sending = asyncio.create_task(producer.send("t", b"x"))
            await old.until(lambda: bool(old.held))
            server.brokers = {"b": new}
            server.push_routes()
            await new.until(lambda: len(new.asked(Code.HELLO)) == 1)
            await old.stop()
            receipt = await sending
        assert receipt.broker == "b"
        assert [w.sealed for w in new.writes] == [w.sealed for w in old.writes]


async def test_a_former_master_that_never_answers_is_not_waited_for() -> None:
    """Frozen or cut off, it does not close its connections. What it answers late counts only if that is "stored"."""
    async with FakeServer() as server, FakeServer("b") as old, FakeServer("b") as new:
        server.brokers = {"b": old}
        server.add_topic("t", placement={"b": 1})
        old.topics = new.topics = server.topics
        old.script += [Action.HOLD] * PRODUCER_WINDOW
        new.script += [Action.HOLD]
        async with Client(server.address) as client, client.producer(linger_ms=0, batch_bytes=1) as producer:
            sending = [asyncio.create_task(producer.send("t", b"%d" % n)) for n in range(PRODUCER_WINDOW + 1)]
            await old.until(lambda: len(old.held) == PRODUCER_WINDOW)
            server.brokers = {"b": new}
            server.push_routes()
            await asyncio.gather(*sending[1:PRODUCER_WINDOW])  # the first is held by both, the last waits for a slot
            old.release()
            await asyncio.gather(*sending)
            new.release()  # and the other answer of the first is too late
            await producer.send("t", b"x")
        assert [w.sealed for w in new.writes[:PRODUCER_WINDOW]] == [w.sealed for w in old.writes]
        assert len(new.frames) == PRODUCER_WINDOW + 2


async def test_the_end_of_the_connection_to_a_former_master_means_nothing() -> None:
    async with FakeServer() as server, FakeServer("b") as old, FakeServer("b") as new:
        server.brokers = {"b": old}
        server.add_topic("t", placement={"b": 1})
        old.topics = new.topics = server.topics
        old.script += [Action.HOLD]
        new.script += [Action.HOLD]
        async with Client(server.address) as client, client.producer() as producer:
            sending = asyncio.create_task(producer.send("t", b"x"))
            await old.until(lambda: bool(old.held))
            server.brokers = {"b": new}
            server.push_routes()
            await new.until(lambda: bool(new.held))
            await old.stop()  # its connection ends: the outcome there is unknown
            new.release()
            receipt = await sending
        assert receipt.broker == "b"
        assert len(new.writes) == 1


async def test_a_former_master_that_takes_connections_and_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when it is cut off after its connections ended: the attempt to reach it is given up when the route moves."""
    dialled, hung_up = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.set()
        try:
            while await reader.read(1024):
                pass
        except ConnectionError:
            pass
        hung_up.set()
        writer.close()

    monkeypatch.setattr(cluster, "connect", partial(connect, timeout_s=3600.0))
    async with FakeServer() as server, FakeServer("b") as old, FakeServer("b") as new:
        server.brokers = {"b": old}
        server.add_topic("t", placement={"b": 1})
        old.topics = new.topics = server.topics
        async with Client(server.address) as client, client.producer(deadline_s=20) as producer:
            await producer.send("t", b"0")
            port = int(old.address.rpartition(":")[2])
            await old.stop()
            mute = await asyncio.start_server(silent, "127.0.0.1", port)
            sending = asyncio.create_task(producer.send("t", b"1"))
            async with asyncio.timeout(30):
                await dialled.wait()
                server.brokers = {"b": new}
                server.push_routes()
                receipt = await sending
                await hung_up.wait()
            mute.close()
            await mute.wait_closed()
        assert receipt.broker == "b"
        assert len(new.writes) == 1


@pytest.mark.parametrize("options", [{"linger_ms": -1}, {"batch_bytes": 0}, {"deadline_s": 0}, {"buffer_bytes": 0}])
async def test_options_out_of_range(options: dict[str, int]) -> None:
    async with FakeServer() as server, Client(server.address) as client:
        with pytest.raises(BadRequest):
            client.producer(**options)  # type: ignore[arg-type]
