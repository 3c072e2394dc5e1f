"""Messages that a group gives up: copied once, with their story, and settled by that."""

from __future__ import annotations

import asyncio

import pytest

from kourou.broker.services import deadletters
from kourou.core.errors import InvalidReceiptHandle, KourouError
from kourou.core.records import Field, iterate_fields
from kourou.core.route import TopicType
from tests.unit.broker.services.engine import Engine, bodies

GRAVE = "%DLQ%g"


async def test_delivered_as_often_as_it_may_be() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.group(max_attempts=2)
        await engine.send("bad", tag="x", properties={"k": "v"})
        for attempt in (1, 2):
            (found,) = await engine.receive(invisible_ms=1_000, attempts_max=2)
            assert found.attempt == attempt
            await engine.advance(1_000)
        assert await engine.bodies(attempts_max=2) == []
        (dead,) = await engine.receive(topic=GRAVE)
        fields = dict(iterate_fields(dead.message.block))
        tag, properties = dead.message.filtered_on()
        assert (dead.message.body, dead.message.message_id, tag, properties["k"]) == (b"bad", "id-bad", "x", "v")
        assert properties[deadletters.ATTEMPTS_PROPERTY] == "2"
        assert fields[Field.DEAD_LETTER] == b"\x01\x00tid-bad"
        assert isinstance((await engine.ack(found))[0], InvalidReceiptHandle | None)


async def test_a_group_without_consumers_gives_up_all_the_same() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.group(max_attempts=1)
        await engine.send("bad")
        await engine.receive(invisible_ms=1_000, attempts_max=1)
        engine = engine.restarted()
        await engine.advance(1_000)
        assert engine.dead_letters.buried == 1
        assert await engine.bodies(topic=GRAVE) == ["bad"]


async def test_given_up_by_its_consumer() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("bad", "good")
        bad, good = await engine.receive()
        receipt, _ = engine.shared.open_handle("g", bad.handle)
        await engine.dead_letters.forward("g", receipt, "why")
        await engine.dead_letters.forward("g", receipt, "again")
        (dead,) = await engine.receive(topic=GRAVE)
        assert dead.message.filtered_on()[1][deadletters.REASON_PROPERTY] == "why"
        assert await engine.ack(bad, good) == [None, None]
        await engine.advance(60_000)
        assert await engine.bodies() == []
        engine = engine.restarted()
        await engine.advance(60_000)
        assert await engine.bodies() == []
        assert await engine.bodies(topic=GRAVE) == ["bad"]


async def test_only_the_present_holder_may_give_it_up() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one")
        (first,) = await engine.receive(invisible_ms=1_000)
        await engine.advance(1_000)
        (second,) = await engine.receive()
        receipt, _ = engine.shared.open_handle("g", first.handle)
        with pytest.raises(InvalidReceiptHandle):
            await engine.dead_letters.forward("g", receipt, "late")
        assert await engine.ack(second) == [None]
        assert engine.dead_letters.buried == 0


async def test_at_once_twice_is_stored_once() -> None:
    async with Engine(held=True) as engine:
        await engine.topic()
        await engine.send("bad")
        (found,) = await engine.receive()
        receipt, _ = engine.shared.open_handle("g", found.handle)
        both = [asyncio.ensure_future(engine.dead_letters.forward("g", receipt, "why")) for _ in range(2)]
        await engine.turns(1)
        acking = engine.acking([found.handle])
        await engine.finish(asyncio.ensure_future(asyncio.wait(both)))
        await engine.finish(acking)
        assert both[0].exception() is None
        both[1].exception()
        assert engine.dead_letters.buried == 1
        assert await engine.bodies(topic=GRAVE) == ["bad"]


async def test_the_next_of_the_message_group_comes_after_the_copy_is_stored() -> None:
    async with Engine() as engine:
        await engine.topic(TopicType.FIFO)
        await engine.group(max_attempts=1)
        await engine.send("1", "2", "3", group="a")
        (_,) = await engine.receive(limit=1, invisible_ms=1_000, attempts_max=1)
        poll = engine.ask(limit=1, attempts_max=1)
        await engine.advance(1_000)
        (second,) = await poll.got()
        assert second.message.body == b"2"
        receipt, _ = engine.shared.open_handle("g", second.handle)
        poll = engine.ask()
        await engine.dead_letters.forward("g", receipt, "why")
        assert bodies(await poll.got()) == ["3"]
        assert await engine.bodies(topic=GRAVE) == ["1", "2"]


async def test_a_full_disk_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadletters, "RETRY_S", 0)
    async with Engine() as engine:
        await engine.topic()
        await engine.group(max_attempts=1)
        await engine.send("bad", "also bad")
        found = await engine.receive(invisible_ms=1_000, attempts_max=1)
        await engine.turns()
        receipt, _ = engine.shared.open_handle("g", found[1].handle)
        engine.disk.write_limit = 0
        with pytest.raises(KourouError):
            await engine.dead_letters.forward("g", receipt, "why")
        await engine.advance(1_000)
        assert engine.dead_letters.buried == 0
        assert await engine.bodies(attempts_max=1) == []
        engine.disk.write_limit = None
        engine.store.space.refresh()
        while engine.dead_letters.buried < 2:
            await engine.turns(1)
        assert sorted(await engine.bodies(topic=GRAVE)) == ["also bad", "bad"]


async def test_gone_while_they_are_buried() -> None:
    """The topic, the group, or the messages themselves are deleted: nobody tries for ever."""
    async with Engine() as engine:
        await engine.topic()
        await engine.group(max_attempts=1)
        await engine.send("bad")
        await engine.receive(invisible_ms=1_000, attempts_max=1)
        engine.clock.advance(1_000)
        await engine.admin.delete_topic("t")
        await engine.advance(0)
        assert engine.dead_letters._tasks == set()
        assert engine.dead_letters.buried == 0


async def test_a_grave_is_read_like_any_topic_and_has_no_dead_letters_of_its_own_kind() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("bad")
        (found,) = await engine.receive()
        receipt, _ = engine.shared.open_handle("g", found.handle)
        await engine.dead_letters.forward("g", receipt, "why")
        (dead,) = await engine.receive(group="reader", topic=GRAVE, invisible_ms=1_000, attempts_max=1)
        await engine.group("reader", max_attempts=1)
        await engine.advance(1_000)
        (dead,) = await engine.receive(group="second", topic="%DLQ%reader")
        fields = [value for field, value in iterate_fields(dead.message.block) if field == Field.DEAD_LETTER]
        assert fields == [b"\x06\x00%DLQ%gid-bad"]
