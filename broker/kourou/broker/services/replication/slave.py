"""The slave's driver: finds and dials the master, feeds the machine, appends and applies what comes, acknowledges.

Batches are taken one after the other. One that names a file of far timers is appended when the file is here; what comes
meanwhile waits, and the master's window bounds it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Protocol

from kourou.broker.machines.replication import (
    Append,
    Batch,
    Close,
    Confirmed,
    CopyNeeded,
    Halt,
    LogFacts,
    Ready,
    Send,
    SlaveEffect,
    TakeCopy,
    Truncate,
    Welcome,
)
from kourou.broker.machines.replicationslave import ReplicationSlave
from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.services.replication.master import Log
from kourou.broker.services.replication.messages import CopyFacts, answer_of, batch_of, copy_of, encode, ping_of
from kourou.broker.services.replication.refetch import refetch
from kourou.broker.services.replication.timerfiles import Named, TimerFiles
from kourou.broker.services.state import BrokerState
from kourou.broker.store.checked import Appended, CheckedFrame
from kourou.broker.store.columns import FrameFacts
from kourou.broker.store.copying import append_frames, check_frames
from kourou.broker.store.scan import ScannedFrame
from kourou.broker.store.store import Store
from kourou.core.backoff import Backoff
from kourou.core.clock import Clock
from kourou.core.errors import DiskFull, FlushFailed, KourouError, MessageNotFound, NotConnected, NotMaster
from kourou.core.frame import Kind
from kourou.core.wire import Code, WireMessage, encode_json

TICK_S = 0.05
ASK_S = 5.0
SESSION_MS = 1_000  # one that lasted so long was no failure to begin
FILE_PIECE_BYTES = 1024 * 1024


class MasterLink(Protocol):
    """A connection to the master."""

    def push(self, code: int, *, header: bytes = b"", parts: Any = ()) -> None: ...

    async def ask_json(self, code: int, value: object, *, timeout_s: float) -> dict[str, Any]: ...

    async def ask(self, code: int, *, parts: Any, timeout_s: float) -> WireMessage: ...

    def abort(self, reason: str) -> None: ...

    def close(self) -> None: ...


Pushed = Callable[[WireMessage], None]
Dial = Callable[[dict[int, Pushed], Callable[[str], None]], Awaitable[MasterLink]]
"""Connect to the master: handlers by code, and what is called with the reason when the connection ends. Raises KourouError
when there is no master, or none that answers."""


async def ask_piece(link: MasterLink, session: int, name: str, offset: int) -> bytes:
    """What follows in a file of another member; empty at its end."""
    value = {"session": session, "name": name, "offset": offset, "size": FILE_PIECE_BYTES}
    message = await link.ask(Code.REPLICA_FILE, parts=(encode_json(value),), timeout_s=ASK_S)
    return bytes(message.body)


class SlaveReplication:
    """This broker as a slave. ``journal.replicas`` is this."""

    def __init__(
        self,
        store: Store,
        state: BrokerState,
        journal: Journal,
        machine: ReplicationSlave,
        *,
        dial: Dial,
        clock: Clock,
        log: Log,
        on_truncate: Callable[[int], None],
        on_copy: Callable[[CopyFacts, bytes], None],
        on_changed: Callable[[], None],
    ) -> None:
        """``on_truncate`` and ``on_copy`` are told that the log has to be cut, or replaced; this one is over then.
        ``on_changed``: what nameservers are told of this broker differs."""
        self.machine = machine
        self.bytes_in = 0
        self.last_error: str | None = None
        self.followed = False  # a master, at any time
        self.apply_from = 0  # what lies below is in the state already: it came as a copy
        self._store = store
        self._state = state
        self._journal = journal
        self._dial = dial
        self._clock = clock
        self.lease_ahead_ms: int | None = None  # of the monotonic clock here, the master's time of leases
        self._lease_epoch = 0
        self._log = log
        self._on_truncate = on_truncate
        self._on_copy = on_copy
        self._on_changed = on_changed
        self._files = TimerFiles(store.files, state.timers, log=log)
        self._link: MasterLink | None = None
        self._number = 0  # of the link
        self._ended = asyncio.Event()
        self._inbox: deque[tuple[Batch, memoryview]] = deque()
        self._busy = False  # a file is being fetched
        self._applying = False
        self._loop = asyncio.get_running_loop()
        self._runner: asyncio.Task[None] | None = None
        self._fetcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        self._runner = self._loop.create_task(self._run(), name="replicate")

    def look_again(self) -> None:
        """Another master may be there."""
        self._wake.set()

    async def stop(self) -> None:
        link = self._link  # the session forgets it; one whose log is to be cut leaves it open
        tasks = [task for task in (self._runner, self._fetcher) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if link is not None:
            link.close()

    def promoted(self, epoch: int) -> None:
        self.machine.promoted(epoch)
        self._perform()

    def status(self) -> dict[str, Any]:
        machine = self.machine
        return {
            "phase": machine.phase.value,
            "learner": machine.learner,
            "in_sync": machine.in_sync,
            "set": list(machine.members),
            "confirmed": machine.confirm,
            "promised": machine.promised,
            "master_end": machine.master_end,
            "halted": machine.halted,
            "last_error": self.last_error,
        }

    async def refetch(self, start: int, end: int, *, executor: Executor) -> None:
        """What the disk has damaged, from the master. Raises KourouError."""
        link, session = self._link, self.machine.session
        if link is None or not self.machine.streaming:
            raise NotConnected("there is no master to fetch from")

        async def ask(at: int, end: int) -> memoryview:
            value = {"session": session, "start": at, "end": end}
            return (await link.ask(Code.REPLICA_LOG, parts=(encode_json(value),), timeout_s=ASK_S)).body

        await refetch(self._store, start, end, ask=ask, executor=executor)

    def keep(self) -> None:
        """Now and then."""
        if not self._busy and self._store.synced_offset == self._store.end_offset:
            self._files.sweep()

    # ---- the journal's side

    def confirm(self, *, end: int, synced: int) -> int:
        self.machine.synced(min(synced, self.machine.end))
        self._perform()
        return self.machine.confirm

    def refusal(self, *, unconfirmed_bytes: int, waiting: int) -> KourouError | None:
        return NotMaster("this broker is a slave")

    # ---- dialling

    async def _run(self) -> None:
        backoff = Backoff(random.Random(), first_ms=50)
        while not self.machine.over:
            self._wake.clear()
            begun, end = self._clock.monotonic_ms(), self.machine.end
            try:
                await self._session()
                if self.machine.end > end or self._clock.monotonic_ms() - begun > SESSION_MS:
                    backoff.reset()  # it was of use; one without room on its disk loses each session at once
            except KourouError as failure:
                if str(failure) != self.last_error:
                    self._log.warning("master_not_followed", reason=str(failure))
                self.last_error = str(failure)
            if self.machine.over:
                return
            try:
                async with asyncio.timeout(min(1.0, backoff.next_ms() / 1000)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _session(self) -> None:
        """Dial, greet, and follow until the link ends. Raises why it could not begin."""
        ended = self._ended = asyncio.Event()
        self._number += 1
        number = self._number
        reasons: list[str] = []

        def lost(reason: str) -> None:
            reasons.append(reason)
            ended.set()

        link = await self._dial(
            {
                Code.REPLICA_BATCH: lambda message: self._batch(number, message),
                Code.REPLICA_PING: lambda message: self._pinged(number, message),
            },
            lost,
        )
        ticker = self._loop.create_task(self._ticks())
        try:
            self._link = link
            self._inbox.clear()
            store = self._store
            facts = LogFacts(tuple(store.epochs.entries), store.min_offset, store.end_offset, store.synced_offset)
            self.machine.flushed = store.synced_offset
            self.machine.dialled(number, facts, now_ms=self._clock.monotonic_ms())
            await self._greet(number, link)
            if self.machine.streaming:
                self.last_error, self.followed = None, True
                self._log.info("following", epoch=self.machine.epoch, log_end=self.machine.end)
                self._on_changed()
            await ended.wait()
            self._log.info("master_lost", reason=reasons[0])
        finally:
            ticker.cancel()
            self.machine.lost(number)
            self._perform()
            if not self.machine.over:
                link.abort("the session is over")
            self._link = None

    async def _greet(self, number: int, link: MasterLink) -> None:
        (hello,) = self.machine.take_effects()
        assert isinstance(hello, Send)
        _, _, value = encode(hello.message)
        told = await link.ask_json(Code.REPLICA_HELLO, value, timeout_s=ASK_S)
        answer = answer_of(told)
        if isinstance(answer, CopyNeeded):
            self.machine.copy_needed(number, answer)
        else:
            assert isinstance(answer, Welcome)
            self.machine.welcomed(number, answer, now_ms=self._clock.monotonic_ms())
        for effect in self.machine.take_effects():
            if isinstance(effect, Send) and isinstance(effect.message, Ready):
                await self._files.fetch(self._files.missing_of_state(), partial(ask_piece, link, effect.message.session))
                code, _, value = encode(effect.message)
                await link.ask_json(code, value, timeout_s=ASK_S)
            elif isinstance(effect, TakeCopy):
                await self._take_copy(link, effect.session, told)
            else:
                self._do(effect)
        self._perform()

    async def _take_copy(self, link: MasterLink, session: int, told: dict[str, Any]) -> None:
        """Fetch the master's snapshot; the directory begins anew with it."""
        try:
            facts = copy_of(told)
            self._log.warning("copy_begun", log_start=facts.start, snapshot=facts.name, bytes=facts.size)
            pieces: list[bytes] = []
            size = 0
            while size < facts.size:
                pieces.append(await ask_piece(link, session, facts.name, size))
                size += len(pieces[-1])
                if not pieces[-1]:
                    raise MessageNotFound(f"{facts.name} ends at {size}")
        except (KourouError, asyncio.CancelledError):
            self.machine.copy_failed()
            raise
        self._on_copy(facts, b"".join(pieces))

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._busy:
                continue  # a file takes its time; the connection has its own sign of life
            self.machine.tick(now_ms=self._clock.monotonic_ms())
            self._perform()

    # ---- the stream

    def _batch(self, number: int, message: WireMessage) -> None:
        if number != self._number or self._link is None:
            return
        try:
            batch = batch_of(message)
        except KourouError as failure:
            self._give_up(str(failure))
            return
        self._inbox.append((batch, message.body))
        self._drain()

    def _pinged(self, number: int, message: WireMessage) -> None:
        if number != self._number or self._link is None:
            return
        try:
            ping = ping_of(message)
        except KourouError as failure:
            self._give_up(str(failure))
            return
        now_ms = self._clock.monotonic_ms()
        self.machine.pinged(number, ping, now_ms=now_ms)
        if ping.lease_ms is not None:
            self._note_lease_time(ping.epoch, ping.lease_ms - now_ms)
        self._perform()

    def _note_lease_time(self, epoch: int, ahead_ms: int) -> None:
        """The ping that was under way for the shortest time says it best."""
        if self.lease_ahead_ms is None or epoch != self._lease_epoch or ahead_ms > self.lease_ahead_ms:
            self.lease_ahead_ms, self._lease_epoch = ahead_ms, epoch

    def _drain(self) -> None:
        while self._inbox and not self._busy:
            batch, data = self._inbox.popleft()
            self.machine.batch(self._number, batch, now_ms=self._clock.monotonic_ms())
            for effect in self.machine.take_effects():
                if isinstance(effect, Append):
                    if not self._append(batch, data):
                        return
                else:
                    self._do(effect)

    def _append(self, batch: Batch, data: memoryview) -> bool:
        """False when it could not be done, or not yet."""
        try:
            frames = check_frames(data, batch.start, epoch_min=self._store.epochs.latest, epoch_max=batch.epoch)
        except KourouError as failure:
            self._log.error("batch_refused", log_offset=batch.start, reason=str(failure))
            self._give_up(str(failure))
            return False
        missing = self._files.missing_of(item for item in frames if item.prefix.log_offset >= self.apply_from)
        if missing:
            self._busy = True
            self._fetcher = self._loop.create_task(self._append_later(batch, data, frames, missing))
            return False
        return self._append_now(batch, data, frames)

    def _append_now(self, batch: Batch, data: memoryview, frames: list[ScannedFrame]) -> bool:
        try:
            append_frames(self._store, data, frames)
        except DiskFull as failure:
            self._give_up(f"the disk is full: {failure}")
            return False
        except FlushFailed as failure:
            self._journal.fail(failure)
            return False
        except KourouError as failure:
            self._log.error("batch_refused", log_offset=batch.start, reason=str(failure))
            self._give_up(str(failure))
            return False
        self.bytes_in += len(data)
        self.machine.appended(batch)
        self._applying = True
        try:
            self._perform()  # the master waits for the acknowledgement, nobody for the rest
            arrived = self._apply(frames)
        finally:
            self._applying = False
        self._journal.copied(arrived)
        if self.machine.copying is not None and self._store.end_offset >= self.apply_from:
            self.machine.copying = None
            self._give_up("the copy is complete; the next session counts")
        return True

    async def _append_later(self, batch: Batch, data: memoryview, frames: list[ScannedFrame], missing: list[Named]) -> None:
        """Once the files that it names are here."""
        link = self._link
        try:
            assert link is not None
            await self._files.fetch(missing, partial(ask_piece, link, batch.session))
        except KourouError as failure:
            if self._link is link:
                self._give_up(f"a file of timers could not be fetched: {failure}")
            return
        finally:
            self._busy = False
        if self._link is link and self.machine.streaming and self._append_now(batch, data, frames):
            self._drain()

    def _apply(self, frames: list[ScannedFrame]) -> list[Arrived]:
        arrived: list[Arrived] = []
        topics = False
        for item in frames:
            prefix, header = item.prefix, item.header
            if prefix.log_offset >= self.apply_from:
                before = self._state.topics.version if header.kind == Kind.METADATA else 0
                self._state.recovered(prefix, header, item.sealed)
                topics = topics or (header.kind == Kind.METADATA and self._state.topics.version != before)
            frame = CheckedFrame(item.sealed, header, item.crc, prefix.incarnation, _NO_FACTS)
            end = prefix.log_offset + prefix.size
            arrived.append((frame.key, frame, Appended(prefix.log_offset, end, prefix.queue_offset, prefix.store_ms)))
        if topics:
            self._on_changed()
        return arrived

    def _give_up(self, reason: str) -> None:
        self.last_error = reason
        self._inbox.clear()
        if self._link is not None:
            self._link.abort(reason)

    # ---- effects

    def _perform(self) -> None:
        while effects := self.machine.take_effects():
            for effect in effects:
                self._do(effect)

    def _do(self, effect: SlaveEffect) -> None:
        link = self._link
        match effect:
            case Send(_, message):
                if link is not None:
                    code, header, value = encode(message)
                    link.push(code, header=header, parts=() if value is None else (encode_json(value),))
            case Confirmed():
                if not self._applying:  # the journal is told when it has the frames
                    self._journal.moved()
            case Close(_, reason):
                self._log.warning("master_left", reason=reason)
                if link is not None:
                    link.close()
            case Truncate(offset, reason):
                self._log.warning("log_is_cut", log_offset=offset, bytes=self.machine.end - offset, reason=reason)
                self._on_truncate(offset)
            case TakeCopy():
                raise AssertionError("a copy is begun by greeting")
            case Halt(reason):
                self._log.error("replication_halted", reason=reason)
            case Append():
                raise AssertionError("batches are appended where they come from")


_NO_FACTS = FrameFacts(0, None)
