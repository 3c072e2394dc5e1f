"""Three real brokers of one group with a real etcd: masters are killed, frozen, told to hand over; nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kourou.broker.edge.etcd import Etcd, EtcdAccess
from kourou.broker.machines.electionstate import Keys
from kourou.core.errors import KourouError
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code
from tests.integration.etcd import EtcdCluster, needs_etcd
from tests.integration.test_replication import GROUP, LIMIT_S, Group, client_of, everything

pytestmark = needs_etcd


@contextmanager
def elected(folder: Path, *options: str, etcd_members: int = 1) -> Iterator[tuple[Group, EtcdCluster]]:
    with EtcdCluster(folder / "etcd", members=etcd_members) as etcd:
        made = Group(folder, "--failover", "etcd", "--etcd", etcd.addresses, "--ack", "all", "--min-isr", "2", *options)
        try:
            yield made, etcd
        finally:
            made.stop()


async def start(made: Group, *members: int) -> int:
    """Start them; who leads when all are in sync."""
    await asyncio.gather(*(asyncio.to_thread(made.start, member) for member in members))
    return await settled(made, *members)


async def settled(made: Group, *members: int, but: int | None = None) -> int:
    """Who leads, when these are in sync."""
    found: dict[int, Any] = {}
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                for member in members:
                    try:
                        found[member] = facts = await made.status(member)
                    except KourouError:
                        continue
                    if member != but and facts["role"] == "master" and set(facts["replication"]["set"]) >= set(members):
                        return member
                await asyncio.sleep(0.02)
    except TimeoutError:
        outputs = "\n".join(f"--- {m}\n{made.members[m].output()}" for m in members)
        raise AssertionError(f"{members} don't settle: {found}\n{outputs}") from None


async def has(store: Etcd, key: str) -> bool:
    try:
        return bool((await store.read(key)).values)
    except KourouError:
        return False  # it was busy


async def send(producer: Any, first: int, end: int) -> None:
    for number in range(first, end):
        await producer.send("t", b"a%d" % number)


async def test_a_killed_master_is_replaced(tmp_path: Path) -> None:
    """kill -9, twice, while a producer goes on: every acknowledged message is there, and the dead come back as slaves."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=4)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 100)
                at = 100
                for _ in range(2):
                    made.kill(master)
                    started = time.monotonic()
                    await send(producer, at, at + 1)
                    print(f"sent again {time.monotonic() - started:.3f} s after kill -9")
                    await send(producer, at + 1, at + 50)
                    at += 50
                    await asyncio.to_thread(made.start, master)
                    master = await settled(made, 0, 1, 2, but=master)
            bodies = await everything(client, "t", at, group="g1")
            assert sorted(bodies) == sorted(b"a%d" % number for number in range(at))
        found = await made.same(0, 1, 2)
        assert found["epoch"] == 3
        assert any("the master's process has ended" in member.output() for member in made.members.values())


async def test_a_frozen_master_is_replaced_when_its_lease_is_over(tmp_path: Path) -> None:
    """SIGSTOP: no connection is refused, so only time tells. The frozen one finds out by itself when it goes on."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        others = [member for member in (0, 1, 2) if member != master]
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 20)
                frozen = made.members[master].process
                os.kill(frozen.pid, signal.SIGSTOP)
                try:
                    successor = await settled(made, *others)
                    assert successor != master
                finally:
                    os.kill(frozen.pid, signal.SIGCONT)
            async with client_of(made) as second, second.producer(deadline_s=60) as producer:
                await send(producer, 20, 40)
            assert await settled(made, 0, 1, 2) == successor
            assert (await made.status(master))["role"] == "slave"
            bodies = await everything(client, "t", 40, group="g1")
            assert sorted(bodies) == sorted(b"a%d" % number for number in range(40))
        await made.same(0, 1, 2)


async def test_switchover_and_stop_in_good_order(tmp_path: Path) -> None:
    """Asked to hand over, the master does, with a producer at work; stopped, it hands over before it goes."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        to = next(member for member in (0, 1, 2) if member != master)
        async with client_of(made) as client:
            await client.create_topic("t", queues=2)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 20)
                sending = asyncio.create_task(send(producer, 20, 60))
                await made.promote(to)
                await sending
                assert await settled(made, 0, 1, 2) == to
                sending = asyncio.create_task(send(producer, 60, 100))
                assert await asyncio.to_thread(made.members[to].stop) == 0
                await sending
            assert "lease_released" in made.members[to].output()
            bodies = await everything(client, "t", 100, group="g1")
            assert sorted(bodies) == sorted(b"a%d" % number for number in range(100))


async def test_a_member_that_is_not_in_sync_yet_leads_as_soon_as_it_is(tmp_path: Path) -> None:
    """Asked to right after its start."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        to = next(member for member in (0, 1, 2) if member != master)
        made.kill(to)
        await made.until(master, lambda facts: to not in facts["replication"]["set"])
        await asyncio.to_thread(made.start, to)
        await made.promote(to)
        assert await settled(made, 0, 1, 2) == to


async def test_a_switchover_that_another_member_forestalls_is_asked_for_again(tmp_path: Path) -> None:
    """The member that is to lead is frozen when the lease is handed to it, so another one takes it."""
    with elected(tmp_path) as (made, etcd):
        master = await start(made, 0, 1, 2)
        to, third = sorted({0, 1, 2} - {master})
        connection = await made.connect(to)
        store = Etcd(EtcdAccess((parse_endpoint(etcd.addresses),)), call_s=LIMIT_S)
        keys = Keys("kourou", GROUP)
        try:
            made.freeze(master)
            promoting = asyncio.create_task(connection.ask_json(Code.PROMOTE, {}, timeout_s=LIMIT_S))
            async with asyncio.timeout(LIMIT_S):
                while not await has(store, keys.op):
                    await asyncio.sleep(0.01)
            made.freeze(to)
            made.thaw(master)
            await made.until(third, lambda facts: facts["role"] == "master")
            made.thaw(to)
            await promoting
        finally:
            connection.close()
            await store.close()
        assert await settled(made, 0, 1, 2) == to
        assert (await made.status(to))["failover"]["epoch"] >= 3


async def test_an_etcd_outage_does_not_stop_the_group(tmp_path: Path) -> None:
    """etcd is frozen for longer than a lease: the other members pledge, and the master goes on."""
    with elected(tmp_path) as (made, etcd):
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 10)
                etcd.members[0].signal(signal.SIGSTOP)
                try:
                    await made.until(master, lambda facts: facts["failover"]["etcd_silent_ms"] > 4_000)
                    await send(producer, 10, 20)
                    facts = await made.status(master)
                    assert facts["failover"]["epoch"] == 1
                    assert facts["role"] == "master"
                finally:
                    etcd.members[0].signal(signal.SIGCONT)
                await made.until(master, lambda facts: facts["failover"]["etcd_silent_ms"] < 1_000)
                await send(producer, 20, 30)
        assert (await made.status(master))["failover"]["epoch"] == 1


async def test_a_wiped_disk_begins_empty(tmp_path: Path) -> None:
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        other = next(member for member in (0, 1, 2) if member != master)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 20)
                made.kill(other)
                made.wipe(other)
                await asyncio.to_thread(made.start, other)
                await settled(made, 0, 1, 2)
                await send(producer, 20, 30)
        await made.same(0, 1, 2)


async def test_lost_etcd_data_stops_what_has_data(tmp_path: Path) -> None:
    """A member with a log and an etcd that knows nothing: it does not begin a second history by itself."""
    with elected(tmp_path) as (made, first):
        await start(made, 0, 1)
        for member in (0, 1):
            made.kill(member)
        with EtcdCluster(tmp_path / "other") as other:
            made.options = tuple(other.addresses if option == first.addresses else option for option in made.options)
            process = await asyncio.to_thread(made.start, 0)
            line = await asyncio.to_thread(process.wait_for, "election_halted")
            assert "this log is not empty" in line
            assert await asyncio.to_thread(process.process.wait, 30) == 1
            process.kill()  # its output is closed
            await asyncio.to_thread(made.start, 0, "--failover-init")
            await asyncio.to_thread(made.start, 1)
            await settled(made, 0, 1)
