"""Transactions: half messages, decisions, questions to producers, restarts."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from kourou.broker.machines.transactions import COMMITTED, ROLLED_BACK
from kourou.core.errors import InvalidTransaction, KourouError
from kourou.core.frame import HALF, Column, parse_sealed, seal
from kourou.core.handles import Transaction
from kourou.core.records import Field, encode_field
from kourou.core.route import TopicType
from tests.unit.broker.services.engine import Engine

HALF_TOPIC = TopicType.TRANSACTION


async def prepared(engine: Engine, *contents: str, **options: int) -> list[Transaction]:
    return [Transaction(placed.log_offset, 0) for placed in await engine.send(*contents, **options)]


async def test_committed_messages_are_delivered_with_what_they_carried() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC, queues=3)
        message = engine.outgoing("paid", tag="x", properties={"k": "v"})
        placed = await engine.submit(message, 2)
        poll = engine.ask()
        await engine.turns()
        assert not poll.done
        await engine.transactions.end("t", Transaction(placed.log_offset, 0), COMMITTED)
        (found,) = await poll.got()
        assert (found.queue, found.message.body, found.message.message_id) == (2, b"paid", "id-paid")
        assert found.message.filtered_on()[0] == "x"
        assert found.message.filtered_on()[1]["k"] == "v"


async def test_rolled_back_messages_are_not() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "not paid")
        await engine.transactions.end("t", transaction, ROLLED_BACK)
        assert await engine.bodies() == []
        assert len(engine.state.transactions) == 0


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize(("outcome", "opposite"), [(COMMITTED, ROLLED_BACK), (ROLLED_BACK, COMMITTED)])
async def test_a_decision_again_is_no_error_and_the_opposite_is(
    outcome: str, opposite: str, restart: bool, snapshot: bool
) -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        await engine.transactions.end("t", transaction, outcome)
        if snapshot:
            await engine.snapshot()
        if restart:
            engine = engine.restarted()
        await engine.transactions.end("t", transaction, outcome)
        with pytest.raises(InvalidTransaction, match=outcome):
            await engine.transactions.end("t", transaction, opposite)
        assert await engine.bodies() == (["one"] if outcome == COMMITTED else [])


async def test_decisions_at_the_same_time() -> None:
    async with Engine(held=True) as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        first, same, other = (
            asyncio.ensure_future(engine.transactions.end("t", transaction, outcome))
            for outcome in (COMMITTED, COMMITTED, ROLLED_BACK)
        )
        await engine.finish(asyncio.ensure_future(asyncio.wait([first, same, other])))
        assert first.exception() is None
        assert same.exception() is None
        assert isinstance(other.exception(), InvalidTransaction)
        assert await engine.bodies() == ["one"]


async def test_who_asked_may_go_and_the_decision_stands() -> None:
    async with Engine(held=True) as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        gone = asyncio.ensure_future(engine.transactions.end("t", transaction, COMMITTED))
        while not engine.journal._waiting:  # the half message is read in a thread
            await engine.turns(1)
        gone.cancel()
        await engine.turns()
        await engine.finish(asyncio.ensure_future(engine.transactions.end("t", transaction, COMMITTED)))
        assert engine.state.transactions.decision(transaction) == COMMITTED
        assert await engine.bodies() == ["one"]


async def test_what_never_was_and_what_belongs_elsewhere_is_refused() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        await engine.topic(HALF_TOPIC, name="u")
        (transaction,) = await prepared(engine, "one")
        with pytest.raises(InvalidTransaction):
            await engine.transactions.end("u", transaction, COMMITTED)
        for wrong in (Transaction(transaction.log_offset, 1), Transaction(transaction.log_offset + 1, 0), Transaction(0, 0)):
            with pytest.raises(InvalidTransaction):
                await engine.transactions.end("t", wrong, COMMITTED)
        assert len(engine.state.transactions) == 1


async def test_a_restart_before_the_decision() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        one, two = await prepared(engine, "one", "two")
        await engine.snapshot()
        (three,) = await prepared(engine, "three")
        engine = engine.restarted()
        await engine.transactions.end("t", one, COMMITTED)
        await engine.transactions.end("t", two, ROLLED_BACK)
        await engine.transactions.end("t", three, COMMITTED)
        assert await engine.bodies() == ["one", "three"]
        digest = engine.state.digest()
        engine = engine.restarted()
        assert engine.state.digest() == digest


async def test_a_full_disk_while_committing_changes_nothing() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        engine.disk.write_limit = 0
        for outcome in (COMMITTED, ROLLED_BACK):
            with pytest.raises(KourouError):
                await engine.transactions.end("t", transaction, outcome)
        engine.disk.write_limit = None
        engine.store.space.refresh()
        assert engine.state.transactions.decision(transaction) is None
        await engine.transactions.end("t", transaction, COMMITTED)
        assert await engine.bodies() == ["one"]


async def test_a_topic_that_is_deleted_takes_its_half_messages_along() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        await engine.admin.delete_topic("t")
        with pytest.raises(InvalidTransaction):
            await engine.transactions.end("t", transaction, COMMITTED)
        engine.clock.advance(10_000)
        await engine.transactions.check()
        assert engine.producer.asked == []


# ---- asking producers


async def test_producers_are_asked_after_a_while_at_intervals_and_not_for_ever() -> None:
    async with Engine(checks_max=3) as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        await engine.transactions.check()
        engine.clock.advance(5_999)
        await engine.transactions.check()
        assert engine.producer.asked == []
        engine.clock.advance(1)
        for number in range(1, 4):
            await engine.transactions.check()
            await engine.transactions.check()
            assert len(engine.producer.asked) == number
            engine.clock.advance(30_000)
        assert engine.producer.asked[0] == ("t", engine.handles.transaction(transaction), b"one")
        await engine.transactions.check()
        assert len(engine.producer.asked) == 3
        with pytest.raises(InvalidTransaction):
            await engine.transactions.end("t", transaction, COMMITTED)
        await engine.transactions.end("t", transaction, ROLLED_BACK)
        assert await engine.bodies() == []


async def test_a_producer_says_when_it_wants_to_be_asked() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        await prepared(engine, "slow", recovery_ms=60_000)
        engine.clock.advance(59_999)
        await engine.transactions.check()
        assert engine.producer.asked == []
        engine.clock.advance(1)
        await engine.transactions.check()
        assert len(engine.producer.asked) == 1


async def test_what_is_decided_is_not_asked_about() -> None:
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        one, two = await prepared(engine, "one", "two")
        await engine.transactions.end("t", one, COMMITTED)
        await engine.transactions.end("t", two, ROLLED_BACK)
        engine.clock.advance(100_000)
        await engine.transactions.check()
        assert engine.producer.asked == []


async def test_no_producer_there_does_not_count() -> None:
    async with Engine(checks_max=2) as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        engine.producer.there = False
        for _ in range(20):
            engine.clock.advance(10_000)
            await engine.transactions.check()
        half = engine.state.transactions.find(transaction)
        assert half is not None
        assert half.checks == 0
        engine.producer.there = True
        engine.clock.advance(1_000)
        await engine.transactions.check()
        assert len(engine.producer.asked) == 1
        engine.producer.there = False
        engine.clock.advance(3_600_000)
        await engine.transactions.check()
        assert engine.state.transactions.decision(transaction) == ROLLED_BACK  # too old


async def test_the_count_of_questions_survives_a_restart() -> None:
    async with Engine(checks_max=2) as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        engine.clock.advance(6_000)
        await engine.transactions.check()
        engine = engine.restarted(checks_max=2)
        await engine.transactions.check()
        assert engine.producer.asked == []  # not again before its time
        engine.clock.advance(30_000)
        await engine.transactions.check()
        assert len(engine.producer.asked) == 1
        engine = engine.restarted(checks_max=2)
        engine.clock.advance(30_000)
        await engine.transactions.check()
        assert engine.producer.asked == []
        assert engine.state.transactions.decision(transaction) == ROLLED_BACK


async def test_questions_that_can_not_be_noted_are_asked_again() -> None:
    async with Engine(checks_max=1) as engine:
        await engine.topic(HALF_TOPIC)
        (transaction,) = await prepared(engine, "one")
        engine.clock.advance(6_000)
        engine.disk.write_limit = 0
        await engine.transactions.check()
        assert engine.log.events == ["transaction_checks_not_stored"]
        engine.disk.write_limit = None
        engine.store.space.refresh()
        engine.clock.advance(30_000)
        await engine.transactions.check()
        assert len(engine.producer.asked) == 2
        engine.clock.advance(30_000)
        engine.disk.write_limit = 0
        await engine.transactions.check()
        engine.disk.write_limit = None
        engine.store.space.refresh()
        assert engine.state.transactions.decision(transaction) is None
        engine.clock.advance(1_000)
        await engine.transactions.check()
        assert engine.state.transactions.decision(transaction) == ROLLED_BACK


@pytest.mark.parametrize(
    "block",
    [
        b"\x03",
        b"\xff" * 40,
        encode_field(Field.RECOVERY_MS, b""),
        encode_field(Field.RECOVERY_MS, b"\xff" * 300),
        encode_field(Field.TAG, b"\xff\xfe") + encode_field(Field.KEY, b"\xff") + encode_field(Field.PROPERTY, b"\x09"),
        encode_field(Field.SOURCE, b"forged"),
    ],
)
async def test_properties_of_a_native_producer_that_make_no_sense(block: bytes) -> None:
    """They are not looked into when they are stored; a broker must live, start and deliver with them all the same."""
    async with Engine() as engine:
        await engine.topic(HALF_TOPIC)
        sealed = seal(
            topic="t",
            queue_id=0,
            records=[block + b"body"],
            born_ms=1,
            columns={Column.PROPERTY_SIZES: array("I", (len(block),))},
            attributes=HALF,
        )
        placed = await engine.submit_frame(engine.produce.check(memoryview(sealed), parse_sealed(sealed)))
        engine = engine.restarted()
        engine.clock.advance(3_600_000 - 1)
        await engine.transactions.check()
        await engine.transactions.end("t", Transaction(placed.log_offset, 0), COMMITTED)
        (found,) = await engine.receive(sql="a IS NULL", attempts_max=1, invisible_ms=1_000)
        assert found.message.body == b"body"
        await engine.advance(1_000)
        assert engine.dead_letters.buried == 1
        assert await engine.bodies(topic="%DLQ%g") == ["body"]
