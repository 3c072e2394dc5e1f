"""A master whose disk has changed a byte of its log, found out when a new member is sent it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kourou.broker.store.commitlog import segment_name
from kourou.core.errors import BadRequest, ReplicaRefused
from kourou.core.wire import Code
from tests.integration.etcd import needs_etcd
from tests.integration.test_failover import elected, settled, start
from tests.integration.test_replication import ALL, Group, client_of, group, pair, stored

BODIES = [b"first", b"to be changed", b"last"]


async def fill(made: Group) -> None:
    async with client_of(made) as client:
        await client.create_topic("t", queues=1)
        async with client.producer(deadline_s=60) as producer:
            for body in BODIES:
                await producer.send("t", body)


def rot(made: Group, member: int) -> None:
    path = made.data(member) / segment_name(0)
    with path.open("r+b") as file:
        at = file.read().index(b"to be changed")
        file.seek(at)
        file.write(b"T")


@needs_etcd
async def test_an_elected_master_lets_one_lead_that_has_it_whole(tmp_path: Path) -> None:
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1)
        await fill(made)
        await made.same(0, 1)
        rot(made, master)
        await asyncio.to_thread(made.start, 2)
        assert await settled(made, 1 - master, 2) == 1 - master
        assert await stored(made, 2, "t", 1) == BODIES
        assert (await made.status(master))["role"] == "slave"
    assert '"event": "log_damaged"' in made.members[master].output()


@needs_etcd
async def test_a_mended_master_with_one_segment_leads_again(tmp_path: Path) -> None:
    """What is not sealed is read, too, also where nothing is read for its own sake. Until then it is not asked to lead."""
    with elected(tmp_path, "--scrub-hours", "0") as (made, _):
        master = await start(made, 0, 1)
        await fill(made)
        await made.same(0, 1)
        rot(made, master)
        await asyncio.to_thread(made.start, 2)
        await made.until(1 - master, lambda facts: facts["role"] == "master")
        await made.until(master, lambda facts: facts["role"] == "slave" and facts["failover"]["barred"] is None)
        await settled(made, 0, 1, 2)
        await made.promote(master)
        assert await settled(made, 0, 1, 2) == master
        assert await stored(made, master, "t", 1) == BODIES


@needs_etcd
async def test_a_mended_master_leads_again(tmp_path: Path) -> None:
    """Once it has fetched what was damaged and has read all of its log."""
    with elected(tmp_path, "--segment-bytes", "64KiB") as (made, _):
        master = await start(made, 0, 1)
        await fill_segments(made)
        before = await made.same(0, 1)
        log = made.data(master) / "log"
        await made.until(master, lambda _: len(list(log.glob("*.idx"))) > 2)
        first = min(log.glob("*.seg"))
        whole = first.read_bytes()
        change(first, 20_000)
        await asyncio.to_thread(made.start, 2)  # a copy would be damaged
        assert await settled(made, 1 - master, 2) == 1 - master
        await made.until(master, lambda facts: facts["role"] == "slave" and facts["failover"]["barred"] is None)
        assert first.read_bytes() == whole
        await settled(made, 0, 1, 2)
        await made.promote(master)
        assert await settled(made, 0, 1, 2) == master
        assert (await made.same(0, 1, 2))["digest"]["topics"] == before["digest"]["topics"]
        assert len(await stored(made, 2, "t", 1)) == 40
    output = made.members[master].output()
    assert output.index('"event": "log_damaged"') < output.index('"event": "log_mended"')
    assert output.index('"event": "log_mended"') < output.index('"event": "log_whole_again"')


async def fill_segments(made: Group) -> None:
    async with client_of(made) as client:
        await client.create_topic("t", queues=1)
        async with client.producer(deadline_s=60) as producer:
            for number in range(40):
                await producer.send("t", b"%03d" % number * 3_000)


async def test_a_slave_mends_its_log_from_its_master(tmp_path: Path) -> None:
    """And makes its state anew, which lacked what was damaged; till then it is nobody to promote."""
    with group(tmp_path, *ALL, "--segment-bytes", "64KiB") as made:
        await pair(made)
        await fill_segments(made)
        before = await made.same(0, 1)
        log = made.data(1) / "log"
        await made.until(1, lambda _: len(list(log.glob("*.idx"))) > 2)  # sealed: what is damaged there is no torn tail
        for member in (0, 1):
            made.kill(member)
        first, second = sorted(log.glob("*.seg"))[:2]
        whole = {path: path.read_bytes() for path in (first, second)}
        change(first, 400)  # the topic
        change(first, 20_000)
        change(second, len(whole[second]) - 100)
        slave = await asyncio.to_thread(made.start, 1)
        assert "the log of this slave is damaged" in await refusal(made, 1)
        await asyncio.to_thread(made.start, 0)
        await made.in_sync(0, 1)
        await made.until(1, lambda facts: facts["log"]["damaged"] == [] and facts["replication"]["damaged"] is None)
        assert slave.output().count('"event": "log_mended"') == 3
        assert {path: path.read_bytes() for path in whole} == whole
        assert (await made.same(0, 1))["digest"]["topics"] == before["digest"]["topics"]
        await made.in_sync(0, 1)
        await made.promote(1)
        await made.in_sync(1, 0)
        assert len(await stored(made, 1, "t", 1)) == 40


async def refusal(made: Group, member: int) -> str:
    with pytest.raises(AssertionError) as caught:
        await made.promote(member)
    return str(caught.value)


def change(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


async def test_a_static_master_says_so_and_goes_on(tmp_path: Path) -> None:
    with group(tmp_path, *ALL) as made:
        await pair(made)
        await fill(made)
        await made.same(0, 1)
        rot(made, 0)
        await asyncio.to_thread(made.start, 2)
        facts = await made.until(0, lambda facts: facts["replication"]["damaged"] is not None)
        assert facts["role"] == "master"
        await made.promote(1)
        await made.in_sync(1, 2)
        assert await stored(made, 2, "t", 1) == BODIES
    assert '"whole_at": [1]' in made.members[0].output()


async def test_nobody_without_a_session_is_lent_frames(tmp_path: Path) -> None:
    """A master's log is for slaves that have had it; what is asked wrongly is refused by name, and the master goes on."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        await fill(made)
        end = (await made.status(0))["log"]["end"]
        for asked, refused in (
            ({}, BadRequest),
            ({"session": 1, "start": 0, "end": end}, ReplicaRefused),
            ({"session": 1, "start": end, "end": 0}, ReplicaRefused),
            ({"session": 1, "start": "0", "end": 1 << 70}, BadRequest),
        ):
            with pytest.raises(refused):
                await made.ask(0, Code.REPLICA_LOG, asked)
        await made.in_sync(0, 1)
