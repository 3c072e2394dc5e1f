"""Disks of a broker group that are not what they were: files deleted, put back from a backup, logs that are too long."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.integration.etcd import needs_etcd
from tests.integration.test_failover import elected, send, settled, start
from tests.integration.test_replication import ALL, GROUP, LIMIT_S, client_of, group, pair, stored


@pytest.mark.parametrize("member", [0, 1])
async def test_a_deleted_epochs_file_is_made_anew(tmp_path: Path, member: int) -> None:
    """It is read from the log again, so the histories are the same and nothing has to be copied."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        for _ in range(2):
            await made.promote(1)
            await made.in_sync(1, 0)
            await made.promote(0)
            await made.in_sync(0, 1)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"1")
                end = (await made.same(0, 1))["offset"]
                made.kill(member)
                before = (made.data(member) / "epochs").read_bytes()
                (made.data(member) / "epochs").unlink()
                await asyncio.to_thread(made.start, member)
                assert f'"log_end": {end}' in next(line for line in made.members[member].lines if "store_opened" in line)
                await made.in_sync(0, 1)
                assert (made.data(member) / "epochs").read_bytes().startswith(before[:8])
                await producer.send("t", b"2")
        await made.same(0, 1)
        assert not any(
            "log_is_cut" in process.output() or "copy_begun" in process.output() for process in made.members.values()
        )
        for one in (0, 1):
            assert await stored(made, one, "t", 1) == [b"1", b"2"]


async def test_a_slave_that_knows_more_than_was_promised_is_not_cut_below(tmp_path: Path) -> None:
    """Static, ``ack = all``: the master's disk is put back from an old backup. It does not lead by itself; promoted against
    all advice it does, and the slave does not give up what was acknowledged: it says so and waits. Promoted then, it leads,
    and the other one follows."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"1")
                await made.same(0, 1)
                made.kill(0)
                shutil.copytree(made.data(0), tmp_path / "backup")
                await asyncio.to_thread(made.start, 0)
                await made.in_sync(0, 1)
                await producer.send("t", b"2")
                end = (await made.same(0, 1))["offset"]
                await made.until(1, lambda facts: facts["replication"]["promised"] == end)
                made.kill(0)
                made.wipe(0)
                shutil.copytree(tmp_path / "backup", made.data(0))
                await asyncio.to_thread(made.start, 0)
                assert "does_not_lead" in made.members[0].output()
                error = await asyncio.to_thread(made.shell.fails, "admin", "promote", GROUP, "--id", "0")
                assert "has more" in error or "not known to have everything" in error
                await made.promote(0, "--accept-loss")
                facts = await made.until(1, lambda facts: facts["replication"]["halted"] is not None)
                assert "lacks acknowledged messages" in facts["replication"]["halted"]
                assert facts["log"]["end"] == end
                assert "replication_halted" in made.members[1].output()
                assert await stored(made, 1, "t", 1) == [b"1", b"2"]
                await made.promote(1)
                await made.in_sync(1, 0)
                await producer.send("t", b"3")
        await made.same(0, 1)
        for one in (0, 1):
            assert await stored(made, one, "t", 1) == [b"1", b"2", b"3"]


@needs_etcd
async def test_an_old_disk_put_back_from_a_backup(tmp_path: Path) -> None:
    """etcd knows a process that the disk does not: the member is in no set until it has caught up, also when it led last."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 20)
                made.kill(master)
                shutil.copytree(made.data(master), tmp_path / "backup")
                await asyncio.to_thread(made.start, master)
                await settled(made, 0, 1, 2)
                await made.promote(master)
                await settled(made, 0, 1, 2)
                await send(producer, 20, 40)
                for process in made.members.values():
                    process.kill()
                made.wipe(master)
                shutil.copytree(tmp_path / "backup", made.data(master))
                old = await asyncio.to_thread(made.start, master)
                await asyncio.to_thread(old.wait_for, '"event": "registered"')
                for other in {0, 1, 2} - {master}:
                    await asyncio.to_thread(made.start, other)
                successor = await settled(made, 0, 1, 2)
                assert successor != master
                await send(producer, 40, 50)
        await made.same(0, 1, 2)
        assert "campaign" not in old.output()
        for one in (0, 1, 2):
            assert sorted(await stored(made, one, "t", 1)) == sorted(b"a%d" % number for number in range(50))


@needs_etcd
async def test_a_former_master_with_a_longer_log(tmp_path: Path) -> None:
    """The others are frozen while it stores more than the network holds, which nobody acknowledges, and it is killed:
    replaced, it cuts that tail when it comes back, and what was acknowledged is there."""
    with elected(tmp_path, "--lag-max-s", "60") as (made, _):
        master = await start(made, 0, 1, 2)
        others = {0, 1, 2} - {master}
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 20)
                await made.same(0, 1, 2)
                made.freeze(*others)
                async with client_of(made) as second, second.producer(deadline_s=1) as hasty:
                    failures = await asyncio.gather(
                        *(hasty.send("t", bytes(1 << 20)) for _ in range(16)), return_exceptions=True
                    )
                assert all(isinstance(failure, Exception) for failure in failures)
                made.kill(master)
                made.thaw(*others)
                await settled(made, *others)
                await send(producer, 20, 30)
                await asyncio.to_thread(made.start, master)
                await settled(made, 0, 1, 2)
        await made.same(0, 1, 2)
        assert "log_is_cut" in made.members[master].output()
        found = await stored(made, master, "t", 1)
        assert [body for body in found if body.startswith(b"a")] == [b"a%d" % number for number in range(30)]
        async with asyncio.timeout(LIMIT_S):
            assert found == await stored(made, min(others), "t", 1)
