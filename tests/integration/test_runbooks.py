"""docs/runbooks.md, carried out word by word by real processes: what is done there ends as it says, and nothing is lost."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kourou.core.errors import KourouError, NotEnoughReplicas
from tests.integration.etcd import EtcdCluster, needs_etcd
from tests.integration.runbook import BLOCKS, Runbook
from tests.integration.test_failover import elected, settled, start
from tests.integration.test_replication import ALL, LIMIT_S, Group, client_of, group, pair, stored

BY_HAND = {  # not carried out by a test of this file, and why
    "setting": "variables",
    "look": "what follows shows it",
    "restart": "tests/integration/test_failover.py",
    "etcd": "tests/integration/test_failover.py: an etcd outage",
    "full": "tests/integration/test_faults.py",
    "rot": "tests/integration/test_native_damage.py, test_log_rot.py, test_cli.py",
}
needs_etcdctl = pytest.mark.skipif(
    shutil.which("etcdctl") is None, reason="NO ETCDCTL: two runbooks were not carried out; apt install etcd-client"
)


class Traffic:
    """A producer at work: what was acknowledged, and what failed."""

    def __init__(self, producer: Any) -> None:
        self.acknowledged: list[bytes] = []
        self.failures: list[Exception] = []
        self._producer = producer
        self._stop = asyncio.Event()

    async def run(self) -> None:
        number = 0
        while not self._stop.is_set():
            body = b"%06d" % number
            try:
                await self._producer.send("t", body)
                self.acknowledged.append(body)
            except KourouError as failure:
                self.failures.append(failure)
            number += 1
            await asyncio.sleep(0.005)

    async def more(self, count: int = 20) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(LIMIT_S):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()


@asynccontextmanager
async def traffic(made: Group, *members: int) -> AsyncIterator[Traffic]:
    """At its end everything that was acknowledged is on each of these members, in order and once."""
    async with client_of(made) as client:
        await client.create_topic("t", queues=1)
        async with client.producer(deadline_s=60) as producer:
            flow = Traffic(producer)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(flow.run())
                try:
                    await flow.more()
                    yield flow
                    await flow.more()
                finally:
                    flow.stop()
    await made.same(*members)
    for member in members:
        found = await stored(made, member, "t", 1)
        assert found == flow.acknowledged, (member, len(found), len(flow.acknowledged))
    assert flow.failures == []


def test_every_command_is_known() -> None:
    done = Path(__file__).read_text()
    for block in BLOCKS:
        assert block in BY_HAND or f'"{block}"' in done, f"nobody carries out {block}"
    assert set(BY_HAND) <= set(BLOCKS)


async def test_a_slave_is_promoted(tmp_path: Path) -> None:
    with group(tmp_path, *ALL) as made:
        await pair(made)
        book = Runbook(made)
        async with traffic(made, 0, 1) as flow:
            made.kill(0)
            await promoted(book)
            await book.follow("promote-return")
            await flow.more()
        assert (await made.status(0))["role"] == "slave"


async def promoted(book: Runbook) -> None:
    """The block's first line would wait for a group in good order: it is there to look."""
    line = BLOCKS["promote"][1]
    assert BLOCKS["promote"][0] == "kourou status"
    ended = await asyncio.to_thread(book.perform, line)
    assert ended is not None


@needs_etcd
async def test_etcd_s_data_is_lost(tmp_path: Path) -> None:
    """All of it, under running brokers: they stop and say why. Nothing that was acknowledged is lost by the runbook."""
    with elected(tmp_path) as (made, etcd):
        await start(made, 0, 1, 2)
        book = Runbook(made, etcd)
        async with traffic(made, 0, 1, 2):
            forget(etcd, tmp_path)
            for process in made.members.values():
                await asyncio.to_thread(process.wait_for, "election_halted", timeout_s=LIMIT_S)
                assert await asyncio.to_thread(process.process.wait, LIMIT_S) == 1
            made.members[0].kill()
            refused = await asyncio.to_thread(made.start_only, 0)
            assert "this log is not empty" in await asyncio.to_thread(refused.wait_for, "election_halted")
            await founded_anew(book)


async def founded_anew(book: Runbook) -> None:
    """Compare, start the one that has most with --failover-init, then the others."""
    await asyncio.gather(*(asyncio.to_thread(process.process.wait, LIMIT_S) for process in book.made.members.values()))
    ended = await book.follow("etcd-lost-compare")
    found = []
    for one in ended:
        name, number, epoch, end, *_ = one.lines[-1].split()
        assert name == "group-a"
        found.append((int(epoch), int(end.replace(",", "")), int(number)))
    *rest, (_, _, best) = sorted(found)
    book.names = {"m1": best, "m0": rest[0][2], "m2": rest[1][2]}
    await book.follow("etcd-lost-init")
    assert (await book.made.status(best))["role"] == "master"


def forget(etcd: EtcdCluster, folder: Path) -> None:
    (member,) = etcd.members
    member.kill()
    shutil.rmtree(folder / "etcd" / member.name)
    member.start()
    member.wait()


@needs_etcd
@needs_etcdctl
async def test_etcd_was_restored_from_a_backup(tmp_path: Path) -> None:
    with elected(tmp_path) as (made, etcd):
        master = await start(made, 0, 1, 2)
        book = Runbook(made, etcd)
        (member,) = etcd.members
        async with traffic(made, 0, 1, 2) as flow:
            member.signal(signal.SIGSTOP)
            shutil.copytree(tmp_path / "etcd" / member.name, tmp_path / "backup")
            member.signal(signal.SIGCONT)
            await made.promote((master + 1) % 3)
            await settled(made, 0, 1, 2)
            await flow.more()
            member.kill()
            shutil.rmtree(tmp_path / "etcd" / member.name)
            shutil.copytree(tmp_path / "backup", tmp_path / "etcd" / member.name)
            member.start()
            member.wait()
            assert await asyncio.to_thread(made.members[0].process.wait, LIMIT_S) == 1
            await book.follow("etcd-backup")
            await founded_anew(book)


@needs_etcd
async def test_two_of_three_are_lost(tmp_path: Path) -> None:
    """Refused meanwhile, read meanwhile; one comes back; then both are lost for good, and one begins with an empty disk."""
    with elected(tmp_path) as (made, etcd):
        await start(made, 0, 1, 2)
        if await settled(made, 0, 1, 2) != 2:
            await made.promote(2)
            assert await settled(made, 0, 1, 2) == 2
        book = Runbook(made, etcd)
        async with traffic(made, 0, 1, 2) as flow:
            async with client_of(made) as client:
                await client.create_group("reading", shape="stream")
            made.kill(0)
            made.kill(1)
            await refusing(made, 2)
            assert await still_read(made, 2)
            await asyncio.to_thread(made.start, 1)
            await book.follow("majority-back")
            await flow.more()
            await settled(made, 0, 1, 2)
            made.kill(0)
            made.kill(1)
            await refusing(made, 2)
            await book.follow("majority-new")
            await flow.more()
            await asyncio.to_thread(made.start, 1)
            await settled(made, 0, 1, 2)


@needs_etcd
async def test_both_that_had_everything_are_lost(tmp_path: Path) -> None:
    """The third was away for a while: it does not lead by itself. Told to, it does; the epoch is marked lossy."""
    with elected(tmp_path) as (made, etcd):
        await start(made, 0, 1, 2)
        if await settled(made, 0, 1, 2) == 2:
            await made.promote(0)
            await settled(made, 0, 1, 2)
        book = Runbook(made, etcd)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"on all")
                await made.same(0, 1, 2)
                made.kill(2)
                await producer.send("t", b"lost")
                await settled(made, 0, 1)
                for lost in (0, 1):
                    made.kill(lost)
                    made.wipe(lost)
                await asyncio.to_thread(made.start, 2)
                await made.until(2, lambda facts: facts["failover"]["lease_left_ms"] is None)
                assert (await made.status(2))["role"] == "slave"
                await book.follow("majority-loss")
                await asyncio.to_thread(made.start, 0)
                await producer.send("t", b"after")
                facts = await made.until(2, lambda facts: facts["replication"].get("set") == [0, 2])
                assert facts["failover"]["lossy_epochs"] == [facts["epoch"]]
        for member in (0, 2):
            assert await stored(made, member, "t", 1) == [b"on all", b"after"]


async def refusing(made: Group, member: int) -> None:
    """Until it is alone in its set: then sends are refused, not merely late."""
    await made.until(member, lambda facts: facts["role"] == "master" and facts["replication"]["set"] == [member])
    async with client_of(made) as client, client.producer(deadline_s=2) as hasty:
        with pytest.raises(NotEnoughReplicas):
            await hasty.send("t", b"refused")


async def still_read(made: Group, member: int) -> bool:
    """Does it still serve readers?"""
    async with (
        client_of(made) as client,
        client.consumer("t", group="reading", start="earliest") as consumer,
        asyncio.timeout(LIMIT_S),
    ):
        async for message in consumer:
            return bool(message.body)
    return False


@needs_etcd
@pytest.mark.parametrize("flush", ["async", "sync"])
async def test_the_whole_site_was_without_power(tmp_path: Path, flush: str) -> None:
    """All machines have booted since: with flush = async all are cold, and it is said; with sync nobody is."""
    with elected(tmp_path, "--flush", flush) as (made, etcd):
        await start(made, 0, 1, 2)
        book = Runbook(made, etcd)
        async with traffic(made, 0, 1, 2) as flow:
            await made.until(0, lambda facts: facts["log"]["end"] > 0)
            for member, process in made.members.items():
                process.kill()
                booted(made.data(member))
            await book.follow("cold")
            await flow.more()
        facts = await made.status(0)
        assert bool(facts["failover"]["lossy_epochs"]) == (flush == "async")
        for process in made.members.values():
            assert ("started_cold" in process.output()) == (flush == "async")


def booted(data: Path) -> None:
    """The machine has booted since the last process ran."""
    text = (data / "incarnations").read_text()
    before, _, rest = text.partition('"boot": "')
    (data / "incarnations").write_text(f'{before}"boot": "another{rest[rest.index(chr(34)) :]}')


async def started_under_0(made: Group) -> None:
    await start(made, 0, 1, 2)
    if await settled(made, 0, 1, 2) != 0:
        await made.promote(0)
        await settled(made, 0, 1, 2)


@needs_etcd
async def test_a_disk_is_replaced(tmp_path: Path) -> None:
    """The master's."""
    with elected(tmp_path) as (made, etcd):
        await started_under_0(made)
        book = Runbook(made, etcd)
        async with traffic(made, 0, 1, 2) as flow:
            await book.follow("disk")
            await flow.more()
            assert await settled(made, 0, 1, 2) != 0


@needs_etcd
async def test_an_upgrade_without_a_stop(tmp_path: Path) -> None:
    """With a producer at work, whose sends don't fail."""
    with elected(tmp_path) as (made, etcd):
        await started_under_0(made)
        book = Runbook(made, etcd)
        before = {member: process.process.pid for member, process in made.members.items()}
        async with traffic(made, 0, 1, 2):
            await book.follow("upgrade")
        assert all(process.process.pid != before[member] for member, process in made.members.items())
        assert await settled(made, 0, 1, 2) == 1


@needs_etcd
async def test_from_static_to_failover(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path / "etcd") as etcd, group(tmp_path) as made:
        await asyncio.gather(*(asyncio.to_thread(made.start, member) for member in (0, 1, 2)))
        await made.in_sync(0, 1, 2)
        failover = ("--failover", "etcd", "--etcd", etcd.addresses, "--ack", "all", "--min-isr", "2")
        book = Runbook(made, etcd, failover=failover)
        async with traffic(made, 0, 1, 2) as flow:
            await made.same(1, 2)
            await book.follow("to-failover")
            await flow.more()
            made.kill(0)
            await settled(made, 1, 2)
            await flow.more()
            await asyncio.to_thread(made.start, 0, *failover)
            await settled(made, 0, 1, 2)


@needs_etcd
@needs_etcdctl
async def test_a_member_is_added_and_one_removed(tmp_path: Path) -> None:
    with elected(tmp_path) as (made, etcd):
        await started_under_0(made)
        book = Runbook(made, etcd)
        async with traffic(made, 1, 2, 3) as flow:
            await book.follow("add")
            await settled(made, 0, 1, 2, 3)
            await book.follow("remove")
            assert await settled(made, 1, 2, 3) == 1
            await flow.more()
        await made.until(1, lambda facts: [one["broker_id"] for one in facts["failover"]["members"]] == [1, 2, 3])
