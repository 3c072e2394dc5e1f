"""Messages stay invisible while their consumer lives, and come back soon when it has gone."""

from __future__ import annotations

from kourou.broker.services.shared import renewals
from kourou.broker.services.shared.request import Delivery
from tests.unit.broker.services.engine import Engine


async def held(engine: Engine, client: str = "c", **options: int) -> list[Delivery]:
    found = await engine.receive(client=client, invisible_ms=60_000, **options)
    serials = [engine.handles.open_receipt(delivery.handle).serial for delivery in found]
    engine.renewals.hold("g", engine.state.topics.get("t").incarnation, client, found, serials)
    return found


async def beat(engine: Engine, seconds: int) -> None:
    """Time goes by as on a broker: a tick every five seconds."""
    for _ in range(0, seconds, 5):
        engine.clock.advance(5_000)
        engine.shared._alarms._look()
        await engine.renewals.tick()
    await engine.turns()


async def test_a_slow_handler_keeps_its_message() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("slow")
        (found,) = await held(engine)
        await beat(engine, 2 * 3_600)
        assert await engine.bodies(client="other") == []
        assert await engine.ack(found) == [None]
        await beat(engine, 5)
        assert len(engine.renewals) == 0


async def test_not_for_ever() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("stuck")
        await held(engine)
        await beat(engine, 4 * 3_600 + 600)
        (again,) = await engine.receive(client="other")
        assert again.attempt == 2
        await beat(engine, 5)
        assert len(engine.renewals) == 0


async def test_a_client_that_has_gone_lets_go_soon() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one", "two")
        one, _ = await held(engine)
        await engine.ack(one)
        await beat(engine, 120)
        poll = engine.ask(client="other")
        engine.renewals.released("c")
        await engine.advance(renewals.RELEASED_MS)
        assert [delivery.message.body for delivery in await poll.got()] == [b"two"]
        assert len(engine.renewals) == 0
        engine.renewals.released("c")
        engine.renewals.released("nobody")


async def test_put_off_and_dead_letters_are_not_renewed() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one", "two")
        one, two = await held(engine)
        await engine.put_off(one, 30_000)
        receipt, _ = engine.shared.open_handle("g", two.handle)
        await engine.dead_letters.forward("g", receipt, "why")
        await beat(engine, 30)
        (again,) = await engine.receive(client="other")
        assert (again.message.body, again.attempt) == (b"one", 2)
        engine.renewals.released("c")  # what another has by now is not taken from it
        await engine.advance(renewals.RELEASED_MS)
        assert await engine.bodies() == []


async def test_the_next_holder_is_the_one_that_counts() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one")
        await held(engine, "first")
        await engine.advance(60_000)  # no tick came: the lease is over
        await held(engine, "second")
        engine.renewals.released("first")
        await engine.advance(renewals.RELEASED_MS)
        assert await engine.bodies() == []
        engine.renewals.released("second")
        await engine.advance(renewals.RELEASED_MS)
        assert await engine.bodies() == ["one"]


async def test_many_are_renewed_in_one_tick() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send(*map(str, range(3 * renewals.A_TURN)))
        while await held(engine):
            pass
        await engine.advance(55_000)
        await engine.renewals.tick()
        await engine.advance(30_000)
        assert await engine.bodies(client="other") == []


async def test_a_full_disk_does_not_end_renewal() -> None:
    async with Engine() as engine:
        await engine.topic()
        await engine.send("one")
        await held(engine)
        await engine.advance(51_000)
        engine.disk.write_limit = 0
        await engine.renewals.tick()  # applied, but can't be stored yet
        await engine.turns()
        await engine.renewals.tick()
        engine.disk.write_limit = None
        engine.store.space.refresh()
        while engine.journal._stuck or engine.journal._records:
            await engine.turns(1)
        await beat(engine, 600)
        assert await engine.bodies(client="other") == []
        engine = engine.restarted()
        assert await engine.bodies(client="other") == []
