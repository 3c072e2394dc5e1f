"""Lite topics: their queues, subscriptions, and what happens to those that nobody uses."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest

from kourou.broker.machines.lite import BASE
from kourou.broker.machines.topics import Topic
from kourou.broker.services import admin, lite
from kourou.broker.services.lite import LiteService
from kourou.broker.services.state import BrokerState
from kourou.core.errors import DiskFull
from kourou.core.frame import PREFIX_SIZE, Kind, check_frame, record_bounds
from kourou.core.route import TopicType
from tests.unit.broker.services.engine import Engine, Poll, bodies

EXPIRE_MS = 600_000


def service_of(engine: Engine) -> LiteService:
    return LiteService(
        engine.state, engine.journal, engine.shared, engine.positions, clock=engine.clock, expire_ms=EXPIRE_MS
    )


async def receive(engine: Engine, service: LiteService, topic: Topic, client: str = "c") -> list[str]:
    request = engine.request()
    request.only = service.queues_of(client, "g", topic)
    return sorted(bodies(await Poll(engine, request, 0).got()))


async def send(engine: Engine, service: LiteService, topic: Topic, name: str, body: str) -> int:
    queue = service.queue_for(topic, name)
    await engine.finish(engine.submit(engine.outgoing(body), queue))
    return queue


async def expire(engine: Engine, service: LiteService) -> None:
    await engine.finish(asyncio.ensure_future(service.expire()))


async def test_a_name_keeps_its_queue() -> None:
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        service = service_of(engine)
        queues = [service.queue_for(topic, name) for name in ("a", "b", "a", "c")]
        assert queues == [BASE, BASE + 1, BASE, BASE + 2]
        engine = engine.restarted()
        assert [engine.state.lite.number(topic.incarnation, name) for name in "abcd"] == [BASE, BASE + 1, BASE + 2, None]
        assert engine.state.lite.total == 3


async def test_a_name_lies_in_the_log_before_its_messages() -> None:
    """Goal: a crash never leaves a message in a queue whose number is given out again. Method: many names in one turn, with
    room on the disk and without."""
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        service = service_of(engine)
        for full in (False, True):
            engine.disk.write_limit = 0 if full else None
            names = [f"{full}-{number}" for number in range(20)]
            tries = []
            for name in names:
                try:
                    tries.append(engine.submit(engine.outgoing(name), service.queue_for(topic, name)))
                except DiskFull:
                    assert full
            await asyncio.gather(*tries, return_exceptions=True)
            engine.disk.write_limit = None
            engine.store.space.refresh()
            while engine.journal._stuck:
                engine.journal._unstick()
                again = engine.submit(engine.outgoing("again"), service.queue_for(topic, names[0]))
                await asyncio.gather(again, return_exceptions=True)
        known: set[int] = set()
        frames = 0
        log = engine.store.log
        for offset in log.frames(log.start, log.end):
            data = engine.store.read_frame(offset)
            _, header = check_frame(data)
            frames += 1
            if header.kind == Kind.METADATA:
                bounds = record_bounds(data, PREFIX_SIZE, header)
                at = PREFIX_SIZE + header.records_at
                for start, end in pairwise(bounds):
                    record = json.loads(data[at + start : at + end])
                    known.update(number for number, _ in record["e"] if record["t"] == "lite") if "e" in record else None
            elif header.kind == Kind.MESSAGES:
                assert header.queue_id in known
        assert engine.state.lite.total == len(known) >= 21
        assert frames < 20 + 20 + 10, "names share frames"


async def test_what_nobody_uses_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: old ones go in one round however many they are, used and subscribed ones stay; numbers are not given out again.
    Method: small portions."""
    monkeypatch.setattr(lite, "EXPIRY_A_TURN", 4)
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        await engine.group()
        service = service_of(engine)
        for number in range(30):
            service.queue_for(topic, f"n{number}")
        engine.clock.advance(EXPIRE_MS)
        await expire(engine, service)
        assert engine.state.lite.total == 30
        service.add("c", "g", topic, ["n7", "n29", "new"], exclusive=False)
        service.queue_for(topic, "n13")
        engine.clock.advance(2_000)
        await expire(engine, service)
        assert {name for name in engine.state.lite.portion(topic.incarnation, 0, 100) or () if name} == {"n7", "n13", "n29"}
        assert service.queue_for(topic, "n0") == BASE + 30
        engine = engine.restarted()
        assert engine.state.lite.total == 4


async def test_others_get_their_turn_between_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "EXPIRY_A_TURN", 4)
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        service = service_of(engine)
        for number in range(40):
            service.queue_for(topic, f"n{number}")
        engine.clock.advance(EXPIRE_MS + 2_000)
        left: list[int] = []
        round_ = asyncio.ensure_future(service.expire())
        while not round_.done():
            await asyncio.sleep(0)
            left.append(engine.state.lite.total)
        assert len(set(left)) >= 10


async def test_a_topic_deleted_meanwhile_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "EXPIRY_A_TURN", 4)
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        service = service_of(engine)
        for number in range(30):
            service.queue_for(topic, f"n{number}")
        engine.clock.advance(EXPIRE_MS + 2_000)
        round_ = asyncio.ensure_future(service.expire())
        await asyncio.sleep(0)
        await engine.finish(asyncio.ensure_future(engine.admin.delete_topic("t")))
        await engine.finish(round_)
        assert engine.state.lite.total == 0
        await expire(engine, service)


async def test_what_a_group_has_of_it_goes_too() -> None:
    """Goal: memory of lite topics that come and go is given back."""
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        await engine.group()
        service = service_of(engine)
        service.add("c", "g", topic, ["old"], exclusive=False)
        queue = await send(engine, service, topic, "old", "1")
        assert await receive(engine, service, topic) == ["1"]
        assert queue in engine.state.shared.of("g", topic.incarnation)
        service.left("c")
        engine.clock.advance(EXPIRE_MS + 2_000)
        await expire(engine, service)
        assert queue not in engine.state.shared.of("g", topic.incarnation)
        service.add("c", "g", topic, ["old"], exclusive=False)
        assert await send(engine, service, topic, "old", "2") == queue + 1
        assert await receive(engine, service, topic) == ["2"]
        digest = engine.state.shared.digest()
        assert engine.restarted().state.shared.digest() == digest


async def test_a_group_is_described_with_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "LITE_SHOWN", 3)
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        await engine.group()
        service = service_of(engine)
        names = [f"n{number}" for number in range(10)]
        service.add("c", "g", topic, names, exclusive=False)
        for name in names:
            await send(engine, service, topic, name, name)
        assert len(await receive(engine, service, topic)) == 10
        _, queues = engine.admin.describe_group("g")
        assert len(list(queues)) == 3


async def test_subscribed_first_and_received_later() -> None:
    async with Engine() as engine:
        topic = await engine.topic(TopicType.LITE)
        await engine.group()
        service = service_of(engine)
        for name in ("a", "b", "c"):
            await send(engine, service, topic, name, name)
        service.add("c", "g", topic, ["a", "c"], exclusive=False)
        assert await receive(engine, service, topic) == ["a", "c"]


def test_a_snapshot_knows_names_and_gaps() -> None:
    state = BrokerState(broker="a")
    machine = state.lite
    for number in range(600):
        machine.replay(machine.add(1, f"n{number}"), log_offset=0, store_ms=0)
    machine.replay({"t": "lite-", "i": 1, "e": [BASE, BASE + 300, BASE + 599]}, log_offset=0, store_ms=0)
    other = BrokerState(broker="a").lite
    other.restore(b"".join(machine.snapshot()))
    assert other.digest() == machine.digest()
    assert (other.count(1), other.total, other.number(1, "n300"), other.number(1, "n301")) == (597, 597, None, BASE + 301)
    assert other.add(1, "next")["e"] == [[BASE + 600, "next"]]
