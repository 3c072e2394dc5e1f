"""The consumer against a scripted server: what is handed out, when it counts as finished, what is dropped."""

from __future__ import annotations

import asyncio
import zlib
from array import array
from typing import Any

import pytest

from kourou.client import Client, Consumer, ReceivedMessage
from kourou.core import frame
from kourou.core.errors import BadRequest, GroupShapeMismatch, NotConnected, QueueNotFound
from kourou.core.frame import Column, Compression
from kourou.core.records import Field, encode_text
from kourou.core.wire import Code
from tests.unit.client.fake_server import STORE_MS, FakeServer, logged, plain


async def take(consumer: Consumer, count: int) -> list[ReceivedMessage]:
    """The next messages; the last one stays unfinished."""
    found: list[ReceivedMessage] = []
    async with asyncio.timeout(20):
        async for message in consumer:
            found.append(message)
            if len(found) == count:
                break
    return found


async def test_subscribes_as_told_and_reads() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=2)
        async with (
            Client(server.address) as client,
            client.consumer("t", group="g", start={"time": 5}, tags="x", prefetch_bytes=4096) as consumer,
        ):
            to = await server.subscribed()
            server.assign(to, 0, 1)
            server.deliver(to, 1, b"", 4)  # the filter left all of it out
            await server.until(lambda: len(server.asked(Code.ROUTE)) > 0)
            while consumer.assignment != [("a", 0), ("a", 1)]:
                await asyncio.sleep(0)
        request = to.request
        assert (request["group"], request["topic"], request["mode"], request["start"]) == ("g", "t", "stream", {"time": 5})
        assert (request["tags"], request["credit"]) == (["x"], 4096)
        assert request["member"].startswith(client.id)
        assert to.commits == [(1, 4)]
        assert server.asked(Code.UNSUBSCRIBE) == [{"subscription": 1}]


async def test_finished_is_what_the_loop_has_gone_past() -> None:
    """Leaving without an exception finishes the last one; with one it does not."""
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client:
            async with client.consumer("t", group="g") as consumer:
                server.assign(to := await server.subscribed(), 0)
                server.deliver(to, 0, plain(b"0", b"1", b"2", b"3"), 4)
                assert [m.body for m in await take(consumer, 3)] == [b"0", b"1", b"2"]
            assert to.commits == [(0, 3)]
            with pytest.raises(ZeroDivisionError):
                async with client.consumer("t", group="g") as consumer:
                    server.assign(to := await server.subscribed(2), 0, offset=1)
                    server.deliver(to, 0, plain(b"0", b"1", b"2", b"3"), 4)
                    assert [m.body for m in await take(consumer, 2)] == [b"1", b"2"]
                    raise ZeroDivisionError
            assert to.commits[-1] == (0, 2)


async def test_a_new_loop_begins_with_what_was_not_finished() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, plain(b"0", b"1", b"2", b"3"), 4)
            assert [m.offset for m in await take(consumer, 2)] == [0, 1]
            again = await take(consumer, 2)
            assert [m.offset for m in again] == [1, 2]
            consumer.done(again[1])
            (last,) = await take(consumer, 1)
            assert last.offset == 3
            async for batch in consumer.batches():
                assert batch.bodies() == [b"3"]
                batch.done()
                break
            server.deliver(to, 0, plain(b"4", queue_offset=4), 5)
            assert [m.body for m in await take(consumer, 1)] == [b"4"]
        assert to.commits[-1] == (0, 5)


async def test_batches_and_manual_commit() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client:
            async with client.consumer("t", group="g", auto_commit=False) as consumer:
                server.assign(to := await server.subscribed(), 0)
                server.deliver(to, 0, plain(b"0", b"1") + plain(b"2", b"33", queue_offset=2), 4)
                server.deliver(to, 0, plain(b"4", queue_offset=4), 5)
                async for batch in consumer.batches():
                    if batch.next_offset == 4:
                        assert batch.bodies() == [b"0", b"1", b"2", b"33"] == [m.body for m in batch.messages()]
                        assert (len(batch), batch.topic, batch.broker, batch.queue) == (4, "t", "a", 0)
                        await batch.commit()
                        assert to.commits == [(0, 4)]
                    else:
                        await consumer.commit()
                        break
                assert to.commits == [(0, 4), (0, 5)]
                server.deliver(to, 0, plain(b"5", queue_offset=5), 6)
                await take(consumer, 1)
            assert to.commits == [(0, 4), (0, 5)]  # never marked, never committed


async def test_stale_sessions_and_generations_are_dropped() -> None:
    """And their bytes are given back as credit."""
    async with FakeServer() as server:
        server.add_topic("t")
        async with (
            Client(server.address) as client,
            client.consumer("t", group="g", prefetch_bytes=1024) as consumer,
        ):
            server.assign(to := await server.subscribed(), 0, session=2, n=3)
            stale = plain(bytes(600))
            server.deliver(to, 0, stale, 1, session=1, n=3)
            server.deliver(to, 0, stale, 1, session=2, n=2)
            server.deliver(to, 1, stale, 1)
            server.deliver(to, 0, plain(b"fresh"), 1, session=2, n=3)
            assert [m.body for m in await take(consumer, 1)] == [b"fresh"]
            await server.until(lambda: to.credit > 0)


async def test_seek_drops_what_waits_and_ends_the_current_batch() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, plain(b"0", b"1", b"2"), 3)
            server.deliver(to, 0, plain(b"3", queue_offset=3), 4)
            seen: list[int] = []
            async for message in consumer:
                seen.append(message.offset)
                if message.offset == 1 and len(seen) == 2:
                    await consumer.seek(0, 0)
                    server.deliver(to, 0, plain(b"3", queue_offset=3), 4)  # of the old session
                    server.deliver(to, 0, plain(b"0", b"1", b"2"), 3, session=99)
                if len(seen) == 5:
                    break
            assert seen == [0, 1, 0, 1, 2]
            with pytest.raises(QueueNotFound):
                await consumer.seek(7, 0)
        assert to.commits[-1] == (0, 3)


async def test_revoked_queues_are_committed_and_let_go() -> None:
    """At once where nobody works on them, else when the loop's body has ended; several in one request."""
    async with FakeServer() as server:
        server.add_topic("t", queues=3)
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0, 1, 2)
            server.deliver(to, 0, plain(b"0", b"1", b"2"), 3)
            server.deliver(to, 1, plain(b"x", queue=1), 1)
            async for message in consumer:
                if message.offset == 1:
                    released = server.revoke(to, 0, 1)
                    while consumer.assignment != [("a", 0), ("a", 2)]:
                        await asyncio.sleep(0)
                    assert not released.done()
                    server.deliver(to, 2, plain(b"y", queue=2), 1)
                if message.queue == 2:
                    break
            async with asyncio.timeout(10):
                assert not (await released).is_error
            assert consumer.assignment == [("a", 2)]
            assert to.commits[-1] == (0, 2)


async def test_taken_away_and_ended_by_the_broker() -> None:
    async with FakeServer() as server:
        server.add_topic("t", queues=2)
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0, 1)
            taken = [{"queue": 0, "epoch": 1, "n": 1}]
            to.peer.push_json(Code.REVOKE, {"subscription": 1, "queues": taken, "deadline_ms": 0})
            server.deliver(to, 0, plain(b"stale"), 1)
            to.peer.push_json(Code.REVOKE, {"subscription": 1, "queues": [], "deadline_ms": 0})
            server.assign(to := await server.subscribed(2), 1)
            server.deliver(to, 1, plain(b"fresh", queue=1), 1)
            assert [m.body for m in await take(consumer, 1)] == [b"fresh"]
            assert len(server.peers) == 2  # its connections were kept


async def test_a_broken_connection_is_made_again() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, plain(b"0"), 1)
            await take(consumer, 1)
            await server.cut()
            server.assign(to := await server.subscribed(2), 0)
            server.deliver(to, 0, plain(b"0", b"1"), 2)
            assert [m.body for m in await take(consumer, 2)] == [b"0", b"1"]
            assert to.request == server.subscriptions[0].request


async def test_a_former_master_that_does_not_end_its_connections_is_left() -> None:
    """Frozen or cut off, it ends none."""
    async with FakeServer() as server, FakeServer("b") as old, FakeServer("b") as new:
        server.brokers = {"b": old}
        server.add_topic("t", placement={"b": 1})
        old.topics = new.topics = server.topics
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            old.assign(await old.subscribed(), 0)
            server.brokers = {"b": new}
            server.push_routes()
            new.assign(to := await new.subscribed(), 0)
            new.deliver(to, 0, plain(b"0"), 1)
            assert [m.body for m in await take(consumer, 1)] == [b"0"]


async def test_brokers_that_appear_later() -> None:
    async with FakeServer() as server, FakeServer("b") as other:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g"):
            await server.subscribed()
            server.brokers["b"] = other
            server.add_topic("t", placement={"a": 1, "b": 1})
            await other.subscribed()


async def test_refusals_reach_the_caller() -> None:
    async with FakeServer() as server:
        server.add_topic("t")

        def refuse(peer: object, message: object) -> None:
            raise GroupShapeMismatch("group g is shared")

        server.on_subscribe = refuse  # type: ignore[method-assign]
        async with Client(server.address) as client:
            with pytest.raises(GroupShapeMismatch):
                async with client.consumer("t", group="g"):
                    pass
            wrong: list[dict[str, Any]] = [{"mode": "x"}, {"start": "x"}, {"prefetch_bytes": 1}, {"tags": []}]
            for options in wrong:
                with pytest.raises(BadRequest):
                    client.consumer("t", group="g", **options)


async def test_a_closed_consumer_ends_the_loop() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            waiting = asyncio.create_task(take(consumer, 1))
            await server.subscribed()
            await consumer.close()
            async with asyncio.timeout(10):
                assert await waiting == []
            with pytest.raises(NotConnected, match="closed"):
                await consumer.receive(timeout_s=1)


async def test_tags_are_compared_exactly_and_fields_decoded() -> None:
    """A frame of three records: the tag wanted, another tag with the same hash, none."""
    blocks = [encode_text(Field.TAG, ["x"]) + encode_text(Field.KEY, ["k", "l"]), encode_text(Field.TAG, ["other"]), b""]
    sealed = frame.seal(
        topic="t",
        queue_id=0,
        records=[block + b"body%d" % i for i, block in enumerate(blocks)],
        born_ms=STORE_MS,
        producer_id=0xAB,
        sequence=9,
        columns={
            Column.TAG_HASHES: array("I", [frame.tag_hash("x"), frame.tag_hash("x"), 0]),
            Column.PROPERTY_SIZES: array("I", map(len, blocks)),
            Column.BORN_DELTAS: array("I", [3, 4, 5]),
        },
    )
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g", tags={"x"}) as consumer:
            server.assign(to := await server.subscribed(), 0, offset=5)
            server.deliver(to, 0, logged(sealed, queue_offset=5), 8)
            (message,) = await take(consumer, 1)
            assert (message.body, message.tag, message.key, message.keys) == (b"body0", "x", "k", ("k", "l"))
            assert (message.offset, message.store_ms, message.born_ms) == (5, STORE_MS, STORE_MS + 3)
            assert message.id == "00000000000000AB0000000000090000"
            assert (message.properties, message.message_group, message.topic) == ({}, None, "t")
            assert "offset=5" in repr(message)


async def test_compressed_frames() -> None:
    bodies = [b"a" * 50, b"b" * 60]
    sealed = frame.seal(
        topic="t",
        queue_id=0,
        records=bodies,
        born_ms=1,
        compression=Compression.ZLIB,
        stored=zlib.compress(b"".join(bodies)),
    )
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, logged(sealed, queue_offset=0), 2)
            async for batch in consumer.batches():
                assert batch.bodies() == bodies
                break


async def test_two_loops_on_one_consumer_are_refused() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0)
            server.deliver(to, 0, plain(b"0", b"1"), 2)
            server.deliver(to, 0, plain(b"2", b"3", queue_offset=2), 4)
            one, two = aiter(consumer), aiter(consumer.batches())
            assert (await anext(one)).body == b"0"
            await anext(two)
            await anext(two)
            with pytest.raises(BadRequest, match="two loops"):
                await anext(one)


async def test_what_was_handed_out_before_a_reset_is_not_marked_after_it() -> None:
    """The broker takes the queue away and assigns it in a new generation; marking the old message must not move that."""
    async with FakeServer() as server:
        server.add_topic("t")
        async with (
            Client(server.address) as client,
            client.consumer("t", group="g", auto_commit=False) as consumer,
        ):
            server.assign(to := await server.subscribed(), 0, offset=5)
            server.deliver(to, 0, plain(b"5", b"6", queue_offset=5), 7)
            old, newer = await take(consumer, 2)
            server.end(to, 0)
            server.assign(to, 0, session=2, n=2, offset=1)
            server.deliver(to, 0, plain(b"1", b"2", queue_offset=1), 3, session=2, n=2)
            while consumer._position("a", 0) in (None, old.position):
                await asyncio.sleep(0)
            consumer.done(old)
            again = await take(consumer, 1)
            assert [m.offset for m in again] == [1]
            consumer.done(newer)
            consumer.done(old)
            await consumer.commit()
            assert to.commits == [(0, 2)]  # what the loop was handed since
            consumer.done(again[0])
            await consumer.commit()
            assert to.commits == [(0, 2)]


async def test_a_queue_whose_commit_is_fenced_is_dropped() -> None:
    """What waits of it is not handed out; when it is assigned anew, reading goes on from there."""
    async with FakeServer() as server:
        server.add_topic("t", queues=2)
        server.fenced = {0}
        async with (
            Client(server.address) as client,
            client.consumer("t", group="g", auto_commit=False) as consumer,
        ):
            server.assign(to := await server.subscribed(), 0, 1)
            server.deliver(to, 0, plain(b"0"), 1)
            server.deliver(to, 0, plain(b"1", queue_offset=1), 2)
            consumer.done((await take(consumer, 1))[0])
            await consumer.commit()
            assert consumer.assignment == [("a", 1)]
            server.deliver(to, 1, plain(b"of 1", queue=1), 1)
            assert [m.body for m in await take(consumer, 1)] == [b"of 1"]
            server.assign(to, 0, session=2, n=2, offset=0)
            server.deliver(to, 0, plain(b"0"), 1, session=2, n=2)
            assert [(m.body, m.offset) for m in await take(consumer, 2)][-1] == (b"0", 0)
            assert consumer.assignment == [("a", 0), ("a", 1)]


async def test_only_the_queue_that_is_let_go_is_committed() -> None:
    """Of the others that is the committer's business: with very many queues it would be looked at again and again."""
    async with FakeServer() as server:
        server.add_topic("t", queues=2)
        async with Client(server.address) as client, client.consumer("t", group="g") as consumer:
            server.assign(to := await server.subscribed(), 0, 1)
            server.deliver(to, 0, plain(b"0"), 1)
            server.deliver(to, 1, plain(b"1", queue=1), 1)
            for batch in (await consumer.receive(timeout_s=10), await consumer.receive(timeout_s=10)):
                assert batch is not None
                batch.done()
            await server.revoke(to, 1)
            assert to.commits == [(1, 1)]
            assert consumer.assignment == [("a", 0)]
        assert to.commits == [(1, 1), (0, 1)]
