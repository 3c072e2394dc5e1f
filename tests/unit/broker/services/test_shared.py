"""Receives of shared groups: what they get, when they wake, what they leave behind."""

from __future__ import annotations

import asyncio

import pytest

from kourou.broker.machines import ledger as ledger_module
from kourou.broker.services.shared import picking, service
from kourou.core.errors import DamagedLog, DiskFull, InvalidReceiptHandle, TooManyRequests
from kourou.core.route import TopicType
from tests.unit.broker.services.engine import Engine, bodies


async def test_received_acknowledged_gone() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one", "two", "three")
        found = await engine.receive()
        assert bodies(found) == ["one", "two", "three"]
        assert [delivery.attempt for delivery in found] == [1, 1, 1]
        assert await engine.bodies() == []
        assert await engine.ack(*found) == [None] * 3
        assert await engine.ack(*found) == [None] * 3  # again is no error
        await engine.advance(60_000)
        assert await engine.bodies() == []


async def test_half_messages_are_for_nobody() -> None:
    async with Engine() as engine:
        await engine.topic(TopicType.TRANSACTION)
        poll = engine.ask()
        await engine.send("half")
        await engine.turns()
        assert not poll.done
        poll.cancel()
        assert await engine.bodies() == []
        assert await engine.bodies(group="h") == []


async def test_a_parked_receive_wakes_for_new_messages() -> None:
    async with Engine() as engine:
        await engine.topic(queues=4)
        poll = engine.ask()
        await engine.turns()
        assert not poll.done
        await engine.send("now", queue=2)
        await engine.turns()
        assert poll.done
        assert bodies(await poll.got()) == ["now"]
        assert engine.shared.waiting == 0


async def test_a_receive_of_nothing_is_done_when_there_may_be_something() -> None:
    async with Engine() as engine:
        await engine.topic(queues=4)
        assert await engine.bodies() == []  # now it is known that there is nothing
        watch, poll = engine.ask(limit=0, client="w"), engine.ask(limit=1)
        await engine.turns()
        assert not watch.done
        await engine.send("one", queue=2)
        await engine.turns()
        assert await watch.got() == []
        assert bodies(await poll.got()) == ["one"]
        late = engine.ask(limit=0)
        await engine.turns()
        assert late.done  # nobody has looked since
        assert engine.shared.waiting == 0
        assert await engine.bodies() == []
        gone = engine.ask(limit=0)
        gone.cancel()
        assert engine.shared.waiting == 0


async def test_those_who_wait_longest_come_first_and_each_message_goes_to_one() -> None:
    async with Engine() as engine:
        await engine.topic()
        polls = [engine.ask(limit=1, client=f"c{number}") for number in range(3)]
        await engine.send("one", "two")
        await engine.turns()
        assert [poll.done for poll in polls] == [True, True, False]
        assert bodies(await polls[0].got() + await polls[1].got()) == ["one", "two"]
        polls[2].cancel()
        assert engine.shared.waiting == 0


async def test_a_parked_receive_wakes_when_a_lease_is_over() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("again")
        (first,) = await engine.receive(invisible_ms=10_000)
        poll = engine.ask()
        await engine.advance(9_999)
        assert not poll.done
        await engine.advance(1)
        assert poll.done
        (second,) = await poll.got()
        assert second.attempt == 2
        assert isinstance((await engine.ack(first))[0], InvalidReceiptHandle)
        assert await engine.ack(second) == [None]


async def test_an_expired_handle_is_refused_before_its_message_went_out_again() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("late")
        (found,) = await engine.receive(invisible_ms=1_000)
        await engine.advance(1_000)
        assert isinstance((await engine.ack(found))[0], InvalidReceiptHandle)
        with pytest.raises(InvalidReceiptHandle):
            await engine.put_off(found, 5_000)


async def test_put_off_gives_a_new_handle_and_the_old_one_is_stale() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("later")
        (found,) = await engine.receive()
        fresh = await engine.put_off(found, 5_000)
        with pytest.raises(InvalidReceiptHandle):
            await engine.put_off(found, 1_000)
        assert isinstance((await engine.ack(found))[0], InvalidReceiptHandle)
        poll = engine.ask()
        await engine.advance(4_999)
        assert not poll.done
        await engine.advance(1)
        (again,) = await poll.got()
        assert again.attempt == 2
        results = await engine.finish(engine.acking([fresh, again.handle]))
        assert isinstance(results[0], InvalidReceiptHandle)
        assert results[1] is None


async def test_put_off_by_nothing_is_redelivered_at_once() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("now")
        (found,) = await engine.receive()
        poll = engine.ask()
        await engine.put_off(found, 0)
        await engine.advance(0)
        assert [delivery.attempt for delivery in await poll.got()] == [2]


async def test_a_suspended_delivery_does_not_count_however_often_it_is_suspended() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("slow")
        (found,) = await engine.receive()
        await engine.put_off(found, 0)
        await engine.advance(0)
        (found,) = await engine.receive()
        assert found.attempt == 2
        for _ in range(3):
            found.handle = await engine.put_off(found, 1_000, uncounted=True)
        await engine.advance(1_000)
        (found,) = await engine.receive()
        assert found.attempt == 2


async def test_a_receive_that_waits_for_nothing_ends_by_itself() -> None:
    async with Engine() as engine:
        await engine.topic()
        assert bodies(await engine.ask(wait_ms=1).got()) == []
        assert engine.shared.waiting == 0


async def test_what_was_parked_and_served_is_not_held_until_its_time_is_over() -> None:
    """The timer that would have ended it is gone, and with it the messages that it got."""
    async with Engine() as engine:
        await engine.topic()
        poll = engine.ask(wait_ms=3_600_000)
        await engine.send("big")
        await poll.got()
        poll2 = engine.ask(wait_ms=3_600_000)
        poll2.cancel()
        loop = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if timer._when > loop.time() + 1_000 and not timer.cancelled()] == []  # type: ignore[attr-defined]


async def test_a_cancelled_receive_gets_nothing() -> None:
    async with Engine() as engine:
        await engine.topic()
        gone, there = engine.ask(client="gone"), engine.ask(client="there")
        gone.cancel()
        await engine.send("one")
        await engine.turns()
        assert not gone.done
        assert bodies(await there.got()) == ["one"]


async def test_waiting_receives_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "WAITING_MAX", 2)
    async with Engine() as engine:
        await engine.topic()
        polls = [engine.ask(), engine.ask()]
        with pytest.raises(TooManyRequests):
            await engine.ask().got()
        polls[0].cancel()
        polls.append(engine.ask())
        await engine.turns()
        assert not polls[2].done


async def test_a_new_group_sees_what_is_there_and_an_old_one_goes_on() -> None:
    async with Engine() as engine:
        await engine.topic(queues=2)
        await engine.send("a", queue=0)
        assert await engine.bodies() == ["a"]
        await engine.send("b", queue=1)
        assert await engine.bodies(group="h") == ["a", "b"]
        assert await engine.bodies() == ["b"]


async def test_a_group_that_found_nothing_once_misses_nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came while the queues were empty; it comes back when they have grown beyond what counts as new."""
    monkeypatch.setattr(service, "FRESH_BYTES", 1)
    async with Engine() as engine:
        await engine.topic(queues=2)
        assert await engine.bodies() == []
        await engine.send("one", "two", queue=0)
        await engine.send("three", queue=1)
        engine = engine.restarted()
        assert sorted(await engine.bodies()) == ["one", "three", "two"]
        assert await engine.bodies(group="new") == []
        await engine.topic(queues=3)
        await engine.send("four", "five", queue=2)
        engine = engine.restarted()
        assert await engine.bodies(group="new") == ["four", "five"]


async def test_messages_that_are_not_confirmed_are_not_delivered() -> None:
    async with Engine(held=True) as engine:
        await engine.topic()
        sent = engine.submit(engine.outgoing("one"))
        await engine.turns()
        assert not sent.done()
        poll = engine.ask()
        await engine.turns()
        assert not poll.done
        await engine.finish(sent)
        assert bodies(await poll.got()) == ["one"]


async def test_an_acknowledgement_waits_for_the_disk_and_a_hand_out_does_not() -> None:
    async with Engine(held=True) as engine:
        await engine.topic()
        await engine.send("one")
        poll = engine.ask()
        await engine.turns()
        assert poll.done
        acking = engine.acking([delivery.handle for delivery in await poll.got()])
        await engine.turns()
        assert not acking.done()
        assert await engine.finish(acking) == [None]


# ---- order


async def test_a_message_group_is_held_up_by_its_first_and_others_are_not() -> None:
    async with Engine() as engine:
        await engine.topic(TopicType.FIFO)
        for body in ("a1", "b1", "a2", "b2", "a3"):
            await engine.send(body, group=body[0])
        (a1,) = await engine.receive(limit=1)
        assert a1.message.body == b"a1"
        b = await engine.receive()
        assert bodies(b) == ["b1", "b2"]
        poll = engine.ask()
        await engine.ack(*b)
        await engine.turns()
        assert not poll.done
        await engine.ack(a1)
        await engine.turns()
        assert bodies(await poll.got()) == ["a2", "a3"]


async def test_a_batch_of_one_message_group_comes_back_in_order() -> None:
    async with Engine() as engine:
        await engine.topic(TopicType.FIFO)
        await engine.send("1", "2", "3", "4", group="a")
        found = await engine.receive(limit=3, invisible_ms=1_000)
        await engine.ack(found[1])
        assert await engine.bodies() == []
        await engine.advance(1_000)
        again = await engine.receive()
        assert bodies(again) == ["1", "3"]
        assert [delivery.attempt for delivery in again] == [2, 2]
        await engine.ack(*again)
        assert await engine.bodies() == ["4"]


async def test_order_is_kept_over_a_restart() -> None:
    async with Engine() as engine:
        await engine.topic(TopicType.FIFO)
        await engine.send("1", "2", "3", group="a")
        (first,) = await engine.receive(limit=1, invisible_ms=5_000)
        assert await engine.bodies() == []
        for snapshot in (False, True):
            if snapshot:
                await engine.snapshot()
            engine = engine.restarted()
            assert await engine.bodies() == []
        await engine.advance(5_000)
        again = await engine.receive(limit=1)
        assert (bodies(again), again[0].attempt) == (["1"], 2)
        assert isinstance((await engine.ack(first))[0], InvalidReceiptHandle)
        assert await engine.ack(*again) == [None]
        assert await engine.bodies() == ["2", "3"]


async def test_the_same_attempt_gets_the_same_messages() -> None:
    async with Engine() as engine:
        await engine.topic(TopicType.FIFO)
        await engine.send("1", "2", group="a")
        first = await engine.receive(attempt="x")
        second = await engine.receive(attempt="x")
        assert [d.handle for d in first] == [d.handle for d in second]
        assert await engine.bodies(attempt="y") == []
        assert await engine.bodies() == []
        await engine.ack(first[0])
        assert await engine.bodies(attempt="x") == ["2"]
        await engine.ack(first[1])
        assert await engine.bodies(attempt="x") == []


async def test_the_same_attempt_never_gets_a_later_message_without_an_earlier_one() -> None:
    """The first is not at hand any more: the second must not come alone."""
    async with Engine() as engine:
        await engine.topic(TopicType.FIFO)
        await engine.send("1", "2", group="a")
        await engine.receive(attempt="x")
        key = engine.state.topics.get("t").incarnation << 32
        engine.records._cache.pop((key, 0))
        engine.records._latest.clear()
        engine.disk.cached = False
        assert await engine.bodies(attempt="x") in ([], ["1", "2"])


# ---- filters


async def test_what_a_group_does_not_want_is_passed_over_for_good() -> None:
    async with Engine() as engine:
        await engine.topic()
        for number in range(6):
            await engine.send(f"m{number}", tag="odd" if number % 2 else "even", properties={"n": str(number)})
        assert await engine.bodies(tags="odd || none") == ["m1", "m3", "m5"]
        assert await engine.bodies(group="h", sql="n > 3") == ["m4", "m5"]
        ledger = engine.state.shared.find("g", engine.state.topics.get("t").incarnation, 0)
        assert ledger is not None
        assert ledger.next == 6
        engine = engine.restarted()
        assert await engine.bodies() == []  # without its filter now: passed over is passed over
        assert await engine.bodies(group="h") == []


@pytest.mark.parametrize("wait_ms", [0, 60_000])
async def test_a_wanted_message_behind_many_others_is_found(monkeypatch: pytest.MonkeyPatch, wait_ms: int) -> None:
    monkeypatch.setattr(picking, "SCAN_MAX", 10)
    async with Engine() as engine:
        await engine.topic()
        for number in range(60):
            await engine.send(f"m{number}", tag="x")
        await engine.send("this", tag="y")
        poll = engine.ask(tags="y", wait_ms=wait_ms)
        assert bodies(await poll.got()) == ["this"]


async def test_those_with_another_filter_do_not_hold_each_other_up() -> None:
    async with Engine() as engine:
        await engine.topic()
        x, y = engine.ask(group="gx", tags="x"), engine.ask(group="gy", tags="y")
        await engine.send("for y", tag="y")
        await engine.turns()
        assert not x.done
        assert bodies(await y.got()) == ["for y"]
        x.cancel()


# ---- cold reads


async def test_what_is_not_in_memory_is_read_from_the_disk() -> None:
    async with Engine() as engine:
        await engine.topic(queues=2)
        await engine.send("one", "two", queue=0)
        await engine.send("three", queue=1)
        engine = engine.restarted()
        engine.disk.cached = False
        polls = [engine.ask(limit=1) for _ in range(3)]
        found = [body for poll in polls for body in bodies(await poll.got())]
        assert sorted(found) == ["one", "three", "two"]


async def test_a_cold_read_answers_a_receive_that_does_not_wait() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one")
        engine = engine.restarted()
        engine.disk.cached = False
        assert await engine.bodies() == ["one"]


async def test_a_cold_read_that_finds_nothing_wanted_ends_a_receive_that_does_not_wait() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one", tag="x")
        engine = engine.restarted()
        engine.disk.cached = False
        assert await engine.bodies(tags="y") == []
        assert engine.shared.waiting == 0


async def test_cold_redelivery_keeps_the_order() -> None:
    async with Engine() as engine:
        await engine.topic(TopicType.FIFO)
        await engine.send("1", "2", "3", group="a")
        await engine.receive(limit=2, invisible_ms=1_000)
        engine = engine.restarted()
        engine.disk.cached = False
        await engine.advance(1_000)
        got: list[str] = []
        while len(got) < 3:
            found = await engine.ask().got()
            got += bodies(found)
            await engine.ack(*found)
        assert got == ["1", "2", "3"]


async def test_damage_in_one_queue_does_not_hold_up_the_others() -> None:
    async with Engine() as engine:
        await engine.topic(queues=2)
        (placed,) = await engine.send("broken", queue=0)
        await engine.send("sound", queue=1)
        segment = next(name for name in engine.disk.names if name.endswith(".seg"))
        engine.disk.flip(segment, placed.end_offset - 6)
        engine.records._cache.clear()
        seen: list[str] = []
        told = ""
        for _ in range(3):
            try:
                seen += await engine.bodies()
            except DamagedLog as failure:
                told = str(failure)
        assert seen == ["sound"]
        assert told.startswith("records 0 to 0 of queue 0 of topic t can't be read: ")
        assert f"log offset {placed.log_offset} is damaged" in told
        assert told.endswith("reset the group to offset 1 to leave them out")


# ---- definitions that change


async def test_a_topic_that_is_deleted_ends_the_receives_on_it() -> None:
    async with Engine(held=True) as engine:
        await engine.topic()
        await engine.send("one")
        (found,) = await engine.receive()
        poll = engine.ask()
        deleting = asyncio.ensure_future(engine.admin.delete_topic("t"))
        await engine.turns()
        await engine.advance(30_000)  # the lease is over while the deletion waits for the disk
        await engine.finish(deleting)
        assert bodies(await poll.got()) == []
        assert isinstance((await engine.ack(found))[0], InvalidReceiptHandle)
        assert engine.shared.waiting == 0
        assert engine.state.shared.places() == []
        await engine.topic()
        assert await engine.bodies() == []
        await engine.send("of the new one")
        assert await engine.bodies() == ["of the new one"]


async def test_a_topic_that_grows_while_receives_wait() -> None:
    async with Engine() as engine:
        await engine.topic(queues=1)
        poll = engine.ask()
        await engine.topic(queues=3)
        await engine.send("new queue", queue=2)
        assert bodies(await poll.got()) == ["new queue"]
        await engine.send("another", queue=1)
        assert await engine.bodies() == ["another"]


async def test_a_group_that_is_deleted_ends_its_receives_and_leaves_nothing() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.group()
        await engine.send("one")
        (found,) = await engine.receive()
        poll = engine.ask()
        await engine.admin.delete_group("g")
        await engine.turns()
        assert poll.done
        assert isinstance((await engine.ack(found))[0], InvalidReceiptHandle)
        await engine.send("two")
        await engine.turns()
        assert engine.state.shared.places() == []


# ---- bounds


async def test_a_queue_with_too_many_unacknowledged_messages_goes_on_when_some_are_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger_module, "OPEN_MAX", 3)
    async with Engine() as engine:
        await engine.topic()
        await engine.send("1", "2", "3", "4", "5")
        found = [*await engine.receive(limit=3)]
        assert await engine.bodies() == []
        poll = engine.ask()
        await engine.turns()
        assert not poll.done
        await engine.ack(*found)
        await engine.turns()
        assert bodies(await poll.got()) == ["4", "5"]


async def test_many_exhausted_messages_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EXHAUSTED_A_TURN", 4)
    async with Engine() as engine:
        await engine.topic()
        await engine.group(max_attempts=1)
        await engine.send(*map(str, range(11)))
        assert len(await engine.receive(invisible_ms=1_000, attempts_max=1)) == 11
        await engine.advance(1_000)
        for _ in range(10):
            await engine.advance(1)
        assert engine.dead_letters.buried == 11


# ---- a full disk


async def test_a_full_disk_loses_no_decision() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one", "two", "three")
        (one,) = await engine.receive(limit=1)
        engine.disk.write_limit = 0
        acking = engine.acking([one.handle])
        await engine.turns()
        assert not acking.done()
        with pytest.raises(DiskFull):
            await engine.receive(limit=1)
        refused = await engine.finish(engine.acking([one.handle]))
        assert isinstance(refused[0], DiskFull)
        with pytest.raises(DiskFull):
            await engine.put_off(one, 5)
        engine.disk.write_limit = None
        assert await engine.finish(acking) == [None]
        (two,) = await engine.receive(limit=1)
        assert two.message.body == b"two"
        digest = engine.state.shared.digest()
        engine = engine.restarted()
        assert engine.state.shared.digest() == digest
        await engine.advance(60_000)
        assert await engine.bodies() == ["two", "three"]


async def test_nothing_overtakes_decisions_that_wait_for_room() -> None:
    """The disk has room again before they are tried again: what is written in between must not come before them."""
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one", "two")
        (_,) = await engine.receive(limit=1)
        engine.disk.write_limit = 0
        (two,) = await engine.receive(limit=1)  # its hand-out can't be stored
        await engine.turns()
        with pytest.raises(DiskFull):
            engine.journal.check_open()
        engine.disk.write_limit = None
        engine.store.space.refresh()
        receipt, _ = engine.shared.open_handle("g", two.handle)
        with pytest.raises(DiskFull):
            await engine.dead_letters.forward("g", receipt, "given up")
        with pytest.raises(DiskFull):
            await engine.send("three")
        with pytest.raises(DiskFull):
            await engine.topic(name="another")
        while engine.journal._stuck or engine.journal._records:
            await engine.turns(1)
        await engine.dead_letters.forward("g", receipt, "given up")
        digest = engine.state.shared.digest()
        engine = engine.restarted()
        assert engine.state.shared.digest() == digest
        await engine.advance(60_000)
        assert await engine.bodies() == ["one"]


# ---- what retention took


async def test_unacknowledged_messages_that_retention_took_hold_nothing_up() -> None:
    async with Engine(segment_bytes=64 * 1024) as engine:
        await engine.topic(TopicType.FIFO)
        await engine.send("1", "2", group="a")
        await engine.receive(limit=1, invisible_ms=1_000)
        assert await engine.bodies() == []  # the second is passed over
        body = "x" * 20_000
        for number in range(8):
            await engine.send(f"{number}{body}", group="b")
        store = engine.store
        store.note_synced(store.sync())
        while (job := store.take_seal_job()) is not None:
            job.run()
            store.finish_seal(job)
        await engine.snapshot()
        store.drop_segment(store.droppable(floor=store.end_offset)[0])
        low, _ = store.queue_bounds(engine.state.topics.get("t").incarnation << 32)
        assert low > 2
        engine.records._cache.clear()
        engine.records._latest.clear()
        await engine.advance(1_000)
        found = await engine.receive()
        assert [delivery.message.queue_offset for delivery in found] == list(range(low, 10))
        await engine.ack(*found)
        await engine.send("3", group="a")
        assert await engine.bodies() == ["3"]
        ledger = engine.state.shared.find("g", engine.state.topics.get("t").incarnation, 0)
        assert ledger is not None
        assert ledger.floor == 10
