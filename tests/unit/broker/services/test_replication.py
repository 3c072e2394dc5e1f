"""Both drivers of replication over simulated disks, with a link in between that a test can spoil."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kourou.broker.machines.replication import PING_MS, LogFacts, Member, Session
from kourou.broker.machines.replicationmaster import ReplicationMaster
from kourou.broker.machines.replicationslave import ReplicationSlave
from kourou.broker.services.journal import FrameJob, Journal
from kourou.broker.services.replication import master as driver
from kourou.broker.services.replication.master import MasterReplication
from kourou.broker.services.replication.messages import (
    CopyFacts,
    ack_of,
    answer_of,
    answer_to_json,
    hello_of,
    ping_of,
    ready_of,
)
from kourou.broker.services.replication.pace import Pace
from kourou.broker.services.replication.rot import Stuck
from kourou.broker.services.replication.slave import MasterLink, SlaveReplication
from kourou.broker.services.shared.leaseclock import LeaseClock
from kourou.broker.services.state import BrokerState
from kourou.broker.store.commitlog import segment_name
from kourou.broker.store.files import File
from kourou.broker.store.recovery import open_store
from kourou.broker.store.timerwrite import Spill
from kourou.core import wire
from kourou.core.clock import ManualClock
from kourou.core.errors import BadRequest, KourouError, MessageNotFound, NotConnected, NotMaster, OutcomeUnknown
from kourou.core.frame import Column, seal
from kourou.core.wire import Code, FrameReader, WireMessage
from tests.sim.disk import SimDisk, SimFile
from tests.sim.store import SMALL, START_MS, message
from tests.unit.broker.services.engine import Notes

TOPIC = {"t": "topic", "name": "t", "type": "normal", "placement": [["b", 4]], "i": 1, "ms": 1}
DELAY = {"t": "topic", "name": "later", "type": "delay", "placement": [["b", 1]], "i": 2, "ms": 1}


class Member_:
    """A store, its state and journal, in one of the roles."""

    def __init__(self, replica: int, disk: SimDisk | None = None) -> None:
        self.disk = disk or SimDisk()
        self.replica = replica
        self.clock = ManualClock()
        self.log = Notes()
        self.pool = ThreadPoolExecutor(1)
        files = self.disk.files()
        files.lock()
        self.state = BrokerState(broker="b")
        self.store = open_store(
            files, SMALL, restore=self.state.restore, apply=self.state.recovered, notice=lambda event, fields: None
        ).store
        self.failures: list[str] = []
        self.cuts: list[int] = []
        self.copies: list[CopyFacts] = []

    @property
    def me(self) -> Member:
        return Member("c", "b", self.replica, f"disk-{id(self.disk)}")

    def _journal(self) -> Journal:
        return Journal(
            self.store, self.state, clock=self.clock, sync_flush=False, sync_executor=self.pool,
            on_failure=self.failures.append,
        )  # fmt: skip

    def lead(self, *, min_isr: int = 2) -> None:
        self.store.begin_epoch(self.store.epoch + 1, store_ms=START_MS)
        store = self.store
        facts = LogFacts(tuple(store.epochs.entries), store.min_offset, store.end_offset, store.synced_offset)
        machine = ReplicationMaster(
            self.me, facts, epoch=store.epoch, confirm=0, ack_all=True, min_isr=min_isr, sync_flush=False, lag_ms_max=3_000,
            batch_bytes=4_000,
        )  # fmt: skip
        self.journal = self._journal()
        self.master = MasterReplication(
            store, machine, clock=self.clock, read_executor=self.pool, log=self.log,
            on_step_down=lambda epoch, reason: None, refused=self._refused,
        )  # fmt: skip
        self.master.moved = self.journal.moved
        self.journal.replicas = self.master

    @staticmethod
    async def _refused(address: str) -> bool:
        return True

    def follow(self, dial: Callable[..., Any]) -> None:
        machine = ReplicationSlave(
            self.me, rng=random.Random(1), end=self.store.end_offset, flushed=self.store.synced_offset,
            epoch=self.store.epoch, confirm=0, promised=0,
        )  # fmt: skip
        self.journal = self._journal()
        self.slave = SlaveReplication(
            self.store, self.state, self.journal, machine, dial=dial, clock=self.clock, log=self.log,
            on_truncate=self.cuts.append, on_copy=lambda facts, data: self.copies.append(facts), on_changed=lambda: None,
        )  # fmt: skip
        self.journal.replicas = self.slave
        self.slave.start()

    async def write(self, *records: dict[str, Any]) -> None:
        await self.journal.write(list(records))

    def submit(self, sequence: int, size: int = 500) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.journal.submit(FrameJob(message(0, sequence, size), lambda result, twin, error: future.set_result(error)))
        return future

    async def close(self) -> None:
        if hasattr(self, "slave"):
            await self.slave.stop()
        if hasattr(self, "master"):
            self.master.close()
        self.pool.shutdown(wait=True)


class Link:
    """Both ends of a connection in one process; every message is encoded and read back."""

    numbers = 0

    def __init__(self, net: Net, handlers: dict[int, Callable[[WireMessage], None]], lost: Callable[[str], None]) -> None:
        Link.numbers += 1
        self.number = Link.numbers
        self.remote = "slave:1"
        self.net = net
        self.handlers = handlers
        self.lost = lost
        self.open = True
        self.down = Down(self)

    def _read(self, code: int, header: bytes, parts: Any) -> WireMessage:
        (message,) = FrameReader().feed(wire.encode(code, 0, flags=2, header=header, body=b"".join(map(bytes, parts))))
        return message

    # the slave's end

    def push(self, code: int, *, header: bytes = b"", parts: Any = ()) -> None:
        asyncio.get_running_loop().call_soon(self._arrived, self._read(code, header, parts))

    def _arrived(self, message: WireMessage) -> None:
        if self.open and message.code == Code.REPLICA_ACK:
            self.net.acks.append(ack_of(message).appended)
            self.net.master.master.acked(self.down, ack_of(message))
        elif self.open:
            self.net.master.master.pinged(self.down, ping_of(message))

    async def ask_json(self, code: int, value: object, *, timeout_s: float) -> dict[str, Any]:
        await asyncio.sleep(0)
        if not self.open:
            raise OutcomeUnknown("the link has ended")
        value = wire.decode_json(wire.encode_json(value))
        if code == Code.REPLICA_HELLO:
            hello = hello_of(value)
            answer = answer_to_json(self.net.master.master.hello(self.down, hello), epoch=hello.epoch)
            if "copy" in answer:
                answer["copy"] = {"start": 5, "history": [], "name": "snapshots/1.snap", "size": 0}
            return answer
        self.net.master.master.ready(self.down, ready_of(value))
        return {}

    async def ask(self, code: int, *, parts: Any, timeout_s: float) -> WireMessage:
        await self.net.files.wait()
        value = wire.decode_json(b"".join(parts))
        assert self.net.master.master.may_read(self.down, value["session"])
        self.net.asked.append(value["name"])
        if self.net.files_gone:
            raise MessageNotFound("gone")
        data = self.net.master.store.files.read(value["name"], value["offset"], min(value["size"], 300))
        return self._read(code, b"", (data,))

    def abort(self, reason: str) -> None:
        self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            asyncio.get_running_loop().call_soon(self.lost, "it was closed")
            self.net.master.master.lost(self.down)


class Down:
    """The master's end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.number = link.number
        self.remote = link.remote

    def push(self, code: int, *, header: bytes = b"", parts: Any = ()) -> None:
        body = b"".join(map(bytes, parts))
        if code == Code.REPLICA_BATCH:
            header, body = self._link.net.spoil(header, body)
        message = self._link._read(code, header, (body,))
        asyncio.get_running_loop().call_soon(self._arrived, message)

    def push_file(self, code: int, *, header: bytes, file: File, at: int, size: int) -> None:
        self._link.net.from_files += 1
        self.push(code, header=header, parts=(file.read(at, size),))

    def _arrived(self, message: WireMessage) -> None:
        if self._link.open:
            self._link.handlers[message.code](message)

    def abort(self, reason: str) -> None:
        self._link.close()


class Net:
    def __init__(self, master: Member_) -> None:
        self.master = master
        self.links: list[Link] = []
        self.acks: list[int] = []
        self.asked: list[str] = []
        self.from_files = 0  # batches that the master did not read itself
        self.files = asyncio.Event()
        self.files.set()
        self.files_gone = False
        self.spoil: Callable[[bytes, bytes], tuple[bytes, bytes]] = lambda header, body: (header, body)
        self.away = False

    async def dial(self, handlers: dict[int, Callable[[WireMessage], None]], lost: Callable[[str], None]) -> MasterLink:
        if self.away:
            raise NotConnected("nobody listens")
        self.links.append(Link(self, handlers, lost))
        return self.links[-1]


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Member_, Member_, Net]]:
    master, slave = Member_(0), Member_(1)
    master.lead()
    net = Net(master)
    slave.follow(net.dial)
    try:
        yield master, slave, net
    finally:
        await slave.close()
        await master.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def same(master: Member_, slave: Member_) -> None:
    await until(lambda: slave.store.end_offset == master.store.end_offset and not slave.slave._busy)
    assert slave.state.digest() == master.state.digest()
    for base in master.store.log.bases:
        size = master.store.log.file(base).size
        assert slave.store.log.file(base).read(0, size) == master.store.log.file(base).read(0, size)


async def test_a_slave_gets_everything_and_answers_wait_for_it() -> None:
    async with pair() as (master, slave, net):
        assert not master.master.serving.is_set()
        await master.master.serving.wait()
        await master.write(TOPIC)
        for sequence in range(1, 40):
            assert await master.submit(sequence) is None
        await same(master, slave)
        assert net.acks == sorted(net.acks)
        assert master.journal.confirmed == master.store.end_offset
        refusal = slave.journal.replicas
        assert refusal is not None
        assert isinstance(refusal.refusal(unconfirmed_bytes=0, waiting=0), NotMaster)


async def test_what_was_just_written_goes_out_unread_and_in_whole_frames() -> None:
    async with pair() as (master, slave, net):
        await master.master.serving.wait()
        await master.write(TOPIC)
        await same(master, slave)
        before = net.from_files
        waiting = [master.submit(sequence, 3_000) for sequence in range(1, 30)]  # many batches, and a segment's end
        assert [await one for one in waiting] == [None] * 29
        await same(master, slave)
        assert len(master.store.log.bases) > 1
        assert net.from_files - before > 10
        assert len(net.links) == 1


async def test_who_is_far_behind_is_read_for_in_a_thread_and_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "FRESH_BYTES", 10_000)
    monkeypatch.setattr(driver, "OLD_BYTES", 20_000)
    forgotten: list[int] = []
    monkeypatch.setattr(SimFile, "forget", lambda self, offset, size: forgotten.append(size))
    master, slave = Member_(0), Member_(1)
    master.disk.cached = False
    master.lead(min_isr=1)
    master.master._pace = Pace(200_000)
    try:
        await master.write(TOPIC)
        assert [await master.submit(sequence, 3_000) for sequence in range(1, 20)] == [None] * 19
        net = Net(master)
        began = asyncio.get_running_loop().time()
        slave.follow(net.dial)
        await same(master, slave)
        assert sum(forgotten) > 20_000  # in memory for nobody else
        assert asyncio.get_running_loop().time() - began > 0.1  # 60 kB, of which 20 kB at once
        assert await master.submit(20) is None
        await same(master, slave)
        assert master.master.machine.set_members() == (0, 1)
    finally:
        await slave.close()
        await master.close()


@pytest.mark.parametrize("whole_elsewhere", [True, False])
async def test_a_master_whose_log_has_rotted_says_so(whole_elsewhere: bool) -> None:
    """A slave that can't be sent it dials in again and again. Where another has it whole the master had better not lead."""
    master, slave, late = Member_(0), Member_(1), Member_(2)
    master.lead(min_isr=1)
    told: list[str] = []
    master.master.on_damaged = told.append
    net = Net(master)
    try:
        if whole_elsewhere:
            slave.follow(net.dial)
        await master.write(TOPIC)
        assert [await master.submit(sequence, 500) for sequence in range(1, 5)] == [None] * 4
        if whole_elsewhere:
            await until(lambda: master.master.machine.set_members() == (0, 1))
            await same(master, slave)
        base = master.store.log.bases[-1]
        master.disk.flip(segment_name(base), master.store.end_offset - base - 100)
        late.follow(net.dial)
        await until(lambda: master.master.damaged is not None and (bool(told) or not whole_elsewhere))
        assert "damaged" in (master.master.damaged or "")
        assert bool(told) == whole_elsewhere
        assert late.store.end_offset < master.store.end_offset
        assert "log_damaged" in master.log.events
    finally:
        for one in (late, slave, master):
            await one.close()


async def test_a_slave_that_is_cut_off_now_and_then_is_not_stuck() -> None:
    stuck = Stuck()

    def ended(replica: int, *, appended: int, sent: int) -> bool:
        member = Member("c", "b", replica, "disk")
        return stuck.ended(Session(1, 1, member, False, 0, 0, sent=sent, appended=appended))

    assert not ended(1, appended=100, sent=200)
    assert not ended(1, appended=150, sent=200)
    assert not ended(2, appended=150, sent=200)
    assert not ended(1, appended=150, sent=150)
    assert not ended(1, appended=150, sent=200)
    assert ended(1, appended=150, sent=180)


@pytest.mark.parametrize("where", ["place", "confirm offset", "frame"])
async def test_a_batch_that_is_damaged_on_its_way_is_sent_again(where: str) -> None:
    async with pair() as (master, slave, net):
        await master.master.serving.wait()
        await master.write(TOPIC)
        await same(master, slave)

        def spoil(header: bytes, body: bytes) -> tuple[bytes, bytes]:
            net.spoil = lambda header, body: (header, body)
            if where != "frame":
                at = 20 if where == "place" else 31
                return header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :], body
            return header, body[:60] + bytes([body[60] ^ 1]) + body[61:]

        net.spoil = spoil
        assert await master.submit(1) is None
        await same(master, slave)
        assert len(net.links) > 1


async def test_a_full_disk_of_a_slave_holds_up_and_then_goes_on() -> None:
    async with pair() as (master, slave, _net):
        await master.master.serving.wait()
        await master.write(TOPIC)
        await same(master, slave)
        slave.disk.capacity = slave.disk.used + 50
        waiting = master.submit(1)
        await until(lambda: "the disk is full" in (slave.slave.last_error or ""))
        assert not waiting.done()
        slave.disk.capacity = 1 << 30
        assert await waiting is None
        await same(master, slave)


def due_frame(sequence: int) -> Any:
    from array import array

    from kourou.broker.store.columns import check_columns
    from kourou.broker.store.store import CheckedFrame
    from kourou.core.frame import parse_sealed

    sealed = seal(
        topic="later", queue_id=0, records=[b"x%d" % sequence], born_ms=START_MS, producer_id=7, sequence=sequence,
        columns={Column.DUE_TIMES: array("q", [START_MS + 3_600_000 + sequence])},
    )  # fmt: skip
    header = parse_sealed(sealed)
    return CheckedFrame(sealed, header, int.from_bytes(sealed[-4:], "little"), 2, check_columns(sealed, 0, header))


async def spill(master: Member_) -> None:
    """Far timers of the master move to a file; the log names it."""
    timers = master.state.timers
    job = Spill(
        master.store.files, master.store.log, timers.copy_pages(9, from_ms=0), number=timers.next_bucket, from_ms=0,
        rows_min=1, rows_max=1 << 20, bytes_max=1 << 20,
    )  # fmt: skip
    job.run()
    written = job.written
    assert written is not None
    await master.write(
        {
            "t": "tm>", "b": written.number, "n": len(written.due), "log": [written.start, written.end],
            "file": [int(written.due[-1]), written.size, written.checksum], "floor": [0, int(written.due[0])], "dead": [],
            "due": 0, "lost": [],
        }
    )  # fmt: skip


async def test_a_slave_has_what_names_a_file_when_it_has_the_file() -> None:
    async with pair() as (master, slave, net):
        await master.master.serving.wait()
        await master.write(DELAY)
        for sequence in range(1, 20):
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            master.journal.submit(FrameJob(due_frame(sequence), lambda a, b, c, f=future: f.set_result(c)))  # type: ignore[misc]
            assert await future is None
        await same(master, slave)
        net.files.clear()
        telling = asyncio.create_task(spill(master))
        await until(lambda: slave.slave._busy)
        assert not telling.done()
        later = master.submit(100)
        net.files.set()
        await telling
        await same(master, slave)
        assert isinstance(await later, KourouError)  # no such topic; it came through all the same
        name = "timers/0000000001.tmb"
        assert slave.store.files.read_all(name) == master.store.files.read_all(name)
        assert len(net.asked) > 1


async def test_a_file_that_is_missing_is_fetched_before_the_next_session_counts() -> None:
    async with pair() as (master, slave, net):
        await master.master.serving.wait()
        await master.write(DELAY)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        master.journal.submit(FrameJob(due_frame(1), lambda a, b, c: future.set_result(c)))
        assert await future is None
        net.files.clear()
        telling = asyncio.create_task(spill(master))
        await until(lambda: slave.slave._busy)
        net.links[-1].close()
        net.files.set()
        await telling
        await same(master, slave)
        name = "timers/0000000001.tmb"
        assert slave.store.files.read_all(name) == master.store.files.read_all(name)


async def test_a_log_that_parted_is_to_be_cut() -> None:
    """The driver says where, and does nothing more."""
    disk = SimDisk()
    async with pair() as (master, slave, net):
        await master.master.serving.wait()
        await master.write(TOPIC)
        await same(master, slave)
        slave.disk.kill()
        disk = slave.disk.fork()
        end = master.store.end_offset
    former = Member_(1, disk)
    former.store.append([message(0, 99, 100)], store_ms=START_MS)
    master.disk.kill()
    again = Member_(0, master.disk)
    again.lead()
    net = Net(again)
    former.follow(net.dial)
    try:
        await until(lambda: bool(former.cuts))
        assert former.cuts == [end]
        assert former.slave.machine.over
        await former.slave.stop()
        assert not net.links[-1].open  # the master keeps nothing of it
    finally:
        await former.close()
        await again.close()


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"proto": 2},
        {"proto": 1, "cluster": "c"},
        {
            "proto": 1, "cluster": "c", "group": "b", "replica": 1, "storage": "s", "session": 1, "epoch": 1,
            "history": [[1]], "start": 0, "end": 0, "flushed": 0, "confirm": 0,
        },
        {
            "proto": 1, "cluster": "c", "group": "b", "replica": 1, "storage": "s", "session": -1, "epoch": 1,
            "history": [], "start": 0, "end": 0, "flushed": 0, "confirm": 0,
        },
    ],
)  # fmt: skip
def test_a_hello_that_does_not_parse(value: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        hello_of(value)
    with pytest.raises(BadRequest):
        answer_of(value)


async def test_a_slave_knows_the_masters_time_of_leases() -> None:
    async with pair() as (master, slave, _net):
        slave.clock.jump_wall(3_600_000)
        leases = LeaseClock(master.clock)
        master.master.lease_ms = leases.wall_ms
        await until(lambda: slave.slave.lease_ahead_ms is not None)
        ahead_ms = slave.slave.lease_ahead_ms
        assert LeaseClock(slave.clock, ahead_ms).wall_ms() == leases.wall_ms()
        slave.slave._note_lease_time(slave.store.epoch, (ahead_ms or 0) - 5_000)  # a ping that was long under way
        assert slave.slave.lease_ahead_ms == ahead_ms
        slave.slave._note_lease_time(slave.store.epoch + 1, (ahead_ms or 0) - 5_000)  # another master
        assert slave.slave.lease_ahead_ms == (ahead_ms or 0) - 5_000


async def test_what_is_not_confirmed_yet_is_told_apart() -> None:
    async with pair() as (master, slave, net):
        await until(lambda: master.master.serving.is_set() and master.journal.confirmed == master.store.end_offset)
        assert await master.journal.is_confirmed(within_s=0)
        net.away = True
        net.links[-1].close()
        answer = asyncio.create_task(master.write(TOPIC))
        await until(lambda: master.journal.confirmed < master.store.end_offset)
        waiting = len(master.journal._waiting)
        assert not await master.journal.is_confirmed(within_s=0.01)
        assert len(master.journal._waiting) == waiting  # who has stopped to wait is not kept
        later = asyncio.create_task(master.journal.is_confirmed(within_s=20))
        net.away = False
        assert await later
        await answer
        await same(master, slave)
        master.clock.advance(PING_MS)  # one that came back before it was missed is told by the next ping
        assert await slave.journal.is_confirmed(within_s=20)
