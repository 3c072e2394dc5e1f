"""Members of shared groups against a scripted broker: what is asked again, together, given back, and what an error ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kourou.client import Client, SharedConsumer, SharedMessage
from kourou.core.errors import Busy, GroupShapeMismatch, IllegalFilter, InvalidReceiptHandle, KourouError, NotConnected
from kourou.core.settling import BY_POLICY, KEEP, UNCOUNTED
from tests.unit.client.fake_shared import LOSE_ANSWER, FakeShared


@asynccontextmanager
async def opened(server: FakeShared, *, type: str = "normal", **options: object) -> AsyncIterator[SharedConsumer]:
    server.add_topic("t", type=type)
    client = Client(server.address)
    async with client, client.shared_consumer("t", group="g", **options) as consumer:  # type: ignore[arg-type]
        yield consumer


async def test_a_receive_whose_answer_was_lost_is_the_same_attempt_again() -> None:
    async with FakeShared() as server, opened(server) as consumer:
        taking = asyncio.create_task(consumer.take())
        first = await server.receiving()
        first.peer.transport.abort()
        await server.until(lambda: len(server.receives) == 2)
        again = server.receives[1]
        assert again.asked == first.asked
        assert first.asked.attempt
        server.answer_with(again, server.delivery(b"found"))
        message = await taking
        assert message is not None
        assert message.body == b"found"
        other = await server.receiving()
        assert other.asked.attempt != first.asked.attempt


async def test_a_receive_does_not_wait_for_a_broker_that_is_away() -> None:
    """What one broker has is handed out, and nobody goes on dialling the other for it."""
    async with FakeShared("a") as server, FakeShared("b") as other, Client(server.address) as client:
        server.brokers["b"] = other
        server.add_topic("t", placement={"a": 1, "b": 1})
        async with client.shared_consumer("t", group="g") as consumer:
            await other.stop()
            receiving = asyncio.create_task(consumer.receive(2, wait_s=600))
            server.answer_with(await server.receiving(), server.delivery(b"found"))
            assert [message.body for message in await receiving] == [b"found"]
            assert not [task for task in asyncio.all_tasks() if "Poller.once" in str(task.get_coro())]


async def test_where_one_broker_is_away_and_the_other_has_nothing_there_is_nothing() -> None:
    async with FakeShared("a") as server, FakeShared("b") as other, Client(server.address) as client:
        server.brokers["b"] = other
        server.add_topic("t", placement={"a": 1, "b": 1})
        async with client.shared_consumer("t", group="g") as consumer:
            await other.stop()
            receiving = asyncio.create_task(consumer.receive(2, wait_s=0.05))
            server.answer_with(await server.receiving())
            assert await receiving == []
            await server.stop()
            with pytest.raises(NotConnected):
                await consumer.receive(2, wait_s=0.05)


async def test_messages_finished_in_one_turn_share_a_request() -> None:
    async with FakeShared() as server, opened(server) as consumer:
        receiving = asyncio.create_task(consumer.receive(3))
        server.answer_with(await server.receiving(), *(server.delivery() for _ in range(3)))
        found = await receiving
        await asyncio.gather(*(message.ack() for message in found))
        assert [sorted(handles) for handles in server.acks] == [["handle-1", "handle-2", "handle-3"]]


async def test_a_lost_acknowledgement_is_sent_again() -> None:
    async with FakeShared() as server, opened(server) as consumer:
        receiving = asyncio.create_task(consumer.receive(1))
        server.answer_with(await server.receiving(), server.delivery())
        (message,) = await receiving
        server.results += [LOSE_ANSWER, lambda handle: Busy("later", retry_after_ms=1)]
        await message.ack()
        assert server.acks == [["handle-1"]] * 3


async def test_a_change_that_took_effect_unheard_is_done() -> None:
    """The answer was lost; the second time the handle is out of date, because of the first."""
    async with FakeShared() as server, opened(server) as consumer:
        receiving = asyncio.create_task(consumer.receive(2))
        server.answer_with(await server.receiving(), server.delivery(), server.delivery())
        one, two = await receiving
        server.results += [LOSE_ANSWER, lambda handle: InvalidReceiptHandle("out of date")]
        await one.nack()
        server.results.append(lambda handle: InvalidReceiptHandle("out of date"))
        with pytest.raises(InvalidReceiptHandle):
            await two.nack(3)
        assert server.changes == [[("handle-1", BY_POLICY, 0)]] * 2 + [[("handle-2", 3_000, 0)]]


async def test_the_last_attempt_is_buried_with_the_reason() -> None:
    async with FakeShared() as server, opened(server) as consumer:
        server.max_attempts = 3
        receiving = asyncio.create_task(consumer.receive(2))
        server.answer_with(await server.receiving(), server.delivery(attempt=3), server.delivery(attempt=3))
        one, two = await receiving
        await one.nack(reason="why")
        await two.nack(5)  # somebody wants it to come again: the broker will say that it is enough
        assert server.buried == [("handle-1", "why")]
        assert server.changes == [[("handle-2", 5_000, 0)]]


async def test_no_more_is_asked_for_than_may_wait() -> None:
    async with FakeShared() as server, opened(server, prefetch=4) as consumer:
        taking = asyncio.create_task(consumer.take())
        first = await server.receiving()
        assert first.asked.limit == 4
        server.answer_with(first, *(server.delivery(b"%d" % i) for i in range(4)))
        assert await taking is not None  # three wait
        assert await consumer.take() is not None  # two wait: half of it, so there is room
        assert (await server.receiving()).asked.limit == 2


async def test_leaving_gives_back_what_was_not_begun_and_ends_the_poll() -> None:
    async with FakeShared() as server:
        async with opened(server) as consumer:
            taking = asyncio.create_task(consumer.take())
            server.answer_with(await server.receiving(), *(server.delivery() for _ in range(3)))
            message = await taking
            assert message is not None
            await server.receiving()
        assert server.cancelled == 1
        assert [sorted(changes) for changes in server.changes] == [
            [("handle-2", 0, UNCOUNTED), ("handle-3", 0, UNCOUNTED)],
        ]
        assert server.acks == []


async def test_what_comes_while_it_is_left_is_given_back() -> None:
    async with FakeShared() as server, opened(server) as consumer:
        taking = asyncio.create_task(consumer.take())
        parked = await server.receiving()
        parked.ended = True  # the cancellation comes too late
        closing = asyncio.create_task(consumer.close())
        assert await taking is None
        server.answer_with(parked, server.delivery())
        await closing
        assert server.changes == [[("handle-1", 0, UNCOUNTED)]]


async def test_a_failure_takes_along_what_waits_behind_it() -> None:
    """Of the failed message's group only; and in one request, the failed one first."""
    async with FakeShared() as server, opened(server, type="fifo") as consumer:
        taking = asyncio.create_task(consumer.take())
        given = [server.delivery(group=group) for group in ("a", "a", "b", "a")]
        server.answer_with(await server.receiving(), *given)
        message = await taking
        assert message is not None
        await message.nack()
        assert server.changes == [[("handle-1", BY_POLICY, 0), ("handle-2", 0, UNCOUNTED), ("handle-4", 0, UNCOUNTED)]]
        other = await consumer.take()
        assert other is not None
        assert other.message_group == "b"


async def test_the_next_of_a_group_waits_for_the_acknowledgement() -> None:
    async with FakeShared() as server, opened(server, type="fifo") as consumer:
        taking = asyncio.create_task(consumer.take())
        server.answer_with(await server.receiving(), *(server.delivery(group="a") for _ in range(2)))
        first = await taking
        assert first is not None
        assert consumer.try_take() is None
        await first.ack()
        second = await consumer.take()
        assert second is not None
        assert second.offset == 2


async def test_an_acknowledgement_that_is_refused_takes_along_what_waits_behind() -> None:
    async with FakeShared() as server, opened(server, type="fifo") as consumer:
        taking = asyncio.create_task(consumer.take())
        server.answer_with(await server.receiving(), *(server.delivery(group="a") for _ in range(2)))
        first = await taking
        assert first is not None
        server.results.append(lambda handle: InvalidReceiptHandle("too late"))
        with pytest.raises(InvalidReceiptHandle):
            await first.ack()
        await server.until(lambda: server.changes == [[("handle-2", 0, UNCOUNTED)]])
        assert first.lost
        assert consumer.try_take() is None


async def taken(server: FakeShared, consumer: SharedConsumer) -> SharedMessage:
    """A message to work on."""
    taking = asyncio.create_task(consumer.take())
    server.answer_with(await server.receiving(), server.delivery())
    message = await taking
    assert message is not None
    return message


async def test_leases_are_renewed_while_somebody_works() -> None:
    async with FakeShared() as server, opened(server, invisible_s=1) as consumer:
        message = await taken(server, consumer)
        await server.until(lambda: len(server.changes) >= 2)
        assert set(map(tuple, server.changes)) == {(("handle-1", 1_000, KEEP),)}
        assert not message.lost


async def test_a_lease_that_was_lost_is_noticed() -> None:
    async with FakeShared() as server, opened(server, invisible_s=1) as consumer:
        message = await taken(server, consumer)
        server.results.append(lambda handle: InvalidReceiptHandle("it was delivered again"))
        await server.until(lambda: bool(server.changes))
        async with asyncio.timeout(20):
            while not message.lost:
                await asyncio.sleep(0)
        with pytest.raises(InvalidReceiptHandle):
            await message.ack()
        assert server.acks == []


@pytest.mark.parametrize("failure", [GroupShapeMismatch("stream"), IllegalFilter("column 3")])
async def test_what_can_not_be_mended_ends_the_loop(failure: KourouError) -> None:
    async with FakeShared() as server:
        server.refusal = failure
        with pytest.raises(type(failure)):
            async with opened(server):
                pass
        async with opened(server) as consumer:
            server.refusal = failure
            for _ in range(2):
                with pytest.raises(type(failure)):
                    await consumer.take()


async def test_what_passes_is_waited_for() -> None:
    async with FakeShared() as server, opened(server) as consumer:
        server.refusal = Busy("later", retry_after_ms=1)
        taking = asyncio.create_task(consumer.take())
        server.answer_with(await server.receiving(), server.delivery())
        assert await taking is not None
