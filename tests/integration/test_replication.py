"""A broker group of real processes: a nameserver, a master, slaves; masters are killed, slaves promoted, disks wiped."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kourou.client import Client
from kourou.core import wire
from kourou.core.errors import KourouError, NotEnoughReplicas, NotMaster
from kourou.core.frame import PREFIX_SIZE, iterate_frames, parse_sealed, record_bounds
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code
from kourou.transport.connection import Connection, connect
from tests.integration.command import Shell
from tests.integration.node import Process

LIMIT_S = 60.0
GROUP = "group-a"


def address_of(process: Process, name: str) -> str:
    return next(line for line in process.lines if line.startswith(name)).rsplit(None, 1)[-1]


class Group:
    """A nameserver and the members of one broker group."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.members: dict[int, Process] = {}
        self.env: dict[str, str] = {}  # of members that are started from now on
        self.nameserver = Process("nameserver", "--port", "0", "--grpc-port", "0", "--http-port", "0")
        self.nameserver.wait_for("ready", whole=True)
        self.server = address_of(self.nameserver, "data plane")
        self.shell = Shell(self.server, folder)

    def data(self, broker_id: int) -> Path:
        return self.folder / f"member-{broker_id}"

    def start(self, broker_id: int, *options: str) -> Process:
        process = self.start_only(broker_id, *options)
        process.wait_for("ready", whole=True)
        return process

    def start_only(self, broker_id: int, *options: str) -> Process:
        process = Process(
            "broker", "--name", GROUP, "--broker-id", str(broker_id), "--data", str(self.data(broker_id)),
            "--nameserver", address_of(self.nameserver, "gRPC").removeprefix("http://"),
            "--port", "0", "--grpc-port", "0", "--http-port", "0", *self.options, *options, env=self.env,
        )  # fmt: skip
        self.members[broker_id] = process
        return process

    def address(self, broker_id: int) -> str:
        return address_of(self.members[broker_id], "data plane")

    def kill(self, broker_id: int) -> None:
        self.members[broker_id].kill()

    def wipe(self, broker_id: int) -> None:
        shutil.rmtree(self.data(broker_id))

    def freeze(self, *members: int) -> None:
        for member in members:
            self.members[member].process.send_signal(signal.SIGSTOP)

    def thaw(self, *members: int) -> None:
        for member in members:
            self.members[member].process.send_signal(signal.SIGCONT)

    async def ask(self, broker_id: int, code: Code, value: object) -> dict[str, Any]:
        connection = await self.connect(broker_id)
        try:
            return await connection.ask_json(code, value)
        finally:
            connection.close()

    async def connect(self, broker_id: int) -> Connection:
        return await connect(parse_endpoint(self.address(broker_id)), client_id="test", handlers={})

    async def status(self, broker_id: int) -> dict[str, Any]:
        return await self.ask(broker_id, Code.STATUS, {})

    async def until(self, broker_id: int, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask a member for its status until a condition holds."""
        facts: dict[str, Any] = {}
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    try:
                        facts = await self.status(broker_id)
                        if condition(facts):
                            return facts
                    except KourouError:
                        pass
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"member {broker_id}: {facts}\n{self.members[broker_id].output()}") from None

    async def in_sync(self, master: int, *members: int) -> dict[str, Any]:
        """Wait until the master has them in its set, and each of them knows it."""

        def has_them(facts: dict[str, Any]) -> bool:
            if facts["role"] != "master" or not set(facts["replication"]["set"]) >= {master, *members}:
                return False
            return {one["broker_id"] for one in facts["replication"]["slaves"] if one["streaming"]} >= set(members)

        facts = await self.until(master, has_them)
        for member in members:
            await self.until(member, lambda facts: bool(facts["replication"].get("in_sync")))
        return facts

    async def promote(self, broker_id: int, *options: str) -> dict[str, Any]:
        answer: dict[str, Any] = await asyncio.to_thread(
            self.shell.json, "admin", "promote", GROUP, "--id", str(broker_id), *options
        )
        return answer

    async def same(self, *members: int) -> dict[str, Any]:
        """Wait until members are at one offset; their state must be the same."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                found = [await self.ask(member, Code.DIGEST, {}) for member in members]
                if len({one["offset"] for one in found}) == 1:
                    for one in found[1:]:
                        assert one["digest"] == found[0]["digest"]
                    return found[0]
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        for process in (*self.members.values(), self.nameserver):
            process.kill()


@contextmanager
def group(folder: Path, *options: str) -> Iterator[Group]:
    made = Group(folder, *options)
    try:
        yield made
    finally:
        made.stop()


@asynccontextmanager
async def client_of(made: Group) -> AsyncIterator[Client]:
    async with Client(made.server) as client:
        yield client


ALL = ("--ack", "all", "--min-isr", "2", "--lag-max-s", "1")


async def pair(made: Group) -> None:
    """Master 0 and slave 1, in sync."""
    await asyncio.gather(asyncio.to_thread(made.start, 0), asyncio.to_thread(made.start, 1))
    await made.in_sync(0, 1)


async def everything(client: Client, topic: str, count: int, *, group: str) -> list[bytes]:
    """What a new stream group reads, until it has read ``count`` different messages, and what more there is at once."""
    bodies: list[bytes] = []
    await client.create_group(group, shape="stream")
    async with client.consumer(topic, group=group, start="earliest") as consumer:
        async with asyncio.timeout(LIMIT_S):
            async for message in consumer:
                bodies.append(message.body)
                if len(bodies) >= count:
                    break
    return bodies


async def stored(made: Group, broker_id: int, topic: str, queues: int) -> list[bytes]:
    """All bodies of a topic, by FETCH at one member, once it knows that all it has is confirmed."""
    await made.until(broker_id, lambda facts: facts["log"]["confirmed"] == facts["log"]["end"])
    connection = await made.connect(broker_id)
    bodies: list[bytes] = []
    try:
        for queue in range(queues):
            at = 0
            while True:
                answer = await connection.ask(
                    Code.FETCH, header=wire.FETCH_REQUEST.pack(at, queue, 1 << 20, 0, 0, 0), parts=(topic.encode(),)
                )
                after, _, _ = wire.FETCH_ANSWER.unpack(answer.header)
                data = bytes(answer.body)
                for place, _ in iterate_frames(data):
                    header = parse_sealed(data, place + PREFIX_SIZE)
                    bounds = record_bounds(data, place + PREFIX_SIZE, header)
                    records = data[place + PREFIX_SIZE + header.records_at :]
                    bodies += [records[a:b] for a, b in itertools.pairwise(bounds)]
                if after == at:
                    break
                at = after
    finally:
        connection.close()
    return bodies


async def test_a_slave_follows_and_takes_over(tmp_path: Path) -> None:
    """Everything acknowledged is there exactly once after kill -9 of the master; producing and consuming go on; the old
    master follows when it comes back, and the states are the same by hash."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=4)
            await client.create_group("shared", shape="shared")
            producer = client.producer(deadline_s=60)
            await producer.send_many("t", [b"a%d" % i for i in range(300)])
            for i in range(300, 320):
                await producer.send("t", b"a%d" % i)
            await made.same(0, 1)
            sending = asyncio.create_task(_send_on(producer, 320, 400))
            await asyncio.sleep(0)
            made.kill(0)
            answer = await made.promote(1)
            assert answer["epoch"] == 1_100
            async with asyncio.timeout(LIMIT_S):
                while (await made.status(1))["role"] != "starting":
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(made.start, 0)  # min_isr is 2: the new master needs it
            await made.in_sync(1, 0)
            await sending
            await producer.close()
            bodies = await everything(client, "t", 400, group="g1")
            assert sorted(bodies) == sorted(b"a%d" % i for i in range(400))
        found = await made.same(0, 1)
        assert found["epoch"] == 1_100
        assert (await made.status(0))["role"] == "slave"
        assert sorted(await stored(made, 0, "t", 4)) == sorted(b"a%d" % i for i in range(400))
        ended = await asyncio.to_thread(made.shell.json, "admin", "hash", GROUP)
        assert ended["differing"] == []


async def _send_on(producer: Any, first: int, end: int) -> None:
    for i in range(first, end):
        await producer.send("t", b"a%d" % i)


async def test_a_lost_slave_stalls_sends_then_they_are_refused(tmp_path: Path) -> None:
    """min_isr 2 of two: without the slave nothing is acknowledged, and soon refused before it is stored. When it comes back
    what waited goes on, once."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=2)
            async with client.producer(deadline_s=60) as patient, client.producer(deadline_s=2) as hasty:
                await patient.send("t", b"first")
                made.kill(1)
                waiting = asyncio.create_task(patient.send("t", b"second"))
                facts = await made.until(0, lambda facts: facts["replication"]["set"] == [0])
                assert facts["replication"]["eligible"] == [1]
                with pytest.raises(NotEnoughReplicas):
                    await hasty.send("t", b"never")
                assert not waiting.done()
                end = (await made.status(0))["log"]
                assert end["confirmed"] <= end["end"]
                await asyncio.to_thread(made.start, 1)
                await made.in_sync(0, 1)
                await waiting
                await hasty.send("t", b"third")
            await made.same(0, 1)
            for member in (0, 1):
                assert sorted(await stored(made, member, "t", 2)) == [b"first", b"second", b"third"]


async def test_one_copy_is_enough_where_min_isr_says_so(tmp_path: Path) -> None:
    with group(tmp_path, "--ack", "all", "--lag-max-s", "1") as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"both")
                made.kill(1)
                await producer.send("t", b"one")
                assert (await made.status(0))["replication"]["set"] == [0]
                made.wipe(1)
                await asyncio.to_thread(made.start, 1)
                await made.in_sync(0, 1)
                await producer.send("t", b"again")
            await made.same(0, 1)
            assert await stored(made, 1, "t", 1) == [b"both", b"one", b"again"]


async def test_a_shortage_degrades_where_that_is_wanted(tmp_path: Path) -> None:
    """min_isr 2, and the master alone: sends go on, the log and the status say so, until the slave has caught up."""
    with group(tmp_path, *ALL, "--on-shortage", "degrade") as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"both")
                made.kill(1)
                await producer.send("t", b"one")
                facts = await made.until(0, lambda facts: facts["replication"]["degraded"])
                assert facts["replication"]["set"] == [0]
                await asyncio.to_thread(made.start, 1)
                await made.in_sync(0, 1)
                assert not (await made.status(0))["replication"]["degraded"]
                await producer.send("t", b"again")
            await made.same(0, 1)
            assert await stored(made, 1, "t", 1) == [b"both", b"one", b"again"]
        said = made.members[0].output()
        assert '"event": "degraded"' in said
        assert said.index('"event": "degraded"') < said.rindex('"event": "not_degraded_any_more"')


async def test_a_learner_gets_everything_and_never_counts(tmp_path: Path) -> None:
    with group(tmp_path, *ALL) as made:
        await pair(made)
        await asyncio.to_thread(made.start, 2, "--learner")

        def is_there(facts: dict[str, Any]) -> bool:
            return any(one["broker_id"] == 2 and one["streaming"] for one in facts["replication"]["slaves"])

        await made.until(0, is_there)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer, client.producer(deadline_s=2) as hasty:
                await producer.send("t", b"all")
                await made.same(0, 1, 2)
                facts = (await made.status(0))["replication"]
                assert facts["set"] == [0, 1]
                assert {one["broker_id"]: one["learner"] for one in facts["slaves"]} == {1: False, 2: True}
                learner = (await made.status(2))["replication"]
                assert (learner["learner"], learner["in_sync"]) == (True, False)
                made.freeze(2)
                await producer.send("t", b"without")  # nobody waits for it
                made.thaw(2)
                made.kill(1)
                await made.until(0, lambda facts: facts["replication"]["set"] == [0])
                with pytest.raises(NotEnoughReplicas):  # it does not count
                    await hasty.send("t", b"never")
                assert (await made.status(0))["replication"]["eligible"] == [1]
            await made.same(0, 2)
            assert await stored(made, 2, "t", 1) == [b"all", b"without"]


async def test_a_living_master_hands_over(tmp_path: Path) -> None:
    """Promotion with the old master there: it steps down and follows; nothing is lost, sent twice, or refused for good."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=4)
            await client.create_group("g", shape="stream")
            await client.create_group("s", shape="shared")
            read: list[bytes] = []
            shared: list[bytes] = []
            async with (
                client.producer(deadline_s=60) as producer,
                client.consumer("t", group="g", start="earliest") as consumer,
                client.shared_consumer("t", group="s", invisible_s=10) as sharer,
            ):
                reading = asyncio.create_task(_read(consumer, read, 300))
                sharing = asyncio.create_task(_share(sharer, shared, 300))
                sending = asyncio.create_task(_send_from(producer, 0, 300))
                async with asyncio.timeout(LIMIT_S):
                    while len(read) < 50:
                        await asyncio.sleep(0.01)
                await made.promote(1)
                await made.in_sync(1, 0)
                await made.promote(0)
                await made.in_sync(0, 1)
                await sending
                async with asyncio.timeout(LIMIT_S):
                    await reading
                    await sharing
            wanted = {b"a%d" % i for i in range(300)}
            assert set(read) == wanted
            assert set(shared) == wanted
            assert sorted(await stored(made, 0, "t", 4)) == sorted(wanted)
        assert (await made.same(0, 1))["epoch"] == 2_000


async def _send_from(producer: Any, first: int, end: int) -> None:
    for i in range(first, end):
        await producer.send("t", b"a%d" % i)
        await asyncio.sleep(0.005)


async def _read(consumer: Any, found: list[bytes], count: int) -> None:
    async for message in consumer:
        found.append(message.body)
        if len(set(found)) >= count:
            return


async def _share(consumer: Any, found: list[bytes], count: int) -> None:
    async for message in consumer:
        found.append(message.body)
        await message.ack()
        if len(set(found)) >= count:
            return


async def test_a_promotion_that_nobody_confirmed_does_not_outlive_its_process(tmp_path: Path) -> None:
    """Else it would win, by its higher epoch, against whoever was promoted in its place and has served since."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        await asyncio.to_thread(made.start, 2)
        await made.in_sync(0, 1, 2)
        async with client_of(made) as client, client.producer(deadline_s=LIMIT_S) as producer:
            await client.create_topic("t", queues=1)
            await producer.send("t", b"0")
            made.kill(0)
            made.freeze(1)
            lost = asyncio.create_task(made.promote(2))
            await made.until(2, lambda facts: facts["role"] == "starting")
            made.kill(2)
            await asyncio.gather(lost, return_exceptions=True)
            made.thaw(1)
            assert (await made.promote(1))["epoch"] == 2_100  # a nameserver remembers the other
            await asyncio.to_thread(made.start, 0)
            await made.in_sync(1, 0)
            await producer.send("t", b"1")
            await asyncio.to_thread(made.start, 2)
            assert "promotion_was_not_confirmed" in made.members[2].output()
            await made.in_sync(1, 0, 2)
            await producer.send("t", b"2")
            assert await everything(client, "t", 3, group="g") == [b"0", b"1", b"2"]
            assert (await made.promote(2))["epoch"] == 3_200
            await producer.send("t", b"3")
        await made.same(0, 1, 2)


async def test_a_promotion_that_came_to_nothing_is_made_again(tmp_path: Path) -> None:
    """The slave was in sync when it was promoted, and has followed nobody since: no loss has to be accepted."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client, client.producer(deadline_s=LIMIT_S) as producer:
            await client.create_topic("t", queues=1)
            await producer.send("t", b"0")
            made.kill(0)
            await made.promote(1)
            made.kill(1)
            await asyncio.to_thread(made.start, 1)
            assert "promotion_was_not_confirmed" in made.members[1].output()
            await made.promote(1)
            await asyncio.to_thread(made.start, 0)
            await made.in_sync(1, 0)
            await producer.send("t", b"1")
            assert await everything(client, "t", 2, group="g") == [b"0", b"1"]


async def test_a_former_master_cuts_what_nobody_else_has(tmp_path: Path) -> None:
    """ack = local: the slave is stopped, the master stores more and dies; the promoted slave goes on without it, and the
    former master cuts that tail when it comes back."""
    with group(tmp_path, "--ack", "local") as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"both")
                await made.same(0, 1)
                made.kill(1)
                for number in range(50):
                    await producer.send("t", b"tail %d" % number)
                before = (await made.status(0))["log"]["end"]
                made.kill(0)
                await asyncio.to_thread(made.start, 1)
                error = await asyncio.to_thread(made.shell.fails, "admin", "promote", GROUP, "--id", "1")
                assert "not known to have everything" in error
                answer = await made.promote(1, "--accept-loss")
                assert answer["log_offset"] < before
                await producer.send("t", b"after")
            await asyncio.to_thread(made.start, 0)
            await made.in_sync(1, 0)
            await made.same(0, 1)
            assert "log_is_cut" in made.members[0].output()
            for member in (0, 1):
                assert await stored(made, member, "t", 1) == [b"both", b"after"]


async def test_a_slave_reads_and_refuses_to_write(tmp_path: Path) -> None:
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer() as producer:
                await producer.send("t", b"x")
        await made.same(0, 1)
        assert await stored(made, 1, "t", 1) == [b"x"]
        made.kill(0)
        assert await stored(made, 1, "t", 1) == [b"x"]
        connection = await made.connect(1)
        try:
            for code in (Code.TOPIC_CREATE, Code.PRODUCE, Code.SUBSCRIBE, Code.RECEIVE, Code.COMMIT, Code.OFFICIAL_CALL):
                with pytest.raises(NotMaster):
                    await connection.ask(code, header=b"", parts=(b"{}",))
        finally:
            connection.close()


async def test_stream_consumers_go_on_at_a_slave_without_a_master(tmp_path: Path) -> None:
    """The master is killed and nobody is promoted: what was confirmed is read on at a slave. What was finished meanwhile is
    committed at the new master, and nothing is left out."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=4)
            await client.create_group("g", shape="stream")
            read: list[bytes] = []
            wanted = {b"%d" % i + bytes(500) for i in range(1_000)}
            async with (
                client.producer(deadline_s=60) as producer,
                client.consumer("t", group="g", start="earliest", prefetch_bytes=4096) as consumer,
            ):
                for first in range(0, 1_000, 10):
                    await producer.send_many("t", [b"%d" % i + bytes(500) for i in range(first, first + 10)])
                await made.until(1, lambda facts: facts["log"]["confirmed"] == facts["log"]["end"])
                await made.same(0, 1)
                assignment = consumer.assignment
                async with asyncio.timeout(LIMIT_S):
                    async for message in consumer:
                        read.append(message.body)
                        if len(read) == 100:
                            made.kill(0)
                        if set(read) == wanted:
                            break
                assert (await made.status(1))["role"] == "slave"
                assert consumer.assignment == assignment
                assert len(assignment) == 4
                assert len(read) < 1_500  # what is finished does not come again
                await made.promote(1)
                await asyncio.to_thread(made.start, 0)
                await made.in_sync(1, 0)
                await producer.send("t", b"after")
                async with asyncio.timeout(LIMIT_S):
                    async for message in consumer:
                        read.append(message.body)
                        if message.body == b"after":
                            break
                consumer.finish_current()
                await consumer.commit()
                assert len(read) < 1_500
            facts = await client.describe_group("g")
            assert sum(queue["lag"] for queue in facts["queues"]) == 0
            assert sorted(await stored(made, 0, "t", 4)) == sorted([*wanted, b"after"])


async def test_a_cold_master_takes_its_tail_back(tmp_path: Path) -> None:
    """The master's machine loses power: the end of its log is gone. It does not begin without a slave that was in sync, and
    takes from it what is missing; the slave need not give up anything."""
    with group(tmp_path, *ALL, "--flush-interval-ms", "60000") as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"kept")
                await made.same(0, 1)
                kept = (await made.status(0))["log"]["end"]
                for number in range(50):
                    await producer.send("t", b"%d" % number)
                end = (await made.status(0))["log"]["end"]
                await made.same(0, 1)
                made.kill(0)
                lose_power(made.data(0), kept)
                made.members[1].process.send_signal(signal.SIGSTOP)
                refused = made.start_only(0)
                await asyncio.to_thread(refused.wait_for, "no slave that was in sync answered")
                refused.kill()
                made.members[1].process.send_signal(signal.SIGCONT)
                await asyncio.to_thread(made.start, 0)
                await made.in_sync(0, 1)
                assert f'"log_end": {end}' in next(line for line in made.members[0].lines if "tail_recovered" in line)
                await producer.send("t", b"after")
            await made.same(0, 1)
            for member in (0, 1):
                wanted = [b"kept", *(b"%d" % number for number in range(50)), b"after"]
                assert await stored(made, member, "t", 1) == wanted


async def test_a_cold_master_alone_needs_to_be_told(tmp_path: Path) -> None:
    with group(tmp_path, *ALL, "--flush-interval-ms", "60000") as made:
        await pair(made)
        end = (await made.same(0, 1))["offset"]
        made.kill(0)
        made.kill(1)
        lose_power(made.data(0), end)
        await asyncio.to_thread(made.start, 0, "--accept-loss")
        assert "loss_accepted" in made.members[0].output()
        assert (await made.status(0))["role"] == "starting"


def lose_power(data: Path, end: int) -> None:
    """What a machine that went down forgets: the log from an offset on, in the first segment; and it has booted since."""
    (segment,) = sorted((data / "log").glob("*.seg"))
    with segment.open("r+b") as file:
        file.truncate(end)
    (data / "incarnations").write_text('{"nonces": [], "boot": "another", "clean": false}')


async def test_strangers_are_refused(tmp_path: Path) -> None:
    """Slaves that are sent to a master of another group or cluster; a member with the master's own id."""
    with group(tmp_path, "--ack", "local") as made, group(tmp_path / "other", "--cluster", "other") as other:
        await asyncio.to_thread(made.start, 0)
        master = made.address(0)
        grpc = address_of(made.nameserver, "gRPC").removeprefix("http://")
        common = ("--port", "0", "--grpc-port", "0", "--http-port", "0", "--broker-id", "1", "--master", master)
        other.nameserver.kill()
        strangers = [
            Process("broker", "--name", "group-b", "--data", str(tmp_path / "b"), "--nameserver", grpc, *common),
            Process(
                "broker", "--name", GROUP, "--cluster", "other", "--data", str(tmp_path / "c"), "--nameserver", grpc, *common
            ),
        ]
        try:
            for stranger, text in zip(strangers, ("is broker group-a, not group-b", "this is cluster"), strict=True):
                await asyncio.to_thread(stranger.wait_for, "ready", whole=True)
                line = await asyncio.to_thread(stranger.wait_for, "master_not_followed")
                assert text in line
        finally:
            for stranger in strangers:
                stranger.kill()
        assert (await made.status(0))["replication"]["slaves"] == []


async def test_an_empty_disk_does_not_lead(tmp_path: Path) -> None:
    """The master's disk is lost: it must not lead its group into emptiness. The slave is promoted, and it copies."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=2)
            async with client.producer(deadline_s=60) as producer:
                await producer.send_many("t", [b"%d" % i for i in range(100)])
                made.kill(0)
                made.wipe(0)
                await asyncio.to_thread(made.start, 0)
                assert (await made.status(0))["role"] == "slave"
                await made.promote(1)
                await made.in_sync(1, 0)
                await producer.send("t", b"100")
            await made.same(0, 1)
            assert sorted(await stored(made, 0, "t", 2)) == sorted(b"%d" % i for i in range(101))


async def test_a_slave_that_is_too_far_behind_takes_a_copy(tmp_path: Path) -> None:
    """The master's log no longer starts at 0: an empty slave takes its snapshot and what is left of its log, far timers
    included, is killed meanwhile, and can be promoted in the end."""
    small = ("--segment-bytes", "64KiB", "--snapshot-bytes", "64KiB", "--retention-bytes", "128KiB")
    with group(tmp_path, "--ack", "local", *small) as made:
        await asyncio.to_thread(made.start, 0)
        async with client_of(made) as client:
            await client.create_topic("t", queues=2)
            await client.create_topic("later", type="delay", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("later", b"in an hour", delay=3_600)
                for number in range(20):
                    await producer.send_many("t", [b"%d %d" % (number, i) + bytes(1_000) for i in range(60)])
                facts = await made.until(0, lambda facts: facts["log"]["start"] > 0)
                await asyncio.to_thread(made.start, 1)
                await asyncio.to_thread(made.members[1].wait_for, "copy_begun")
                made.kill(1)
                await asyncio.to_thread(made.start, 1)
                await made.in_sync(0, 1)
                await asyncio.to_thread(made.members[1].wait_for, "copy_complete")
                facts = await made.same(0, 1)
                made.kill(1)
                await asyncio.to_thread(made.start, 1)
                await made.in_sync(0, 1)
                assert (await made.same(0, 1))["digest"]["timers"] == facts["digest"]["timers"]
                made.kill(0)
                await made.promote(1)
                await producer.send("t", b"on the new master")
                assert (await client.scheduled("later"))[0] == 1
        assert "timers_unreadable" not in made.members[1].output()
        assert list((made.data(1) / "timers").glob("*.tmb"))


async def test_what_waits_goes_on_with_the_new_master(tmp_path: Path) -> None:
    """Delayed messages, half messages and receipts of the old master are good at the new one."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("later", type="delay", queues=2)
            await client.create_topic("tx", type="transaction", queues=1)
            await client.create_topic("t", queues=1)
            await client.create_group("s", shape="shared")
            await client.create_group("d", shape="stream")
            async with client.producer(deadline_s=60) as producer:
                await producer.send("later", b"due", delay=4)
                await producer.send("t", b"once")
                async with (
                    client.shared_consumer("t", group="s", invisible_s=60) as sharer,
                    client.consumer("later", group="d", start="earliest") as later,
                    producer.transaction("tx", timeout_s=60) as transaction,
                ):
                    await transaction.send(b"half")
                    async with asyncio.timeout(LIMIT_S):
                        message = await anext(aiter(sharer))
                    await made.same(0, 1)
                    made.kill(0)
                    await made.promote(1)
                    await asyncio.to_thread(made.start, 0)
                    await made.in_sync(1, 0)
                    await message.ack()
                    async with asyncio.timeout(LIMIT_S):
                        assert (await anext(aiter(later))).body == b"due"
            await made.same(0, 1)
            (record,) = await stored(made, 1, "tx", 1)
            assert record.endswith(b"half")
            facts = await client.describe_group("s")
            assert facts["queues"][0]["lag"] == 0


async def test_frozen_members(tmp_path: Path) -> None:
    """A slave that stands still leaves the set and comes back; a master that stands still can't acknowledge, and follows the
    promoted slave when it wakes up."""
    with group(tmp_path, *ALL) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=4)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("t", b"1")
                made.members[1].process.send_signal(signal.SIGSTOP)
                waiting = asyncio.create_task(producer.send("t", b"2"))
                await made.until(0, lambda facts: facts["replication"]["set"] == [0])
                assert not waiting.done()
                made.members[1].process.send_signal(signal.SIGCONT)
                await waiting
                await made.in_sync(0, 1)
                made.members[0].process.send_signal(signal.SIGSTOP)
                waiting = asyncio.create_task(producer.send("t", b"3"))
                await made.promote(1)
                assert not waiting.done()
                made.members[0].process.send_signal(signal.SIGCONT)
                await made.in_sync(1, 0)
                await waiting
        assert (await made.same(0, 1))["epoch"] == 1_100
        for member in (0, 1):
            assert sorted(await stored(made, member, "t", 4)) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("flush", ["async", "sync"])
async def test_random_faults(tmp_path: Path, flush: str) -> None:
    """Three members; masters are killed and handed over, slaves killed and wiped, while eight senders and a reader go on:
    everything acknowledged is stored once on every member, and read."""
    rng = random.Random(flush)
    with group(tmp_path, *ALL, "--flush", flush, "--segment-bytes", "256KiB", "--snapshot-bytes", "256KiB") as made:
        await asyncio.gather(*(asyncio.to_thread(made.start, member) for member in range(3)))
        await made.in_sync(0, 1, 2)
        faults = Faults(made, rng)
        async with client_of(made) as client:
            await client.create_topic("t", queues=4)
            await client.create_group("g", shape="stream")
            sent: list[bytes] = []
            read: set[bytes] = set()
            stop = asyncio.Event()
            async with (
                client.producer(deadline_s=60) as producer,
                client.consumer("t", group="g", start="earliest") as consumer,
                asyncio.TaskGroup() as tasks,
            ):
                reading = tasks.create_task(_read_all(consumer, read))
                senders = [tasks.create_task(_send_until(producer, number, stop, sent)) for number in range(8)]
                for fault in (
                    faults.kill_master,
                    faults.wipe_slave,
                    faults.hand_over,
                    faults.kill_slave,
                    faults.kill_master,
                ):
                    count = len(sent)
                    async with asyncio.timeout(LIMIT_S):
                        while len(sent) < count + 200:
                            await asyncio.sleep(0.01)
                    await fault()
                    await made.in_sync(faults.master, *faults.slaves)
                stop.set()
                await asyncio.gather(*senders)
                async with asyncio.timeout(LIMIT_S):
                    while not read >= set(sent):
                        await asyncio.sleep(0.02)
                reading.cancel()
        await made.same(0, 1, 2)
        for member in range(3):
            assert sorted(await stored(made, member, "t", 4)) == sorted(sent)


class Faults:
    """What befalls a group of three, and who is its master afterwards."""

    def __init__(self, made: Group, rng: random.Random) -> None:
        self._made = made
        self._rng = rng
        self.master = 0

    @property
    def slaves(self) -> list[int]:
        return [member for member in range(3) if member != self.master]

    async def kill_master(self) -> None:
        old = self.master
        slaves = self.slaves
        self._made.kill(old)
        found = {slave: await self._made.status(slave) for slave in slaves}
        self.master = max(
            slaves, key=lambda s: (found[s]["replication"]["in_sync"], found[s]["epoch"], found[s]["log"]["end"])
        )
        await self._made.promote(self.master)
        await asyncio.to_thread(self._made.start, old)

    async def hand_over(self) -> None:
        self.master = self._rng.choice(self.slaves)
        await self._made.promote(self.master)

    async def kill_slave(self) -> None:
        slave = self._rng.choice(self.slaves)
        self._made.kill(slave)
        await asyncio.to_thread(self._made.start, slave)

    async def wipe_slave(self) -> None:
        slave = self._rng.choice(self.slaves)
        self._made.kill(slave)
        self._made.wipe(slave)
        await asyncio.to_thread(self._made.start, slave)


async def _send_until(producer: Any, number: int, stop: asyncio.Event, sent: list[bytes]) -> None:
    count = 0
    while not stop.is_set():
        body = b"%d %d" % (number, count)
        await producer.send("t", body)
        sent.append(body)
        count += 1
        await asyncio.sleep(0.002)


async def _read_all(consumer: Any, found: set[bytes]) -> None:
    async for message in consumer:
        found.add(message.body)
