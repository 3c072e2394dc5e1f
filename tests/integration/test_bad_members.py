"""Who must not be believed in a broker group: strangers, messages that are recorded or made up, two masters by mistake."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kourou.core import wire
from kourou.core.errors import BadRequest, KourouError, LimitExceeded, ReplicaRefused
from kourou.core.wire import Code
from kourou.transport.connection import Connection
from tests.integration.etcd import needs_etcd
from tests.integration.node import Process
from tests.integration.test_failover import elected, settled, start
from tests.integration.test_replication import ALL, GROUP, LIMIT_S, Group, address_of, client_of, group, pair, stored

U32 = (1 << 32) - 1
CLUSTER = "kourou"


class Forger:
    """Says on the data plane what it likes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.ended = asyncio.Event()
        connection.on_close(lambda gone: self.ended.set())

    async def hello(self, **changes: Any) -> dict[str, Any]:
        """As replica 7 with an empty disk, but for the changes."""
        value = {
            "proto": 1, "cluster": CLUSTER, "group": GROUP, "replica": 7, "storage": "forged", "session": 70, "epoch": 0,
            "history": [], "start": 0, "end": 0, "flushed": 0, "confirm": 0, "learner": False, "address": None, **changes,
        }  # fmt: skip
        return await self.connection.ask_json(Code.REPLICA_HELLO, value)

    async def ready(self, session: int, end: int) -> None:
        await self.connection.ask_json(Code.REPLICA_READY, {"session": session, "end": end, "flushed": end})

    def ack(self, session: int, epoch: int, appended: int, flushed: int) -> None:
        header = wire.REPLICA_ACK_HEAD.pack(session, epoch, 0, appended, flushed)
        self.connection.push(Code.REPLICA_ACK, header=header)

    async def cut_off(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self.ended.wait()


@asynccontextmanager
async def forger(made: Group, member: int) -> AsyncIterator[Forger]:
    connection = await made.connect(member)
    try:
        yield Forger(connection)
    finally:
        connection.close()


async def unharmed(made: Group, before: dict[str, Any]) -> None:
    """The master is the same, in the same term, with the same slaves, and what is confirmed has not moved."""
    now = await made.status(0)
    assert (now["role"], now["epoch"]) == ("master", before["epoch"])
    assert now["replication"]["set"] == before["replication"]["set"] == [0, 1]
    assert now["log"]["confirmed"] == before["log"]["confirmed"]


async def test_forged_hellos(tmp_path: Path) -> None:
    """Other groups and clusters, histories that can't be, epochs that can't be: refused with the reason, nothing changes."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        await made.same(0, 1)
        before = await made.status(0)
        identity = (made.data(1) / "identity.json").read_text()
        storage = identity.partition('"storage_uuid": "')[2].partition('"')[0]
        assert storage
        refused: list[tuple[dict[str, Any], type[KourouError], str]] = [
            ({"cluster": "other", "epoch": 999_000}, ReplicaRefused, "this is cluster"),
            ({"group": "other", "epoch": 999_000}, ReplicaRefused, "this is broker group"),
            ({"replica": 0, "epoch": 999_000}, ReplicaRefused, "master's own"),
            ({"replica": 1, "epoch": 999_000}, ReplicaRefused, "taken by another slave"),
            ({"epoch": U32}, ReplicaRefused, "can't be"),
            ({"epoch": U32 + 1}, BadRequest, "epoch"),
            ({"history": [[5, 0], [4, 10]], "end": 20}, ReplicaRefused, "does not rise"),
            ({"history": [[1, 10], [2, 10]], "end": 20}, ReplicaRefused, "does not rise"),
            ({"history": [[77, 5]], "end": 20}, ReplicaRefused, "shares no epoch"),
            ({"start": 30, "end": 20}, ReplicaRefused, "does not rise"),
            ({"history": [[-1, 0]], "end": 20}, BadRequest, "pairs of numbers"),
            ({"history": [[1, 1 << 64]], "end": 20}, BadRequest, "pairs of numbers"),
            ({"history": [[1]], "end": 20}, BadRequest, "pairs of numbers"),
            ({"history": {"1": 0}}, BadRequest, "list"),
            ({"history": [[1, 0]] * 100_001}, BadRequest, "100000 pairs"),
            ({"history": [[1, 0]] * 1_000_000}, LimitExceeded, "bytes of JSON"),
            ({"proto": 9}, BadRequest, "proto"),
            ({"session": -1}, BadRequest, "session"),
            ({"storage": None}, BadRequest, "storage"),
        ]
        async with forger(made, 0) as one:
            for number, (changes, kind, text) in enumerate(refused):
                with pytest.raises(kind, match=text):
                    await one.hello(**{"session": 100 + number, **changes})
                await unharmed(made, before)
            with pytest.raises(KourouError):
                await one.ready(100, 0)
        await unharmed(made, before)
        output = made.members[0].output()
        assert "stepping_down" not in output
        assert "slave_not_welcomed" in output


async def test_forged_acknowledgements(tmp_path: Path) -> None:
    """A false slave acknowledges what it was never sent, or under another's session: it is cut off, and C stands still."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        await made.same(0, 1)
        before = await made.status(0)
        epoch, end = before["epoch"], before["log"]["end"]
        sessions = itertools.count(1_000)
        lies: list[Callable[[Forger, int], None]] = [
            lambda one, session: one.ack(session, epoch, 1 << 62, 1 << 62),
            lambda one, session: one.ack(session, epoch, end + 1, 0),
            lambda one, session: one.ack(session, epoch, 0, 1),
            lambda one, session: one.ack(session, epoch - 1, 0, 0),
            lambda one, session: one.ack(session, U32, 0, 0),
        ]
        for lie in lies:
            session = next(sessions)
            async with forger(made, 0) as one:
                welcome = await one.hello(session=session, learner=True)
                assert welcome["truncate_to"] == 0
                lie(one, session)  # before READY: nothing counts
                await unharmed(made, before)
                if one.ended.is_set():
                    continue
                await one.ready(session, 0)
                lie(one, session)
                await one.cut_off()
            await unharmed(made, before)
        async with forger(made, 0) as one:
            one.ack(next(sessions), epoch, end, end)  # without HELLO
            with pytest.raises(KourouError):
                await one.ready(next(sessions), 0)
        await unharmed(made, before)
        assert "stepping_down" not in made.members[0].output()


async def test_a_recorded_session_is_worth_nothing(tmp_path: Path) -> None:
    """HELLO, READY and ACK of a session that has ended, sent again word for word on another connection: refused; C does not
    move by them, be it in the same term or the next."""
    with group(tmp_path, "--ack", "all", "--min-isr", "1", "--lag-max-s", "1") as made:
        await asyncio.to_thread(made.start, 0)
        facts = await made.status(0)
        epoch = facts["epoch"]
        async with forger(made, 0) as one:
            await one.hello(session=5)
            await one.ready(5, 0)
            one.ack(5, epoch, facts["log"]["end"], facts["log"]["end"])
            await made.until(0, lambda facts: facts["replication"]["set"] == [0, 7])
        await made.until(0, lambda facts: facts["replication"]["set"] == [0])
        async with forger(made, 0) as one:
            with pytest.raises(ReplicaRefused, match="recorded and sent again"):
                await one.hello(session=5)
            with pytest.raises(ReplicaRefused):
                await one.ready(5, 0)
            one.ack(5, epoch, facts["log"]["end"], facts["log"]["end"])
            now = await made.status(0)
            assert (now["epoch"], now["replication"]["set"], now["replication"]["slaves"]) == (epoch, [0], [])
        made.kill(0)
        await asyncio.to_thread(made.start, 0)
        facts = await made.status(0)
        assert facts["epoch"] == epoch + 1
        async with forger(made, 0) as one:  # the new process does not know the number; the ACK's epoch is over
            await one.hello(session=5)
            await one.ready(5, 0)
            one.ack(5, epoch, 10, 10)
            await one.cut_off()
        assert (await made.status(0))["replication"]["set"] == [0]


async def test_a_slave_s_name_is_taken_in_vain(tmp_path: Path) -> None:
    """Somebody says HELLO as slave 1, id and disk and all: it takes the connection away; the real one takes it back, and
    nothing is lost."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        identity = (made.data(1) / "identity.json").read_text()
        storage = identity.partition('"storage_uuid": "')[2].partition('"')[0]
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"before")
                async with forger(made, 0) as one:
                    await one.hello(replica=1, storage=storage, session=9)
                    await one.cut_off()
                await made.in_sync(0, 1)
                await producer.send("t", b"after")
        await made.same(0, 1)
        for member in (0, 1):
            assert await stored(made, member, "t", 1) == [b"before", b"after"]


def second(made: Group, folder: Path, broker_id: int, *options: str) -> Process:
    """Another process with the name and id of a member, and a data directory of its own."""
    return Process(
        "broker", "--name", GROUP, "--broker-id", str(broker_id), "--data", str(folder),
        "--nameserver", address_of(made.nameserver, "gRPC").removeprefix("http://"),
        "--port", "0", "--grpc-port", "0", "--http-port", "0", *made.options, *options,
    )  # fmt: skip


async def ends(process: Process, text: str) -> None:
    """It says why, and ends with a failure."""
    await asyncio.to_thread(process.wait_for, text)
    assert await asyncio.to_thread(process.process.wait, LIMIT_S) == 1


async def test_two_masters_by_mistake(tmp_path: Path) -> None:
    """Two of ``--broker-id 0``: the one that comes second says that the id is taken and ends, be its directory empty or of a
    higher epoch; clients never hear of it. When the first is gone, it may start."""
    with group(tmp_path, "--ack", "local") as made:
        for _ in range(3):  # its epoch is 3
            await asyncio.to_thread(made.start, 5)
            made.kill(5)
        (tmp_path / "member-5" / "identity.json").write_text(
            (tmp_path / "member-5" / "identity.json").read_text().replace('"broker_id": 5', '"broker_id": 0')
        )
        await asyncio.to_thread(made.start, 0)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"1")
                for folder in (tmp_path / "empty", tmp_path / "member-5"):
                    intruder = second(made, folder, 0)
                    try:
                        await ends(intruder, "another process is broker group-a 0")
                    finally:
                        intruder.kill()
                    assert "leading" not in intruder.output()
                    await producer.send("t", b"2")
        assert await stored(made, 0, "t", 1) == [b"1", b"2", b"2"]
        assert (await made.status(0))["epoch"] == 1


async def test_two_masters_at_once(tmp_path: Path) -> None:
    """Both start while no nameserver answers, and lead; when it is back the one that registers second finds the other, and
    ends. Clients are sent to one of them alone."""
    with group(tmp_path, "--ack", "local") as made:
        made.nameserver.process.send_signal(signal.SIGSTOP)
        pair_of = [made.start_only(0), second(made, tmp_path / "second", 0)]
        try:
            for process in pair_of:
                await asyncio.to_thread(process.wait_for, "ready", whole=True)
            made.nameserver.process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(LIMIT_S):
                while all(process.process.poll() is None for process in pair_of):
                    await asyncio.sleep(0.02)
            ended, stays = sorted(pair_of, key=lambda process: process.process.poll() is None)
            assert "another process is broker group-a 0" in ended.output()
            assert ended.process.wait() == 1
            assert stays.process.poll() is None
            made.members[0] = stays
            async with client_of(made) as client:
                await client.create_topic("t", queues=1)
                async with client.producer(deadline_s=60) as producer:
                    await producer.send("t", b"1")
            assert await stored(made, 0, "t", 1) == [b"1"]
        finally:
            made.nameserver.process.send_signal(signal.SIGCONT)
            for process in pair_of:
                process.kill()


async def test_two_slaves_of_one_id(tmp_path: Path) -> None:
    """The second one is refused by nameserver and master, says so and ends; the first one follows on."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        intruder = second(made, tmp_path / "second", 1)
        try:
            await ends(intruder, "another process is broker group-a 1")
        finally:
            intruder.kill()
        await made.in_sync(0, 1)


@needs_etcd
async def test_two_processes_of_one_id_in_a_group_that_elects(tmp_path: Path) -> None:
    """etcd knows one process of an id, the last: the former stops and says why, the new one is a member when it has all."""
    with elected(tmp_path) as (made, _):
        await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"1")
                master = await settled(made, 0, 1, 2)
                for twin in (next(member for member in (0, 1, 2) if member != master), master):
                    former = made.members[twin]
                    made.members[twin] = second(made, tmp_path / f"second-{twin}", twin)
                    try:
                        await ends(former, f"another process has registered as broker {twin}")
                    finally:
                        former.kill()
                    await asyncio.to_thread(made.members[twin].wait_for, "ready", whole=True)
                    await producer.send("t", b"2")
                    await settled(made, 0, 1, 2)
            await made.same(0, 1, 2)
            assert await stored(made, 0, "t", 1) == [b"1", b"2", b"2"]


async def test_a_made_up_epoch_ends_a_term_and_no_more(tmp_path: Path) -> None:
    """Static: whoever is believed to be a member and knows a higher epoch ends the term. Nothing is lost; who is promoted
    then begins above everything that any member has heard of."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"1")
                await made.same(0, 1)
                async with forger(made, 0) as one:
                    with pytest.raises(KourouError):
                        await one.hello(epoch=5_001)
                await made.until(0, lambda facts: facts["role"] == "slave")
                await registered_with(made, 0, 5_001)
                await made.promote(1)
                await made.in_sync(1, 0)
                await producer.send("t", b"2")
        assert (await made.same(0, 1))["epoch"] > 5_001
        for member in (0, 1):
            assert await stored(made, member, "t", 1) == [b"1", b"2"]


async def registered_with(made: Group, member: int, epoch: int) -> None:
    """The nameserver has heard that a member knows of an epoch."""
    async with client_of(made) as client, asyncio.timeout(LIMIT_S):
        while True:
            brokers = (await client.cluster())["brokers"]
            if any((broker["broker_id"], broker["epoch"]) == (member, epoch) for broker in brokers):
                return
            await asyncio.sleep(0.02)


@needs_etcd
async def test_a_made_up_epoch_does_not_depose_an_elected_master_for_good(tmp_path: Path) -> None:
    """etcd knows of no such epoch: the group is led again at once, without anybody's help."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"1")
                for number, epoch in enumerate((U32, 900_000, 5)):
                    async with forger(made, master) as one:
                        with pytest.raises(KourouError):
                            await one.hello(epoch=epoch, session=number)
                    master = await settled(made, 0, 1, 2)
                    await producer.send("t", b"2")
        assert (await made.same(0, 1, 2))["epoch"] <= 5
        assert await stored(made, master, "t", 1) == [b"1", b"2", b"2", b"2"]
