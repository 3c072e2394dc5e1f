"""The master's driver: slaves' messages into the machine, its effects out to links, frames read from the log for them.

Reads that the page cache can answer are done inline, others in a thread; a slave has one under way at a time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from kourou.broker.machines.replication import (
    Ack,
    Batch,
    Close,
    Confirmed,
    CopyNeeded,
    Hello,
    MasterEffect,
    Message,
    Ping,
    Ready,
    Refused,
    Send,
    SendFrames,
    SetChanged,
    StaleMaster,
    StepDown,
    Welcome,
)
from kourou.broker.machines.replicationmaster import ReplicationMaster
from kourou.broker.services.replication.messages import Answer, batch_head, encode
from kourou.broker.services.replication.pace import Pace
from kourou.broker.services.replication.rot import Stuck, damage_at
from kourou.broker.store import snapshot
from kourou.broker.store.copying import read_frames
from kourou.broker.store.files import File
from kourou.broker.store.store import Store
from kourou.core.clock import Clock
from kourou.core.errors import Busy, DamagedLog, DiskFull, KourouError, NotEnoughReplicas, NotMaster, ReplicaRefused
from kourou.core.wire import Code, encode_json

TICK_S = 0.05
ENDS_MAX = 16_384
OLD_BYTES = 256 * 1024 * 1024  # behind the end: nobody else reads there, so it need not stay in memory
FRESH_BYTES = 32 * 1024 * 1024  # surely still in the page cache
LENT_BYTES = 1024 * 1024
WAITING_MAX = 20_000  # sends that wait for slaves
WAITING_BYTES_MAX = 64 * 1024 * 1024
PROBES = 2  # refused one after the other: the process is gone
PROBE_PAUSE_S = 0.02
PROBING_S = 0.5  # a process that has not ended by then is taken to be there


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...

    def error(self, event: str, **fields: Any) -> Any: ...


class Link(Protocol):
    """A connection of a slave."""

    number: int
    remote: str  # host:port that it comes from

    def push(self, code: int, *, header: bytes = b"", parts: Any = ()) -> None: ...

    def push_file(self, code: int, *, header: bytes, file: File, at: int, size: int) -> None: ...

    def abort(self, reason: str) -> None: ...


class MasterReplication:
    """One term of this broker as master. ``journal.replicas`` is this."""

    def __init__(
        self,
        store: Store,
        machine: ReplicationMaster,
        *,
        clock: Clock,
        read_executor: Executor,
        log: Log,
        on_step_down: Callable[[int, str], None],
        refused: Callable[[str], Awaitable[bool]],
        catchup_bytes_s: float = 0.0,
    ) -> None:
        """``catchup_bytes_s``: for slaves that nobody waits for, all together; 0: no limit."""
        self.machine = machine
        self.serving = asyncio.Event()  # the term's first frame is confirmed
        self.moved: Callable[[], None] = lambda: None  # the journal is told so
        self.on_serving: Callable[[], None] = lambda: None  # just before ``serving`` is set
        self.attach: Callable[[], None] = lambda: None  # a slave is here: the journal has to ask from now on
        self.lease_ms: Callable[[], int | None] = lambda: None  # known once there are shared groups to lease
        self.bytes_out = 0
        self._store = store
        self._clock = clock
        self._executor = read_executor
        self._log = log
        self._on_step_down = on_step_down
        self._refused = refused  # whether an address refuses connections
        self._links: dict[int, Link] = {}
        self._addresses: dict[int, str] = {}  # of slaves, by id
        self._answers: dict[int, Answer] = {}
        self.damaged: str | None = None  # what is wrong with this log
        self.on_damaged: Callable[[str], None] = lambda reason: None  # others have it whole
        self._stuck = Stuck()
        self._pace = Pace(catchup_bytes_s)
        self._cold: dict[int, int] = {}  # by link, up to where it was read from the disk
        self._ends: list[int] = []  # of the frames that lately ended a turn, in log order
        self._tasks: set[asyncio.Task[None]] = set()
        self._confirming = False
        self._degraded = False  # as was last logged
        self._ticker: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._look_at_shortage()
        self._perform()

    # ---- the journal's side

    def confirm(self, *, end: int, synced: int) -> int:
        machine = self.machine
        self._confirming = True  # what moves now is the answer
        try:
            if end != machine.end:
                self._note_end(end)
                machine.appended(end)
            machine.synced(min(synced, end))
            self._perform()
        finally:
            self._confirming = False
        return machine.confirm

    def refusal(self, *, unconfirmed_bytes: int, waiting: int) -> KourouError | None:
        machine = self.machine
        if machine.over:
            return NotMaster("this broker is no longer the master of its group")
        if machine.short:
            return NotEnoughReplicas(
                f"{len(machine.members) + 1} members of the broker group are in sync; min_isr is {machine.min_isr}",
                retry_after_ms=200,
            )
        if machine.ack_all and (unconfirmed_bytes > WAITING_BYTES_MAX or waiting > WAITING_MAX):
            return Busy(f"{unconfirmed_bytes} bytes wait for slaves; the limit is {WAITING_BYTES_MAX}", retry_after_ms=50)
        return None

    # ---- the slaves' side

    def hello(self, link: Link, hello: Hello) -> Answer:
        self._links[link.number] = link
        self._addresses[hello.member.replica] = _address(hello.address, link.remote)
        self.attach()
        self.machine.trimmed(self._store.min_offset)
        self.machine.hello(link.number, hello, now_ms=self._clock.monotonic_ms())
        self._perform()
        answer = self._answers.pop(link.number)
        fields = {"replica": hello.member.replica, "remote": link.remote, "end": hello.log.end, "epoch": hello.epoch}
        if isinstance(answer, Welcome):
            self._log.info("slave_welcomed", **fields, truncate_to=answer.truncate_to)
        else:
            self._log.warning("slave_not_welcomed", **fields, answer=str(answer))
        return answer

    def ready(self, link: Link, ready: Ready) -> None:
        """Raises ReplicaRefused when the session is not to go on."""
        self.machine.ready(link.number, ready, now_ms=self._clock.monotonic_ms())
        self._perform()
        if not self.machine.current(link.number, ready.session):
            raise ReplicaRefused("the session is over; begin another one")

    def acked(self, link: Link, ack: Ack) -> None:
        self.machine.acked(link.number, ack, now_ms=self._clock.monotonic_ms())
        self._perform()

    def pinged(self, link: Link, ping: Ping) -> None:
        self.machine.pinged(link.number, ping, now_ms=self._clock.monotonic_ms())
        self._perform()

    def lost(self, link: Link) -> None:
        self._cold.pop(link.number, None)
        if self._links.pop(link.number, None) is None:
            return
        session = next((s for s in self.machine.sessions() if s.link == link.number), None)
        replica = session.member.replica if session is not None else None
        self.machine.lost(link.number)
        self._perform()
        if session is not None and session.streaming and self._stuck.ended(session):
            self._spawn(self._look_for_damage(session.member.replica, session.appended))
        if replica is not None:
            self._log.info("slave_lost", replica=replica, remote=link.remote)
            if replica in self.machine.members:
                self._spawn(self._probe(replica))

    def may_read(self, link: Link, session: int) -> bool:
        return self.machine.may_read(link.number, session)

    async def lend(self, link: Link, session: int, start: int, end: int) -> bytes:
        """Whole frames from ``start`` on. Raises ReplicaRefused; DamagedLog when they are damaged here, too."""
        if not self._store.min_offset <= start < end or not self.machine.has(link.number, session, end):
            raise ReplicaRefused(f"the log from {start} to {end} is not for a slave that is not known to have had it")
        read = partial(read_frames, self._store, start, end=end, bytes_max=LENT_BYTES, cached_only=False, once=True)
        data = await self._loop.run_in_executor(self._executor, read)
        assert data is not None
        return data

    def copy(self) -> dict[str, Any]:
        """*Blocking*, a little. What a slave that begins anew has to fetch. Raises Busy while there is no snapshot."""
        store = self._store
        for offset in snapshot.list_offsets(store.files):
            name = snapshot.snapshot_name(offset)
            size = store.files.size(name)
            if size is not None and offset >= store.min_offset:
                history = [list(pair) for pair in store.epochs.entries if pair[1] < store.min_offset]
                return {"start": store.min_offset, "name": name, "size": size, "history": history}
        raise Busy("there is no snapshot to copy yet", retry_after_ms=1_000)

    def in_sync(self) -> list[int]:
        """Slaves that are here and in the set: they have what is confirmed."""
        machine = self.machine
        return [s.member.replica for s in machine.sessions() if s.streaming and s.member.replica in machine.members]

    def heard_of(self, epoch: int, source: str) -> None:
        self.machine.heard_of(epoch, source)
        self._perform()

    def close(self) -> None:
        self.machine.over = True
        if self._ticker is not None:
            self._ticker.cancel()
        for task in self._tasks:
            task.cancel()
        for link in list(self._links.values()):
            link.abort("this broker is no longer the master")

    def status(self) -> dict[str, Any]:
        machine = self.machine
        return {
            "ack": "all" if machine.ack_all else "local",
            "min_isr": machine.min_isr,
            "set": list(machine.set_members()),
            "eligible": sorted(machine.eligible),
            "serving": self.serving.is_set(),
            "degraded": machine.degraded,
            "slaves": [
                {
                    "broker_id": s.member.replica,
                    "learner": s.learner,
                    "streaming": s.streaming,
                    "appended": s.appended,
                    "flushed": s.flushed,
                    "behind_bytes": machine.end - s.appended if s.streaming else None,
                }
                for s in machine.sessions()
            ],
        }

    # ---- effects

    def _perform(self) -> None:
        while effects := self.machine.take_effects():
            for effect in effects:
                self._do(effect)
        if self._ticker is None and self.machine.deadline_ms() is not None:
            self._ticker = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        self.machine.tick(now_ms=self._clock.monotonic_ms())
        self._perform()

    def _do(self, effect: MasterEffect) -> None:
        match effect:
            case SendFrames():
                self._send_frames(effect)
            case Send(number, message):
                self._send(number, message)
            case Confirmed():
                if self.machine.serving and not self.serving.is_set():
                    self._begin_serving()
                if not self._confirming:
                    self.moved()
            case Close(number, reason):
                link = self._links.pop(number, None)
                if link is not None:
                    self._log.warning("slave_dropped", remote=link.remote, reason=reason)
                    link.abort(reason)
            case SetChanged(members, reason):
                self._log.info("sync_state_set_changed", members=list(members), reason=reason)
                self._look_at_shortage()
            case StepDown(epoch, reason):
                self._log.warning("stepping_down", epoch=self.machine.epoch, higher=epoch, reason=reason)
                self._on_step_down(epoch, reason)

    def _begin_serving(self) -> None:
        """It is noted before a slave is told of it: a term that others know to be confirmed is not taken back."""
        try:
            self.on_serving()
        except DiskFull as failure:
            self._log.warning("term_not_noted", epoch=self.machine.epoch, reason=str(failure))
        self.serving.set()

    def _look_at_shortage(self) -> None:
        machine = self.machine
        if machine.degraded == self._degraded:
            return
        self._degraded = machine.degraded
        facts = {"members": len(machine.members) + 1, "min_isr": machine.min_isr}
        if self._degraded:
            self._log.warning("degraded", **facts, meaning="sends are acknowledged by fewer members than min_isr")
        else:
            self._log.info("not_degraded_any_more", **facts)

    def _send(self, number: int, message: Message) -> None:
        if isinstance(message, Welcome | CopyNeeded | StaleMaster | Refused):
            self._answers[number] = message
            return
        link = self._links.get(number)
        if link is not None:
            if isinstance(message, Ping):
                message = replace(message, lease_ms=self.lease_ms())
            code, header, value = encode(message)
            link.push(code, header=header, parts=() if value is None else (encode_json(value),))

    def _note_end(self, end: int) -> None:
        self._ends.append(end)
        if len(self._ends) > ENDS_MAX:
            del self._ends[: ENDS_MAX // 2]

    def _send_frames(self, wanted: SendFrames) -> None:
        if self._send_fresh(wanted):
            return
        if self.machine.end - wanted.start > FRESH_BYTES:
            self._spawn(self._send_cold(wanted))
            return
        try:
            data = read_frames(self._store, wanted.start, end=self.machine.end, bytes_max=wanted.bytes_max, cached_only=True)
        except DamagedLog as failure:
            self._unreadable(wanted, failure)
            return
        if data is None:
            self._spawn(self._send_cold(wanted))
        else:
            self._push(wanted, data)

    def _send_fresh(self, wanted: SendFrames) -> bool:
        """What was just written is in memory, and where its frames end is known: it is neither read nor looked at."""
        ends, link = self._ends, self._links.get(wanted.link)
        if not self.machine.current(wanted.link, wanted.session):
            return True
        if link is None or not ends or wanted.start < ends[0] or ends[-1] - wanted.start > FRESH_BYTES:
            return False
        end = ends[-1]
        if end - wanted.start > wanted.bytes_max:
            number = bisect_right(ends, wanted.start + wanted.bytes_max) - 1
            if ends[number] <= wanted.start:  # one turn alone is larger
                number += 1
            end = ends[number]
        file, at = self._store.log.locate(wanted.start)
        end = min(end, wanted.start - at + file.size)  # where the segment ends
        batch = Batch(wanted.session, self.machine.epoch, wanted.start, end, self.machine.confirm)
        link.push_file(Code.REPLICA_BATCH, header=batch_head(batch), file=file, at=at, size=end - wanted.start)
        self.bytes_out += end - wanted.start
        self.machine.sent(wanted.link, wanted.session, end)
        return True

    async def _send_cold(self, wanted: SendFrames) -> None:
        store, machine = self._store, self.machine
        follows = self._cold.pop(wanted.link, None) == wanted.start  # the system reads ahead of who goes on
        read = partial(read_frames, store, wanted.start, end=machine.end, bytes_max=wanted.bytes_max)
        old = machine.end - wanted.start > OLD_BYTES

        def read_once() -> tuple[bytes | None, bool]:
            found = None if follows else read(cached_only=True)
            return (found, False) if found is not None else (read(cached_only=False, once=old), True)

        try:
            data, cold = await self._loop.run_in_executor(self._executor, read_once)
        except DamagedLog as failure:
            self._unreadable(wanted, failure)
            return
        assert data is not None
        if machine.catches_up(wanted.link):
            wait_s = self._pace.wait_s(len(data), end=machine.end, busy=machine.busy, now_s=self._loop.time())
            if wait_s:
                await asyncio.sleep(wait_s)
        if cold and wanted.link in self._links:
            self._cold[wanted.link] = wanted.start + len(data)
        self._push(wanted, data)
        self._perform()

    def _push(self, wanted: SendFrames, data: bytes) -> None:
        link = self._links.get(wanted.link)
        if link is None or not self.machine.current(wanted.link, wanted.session):
            return
        end = wanted.start + len(data)
        batch = Batch(wanted.session, self.machine.epoch, wanted.start, end, self.machine.confirm)
        link.push(Code.REPLICA_BATCH, header=batch_head(batch), parts=(data,))
        self.bytes_out += len(data)
        self.machine.sent(wanted.link, wanted.session, end)

    def _unreadable(self, wanted: SendFrames, failure: DamagedLog) -> None:
        """A slave can't get past damage; it is tried again when the slave dials anew."""
        session = next((s for s in self.machine.sessions() if s.link == wanted.link), None)
        self._log.error("log_not_sent", log_offset=wanted.start, reason=str(failure))
        link = self._links.pop(wanted.link, None)
        self.machine.lost(wanted.link)
        if link is not None:
            link.abort(f"the master can't read its log: {failure}")
        if session is not None and wanted.start >= self._store.min_offset:
            self._spawn(self._look_for_damage(session.member.replica, wanted.start))

    async def _look_for_damage(self, replica: int, offset: int) -> None:
        """A slave gets no further than this."""
        end = self.machine.end
        reason = await self._loop.run_in_executor(self._executor, damage_at, self._store, offset, end)
        if offset < self._store.min_offset:
            return  # it was deleted meanwhile
        if reason is None:
            self._log.warning("slave_is_stuck", replica=replica, log_offset=offset, meaning="this log is whole on the disk")
        else:
            self._damaged(replica, reason)

    def _damaged(self, replica: int, reason: str) -> None:
        """This log can't be copied any more. Whoever is in sync has it whole, for it was checked on its way there."""
        others = [other for other in self.in_sync() if other != replica]
        self._log.error("log_damaged", reason=reason, whole_at=others, advice="let one of those lead, and empty this disk")
        self.damaged = reason
        if others:
            self.on_damaged(f"its log is damaged: {reason}")

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._log.error("replication_failed", exc_info=failure)
            for link in list(self._links.values()):
                link.abort("the master failed to replicate; its log says why")

    async def _probe(self, replica: int) -> None:
        """A slave's connection has ended: is its process gone?"""
        if await has_ended(self._addresses[replica], self._refused):
            self.machine.gone(replica)
            self._perform()
            self.moved()


async def has_ended(address: str, refused: Callable[[str], Awaitable[bool]]) -> bool:
    """Is the process that listened there gone? One refusal may be chance. One that is ending may still accept: its
    sockets are closed one after the other, and the one that told us need not be the last. So it is asked for a while."""
    clock = asyncio.get_running_loop().time
    begun, in_a_row = clock(), 0
    while True:
        in_a_row = in_a_row + 1 if await refused(address) else 0
        if in_a_row == PROBES:
            return True
        if not in_a_row and clock() - begun >= PROBING_S:
            return False
        await asyncio.sleep(PROBE_PAUSE_S)


def _address(told: str | None, remote: str) -> str:
    """Where a slave listens: ``host:port``, or ``:port`` on the host that it comes from."""
    if told is None:
        return ""
    return f"{remote.rpartition(':')[0]}{told}" if told.startswith(":") else told
