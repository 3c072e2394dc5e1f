"""The one writer of a broker's log: decide, append, apply, wait, answer.

Whatever a turn of the event loop wants to append is gathered and written by one ``writev``; it is applied to the state
at once, so that the next decision sees it, and answered only when its condition holds: written (``flush = async``) or
made durable by fdatasync (``flush = sync``; one call for all that wait). Consumers are told of a frame at that same
moment, so nobody reads what could still be lost within the guarantee that was chosen.

Order of events for a frame: check the producer's window -> append -> apply -> confirmed -> answer and wake readers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Set
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Appended, CheckedFrame, Store
from kourou.core.clock import Clock
from kourou.core.errors import (
    DiskFull,
    FlushFailed,
    KourouError,
    OutcomeUnknown,
    PredecessorRefused,
    ShuttingDown,
    TopicNotFound,
)
from kourou.core.frame import Kind, seal
from kourou.core.wire import encode_json

TURN_BYTES_MAX = 1024 * 1024  # appended in one go; more waits for the next turn, so that the loop is not held
TURN_FRAMES_MAX = 256  # the same; small ones take some 30 us each, their answers included
METADATA_BYTES_MAX = 1024 * 1024  # of one metadata frame
RETRY_S = 0.1  # between attempts to store decisions on a full disk
INLINE_SYNC_MS_MAX = 2.0  # a lone waiter's fdatasync runs on the loop while the disk mostly answers within this
INLINE_SYNC_LAST_MS_MAX = 20.0  # and has done so within this the last time: one that hangs must not hold the loop twice

Source = tuple[int, str, int]  # producer, topic, queue id


@dataclass(slots=True)
class FrameJob:
    """A checked frame on its way into the log. ``done`` is called exactly once, with a result or an error."""

    frame: CheckedFrame
    done: Callable[[Appended | None, bool, KourouError | None], None]  # result, is it a duplicate, or the error
    stopped: Set[Source] = frozenset()  # of whom a frame was refused that this one must not overtake; grows


@dataclass(slots=True)
class RecordJob:
    """A metadata record on its way into the log; ``applied`` ones have changed the state already."""

    record: dict[str, Any]
    done: Callable[[KourouError | None], None]
    applied: bool = False


Arrived = tuple[int, CheckedFrame, Appended]  # queue key, frame, where it lies


class Replicas(Protocol):
    """The other members of the broker group, as far as this log depends on them."""

    def confirm(self, *, end: int, synced: int) -> int:
        """The log reaches so far by now; how far it is confirmed."""
        ...

    def refusal(self, *, unconfirmed_bytes: int, waiting: int) -> KourouError | None:
        """Why nothing may be appended for clients at present."""
        ...


class Journal:
    """Appends, applies, confirms."""

    def __init__(
        self,
        store: Store,
        state: BrokerState,
        *,
        clock: Clock,
        sync_flush: bool,
        sync_executor: Executor,
        on_failure: Callable[[str], None],
        confirmed: int | None = None,
    ) -> None:
        """``confirmed``: what is known to be; by default everything that is there."""
        self._store = store
        self._state = state
        self._clock = clock
        self._sync_flush = sync_flush
        self._executor = sync_executor
        self._on_failure = on_failure  # the disk failed for good: the process must go down
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[FrameJob] = deque()
        self._first: list[RecordJob] = []  # before the frames of this turn
        self._records: list[RecordJob] = []
        self._stuck = False  # the disk had no room for records that are applied already; they are tried again
        self._scheduled = False
        self._turn_jobs = 0  # submitted since the last turn ended
        self._gathers = False
        self._waiting: deque[tuple[int, Callable[[KourouError | None], None]]] = deque()
        self._appended: deque[Arrived] = deque()  # not confirmed yet, in log order
        self._listeners: list[Callable[[list[Arrived]], None]] = []
        self._syncing = False
        self._sync_times_ms: deque[float] = deque([0.0], maxlen=9)  # how long fdatasync took lately
        self._sync_began: float | None = None  # the one that runs in the thread
        self._sync_worst_ms = 0.0
        self._failed: KourouError | None = None
        self.confirmed = store.end_offset if confirmed is None else confirmed  # C: consumers see only frames below it
        self.replicas: Replicas | None = None  # None: the log is confirmed when this broker has it
        self.closing = False

    # ---- what services call

    def submit(self, job: FrameJob) -> None:
        """Append in this loop turn: at its end, together with what else comes, or at once for a lone sender.

        A turn whose predecessor had more than one frame gathers; else the first frame of the turn goes at once, and only
        what comes behind it waits for the end.
        """
        self._jobs.append(job)
        self._turn_jobs += 1
        alone = not self._gathers and not self._scheduled
        self._schedule()
        if alone:
            self._commit_turn()

    def submit_record(self, record: dict[str, Any], done: Callable[[KourouError | None], None]) -> None:
        """The same for a metadata record; all records of a turn share a frame."""
        self._records.append(RecordJob(record, done))
        self._schedule()

    def submit_applied(self, record: dict[str, Any], done: Callable[[KourouError | None], None]) -> None:
        """Apply a record now, so that the next decision of this turn sees it, and append it at the turn's end.

        Call ``check_open`` before deciding. A disk without room for it does not lose it: it is tried again, and ``done``
        waits.
        """
        self._state.replay(record, log_offset=self._store.end_offset, store_ms=self._clock.wall_ms())
        self._records.append(RecordJob(record, done, True))
        self._schedule()

    def submit_before(self, record: dict[str, Any], done: Callable[[KourouError | None], None]) -> None:
        """The same, but it lies in the log before all frames that are submitted from now on."""
        self._state.replay(record, log_offset=self._store.end_offset, store_ms=self._clock.wall_ms())
        self._first.append(RecordJob(record, done, True))
        self._schedule()

    def check_open(self) -> None:
        """Raises when nothing may be decided now."""
        if self._failed is not None:
            raise self._failed
        if self.closing:
            raise ShuttingDown("the broker is shutting down; reconnect")
        if self._stuck:
            raise DiskFull("the disk is full: not even decisions can be stored", retry_after_ms=1_000)
        refusal = self._replicas_refuse()
        if refusal is not None:
            raise refusal

    def settle(self) -> bool:
        """Append everything that was submitted; whether all that the state holds is in the log now."""
        while self._jobs or ((self._first or self._records) and not self._stuck):
            self._commit_turn()
        return not self._stuck

    async def write(self, records: list[dict[str, Any]]) -> None:
        """Append and apply metadata records now, after everything that waits; return when they are confirmed."""
        if not records:
            return
        if not self.settle():  # what the state holds already must come first
            self.check_open()
        future: asyncio.Future[None] = self._loop.create_future()
        missing = len(records)

        def done(failure: KourouError | None) -> None:
            nonlocal missing
            missing -= 1
            if failure is not None and not future.done():
                future.set_exception(failure)
            elif missing == 0 and not future.done():
                future.set_result(None)

        self._append_records([RecordJob(record, done) for record in records])
        self._confirm()
        await future

    async def is_confirmed(self, *, within_s: float) -> bool:
        """Is what the log holds by now confirmed, now or soon? Who tells of state that is not may tell what is undone."""
        if self.confirmed >= self._store.end_offset:
            return True
        future: asyncio.Future[bool] = self._loop.create_future()

        def told(failure: KourouError | None) -> None:
            if not future.done():
                future.set_result(failure is None)

        waiter = (self._store.end_offset, told)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(within_s):
                return await future
        except TimeoutError:
            return False
        finally:
            if future.cancelled() and waiter in self._waiting:  # else they gather while nothing is confirmed
                self._waiting.remove(waiter)

    def on_confirmed(self, listener: Callable[[list[Arrived]], None]) -> None:
        """Call back with the frames that have come below ``confirmed``, in log order."""
        self._listeners.append(listener)

    async def sync_now(self) -> None:
        """Make everything appended so far durable. Raises FlushFailed when the disk can't."""
        target = self._store.end_offset
        while self._store.synced_offset < target:
            if self._failed is not None:
                raise self._failed
            if self._syncing:
                await asyncio.sleep(0.001)
            else:
                await self._sync_in_thread()

    async def flush_periodically(self) -> None:
        """One beat of ``flush = async``: called every 200 ms by the owner of the loop's periodic tasks."""
        if not self._syncing and self._store.synced_offset < self._store.end_offset and self._failed is None:
            await self._sync_in_thread()

    # ---- one turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._gathers = self._turn_jobs > 1
        self._turn_jobs = 0
        self._commit_turn()
        if self._jobs or ((self._first or self._records) and not self._stuck):
            self._schedule()

    def _commit_turn(self) -> None:
        if self._first and not self._stuck:
            first, self._first = self._first, []
            self._append_records(first)
        self._append_jobs()
        if self._records and not self._stuck:
            records, self._records = self._records, []
            self._append_records(records)
        self._confirm()

    def _append_jobs(self) -> None:
        jobs: list[FrameJob] = []
        size = 0
        twins: dict[tuple[int, int], FrameJob] = {}
        late: list[tuple[FrameJob, FrameJob]] = []
        while self._jobs and size < TURN_BYTES_MAX and len(jobs) < TURN_FRAMES_MAX:
            job = self._jobs.popleft()
            header = job.frame.header
            failure = self._refusal(job)
            if failure is not None:
                job.done(None, False, failure)
                continue
            if header.producer_id:
                twin = twins.get((header.producer_id, header.sequence))
                if twin is not None:
                    late.append((job, twin))
                    continue
                if self._answered_before(job):
                    continue
                if job.stopped and (header.producer_id, header.topic, header.queue_id) in job.stopped:
                    job.done(None, False, PredecessorRefused("an earlier frame of this producer and queue was refused"))
                    continue
                twins[header.producer_id, header.sequence] = job
            jobs.append(job)
            size += header.size
        if not jobs:
            return
        try:
            appended = self._store.append([job.frame for job in jobs], store_ms=self._clock.wall_ms())
        except KourouError as failure:
            self._note_failure(failure)
            for job in jobs:
                job.done(None, False, failure)
            for job, _ in late:
                job.done(None, False, failure)
            return
        for job, result in zip(jobs, appended, strict=True):
            self._state.applied(job.frame, result)
            self._appended.append((job.frame.key, job.frame, result))
            self._wait(job, result, False)
        for job, twin in late:
            if not self._answered_before(job):
                job.done(None, False, ShuttingDown(f"the twin of sequence {twin.frame.header.sequence} was not stored"))

    def _refusal(self, job: FrameJob) -> KourouError | None:
        if self._failed is not None:
            return self._failed
        if self.closing:
            return ShuttingDown("the broker is shutting down; reconnect")
        if self._stuck:
            return DiskFull("the disk is full: not even decisions can be stored", retry_after_ms=1_000)
        refusal = self._replicas_refuse() if self.replicas is not None else None
        if refusal is not None:
            return refusal
        if not self._state.topics.is_live(job.frame.incarnation):
            return TopicNotFound(f"topic {job.frame.header.topic!r} was deleted")
        return None

    def _replicas_refuse(self) -> KourouError | None:
        if self.replicas is None:
            return None
        behind = self._store.end_offset - self.confirmed
        return self.replicas.refusal(unconfirmed_bytes=behind, waiting=len(self._waiting))

    def _answered_before(self, job: FrameJob) -> bool:
        """Answer a frame that its producer's window knows, or that the window refuses; True if that is so."""
        try:
            known = self._state.window(job.frame)
        except KourouError as failure:
            job.done(None, False, failure)
            return True
        if known is None:
            return False
        self._wait(job, known, True)
        return True

    def _wait(self, job: FrameJob, result: Appended, duplicate: bool) -> None:
        def confirmed(failure: KourouError | None) -> None:
            job.done(None if failure else result, duplicate, failure)

        self._waiting.append((result.end_offset, confirmed))

    def _append_records(self, records: list[RecordJob]) -> None:
        at = 0
        while at < len(records):
            encoded: list[bytes] = []
            size, first = 0, at
            while at < len(records) and size < METADATA_BYTES_MAX and len(encoded) < 10_000:
                encoded.append(encode_json(records[at].record))
                size += len(encoded[-1])
                at += 1
            self._append_metadata(encoded, records[first:at])

    def _append_metadata(self, encoded: list[bytes], records: list[RecordJob]) -> None:
        store_ms = self._clock.wall_ms()
        try:
            if self._failed is not None:
                raise self._failed
            frame = metadata_frame(encoded, born_ms=store_ms)
            (result,) = self._store.append([frame], store_ms=store_ms, client=False)
        except KourouError as failure:
            self._note_failure(failure)
            kept = [job for job in records if job.applied] if isinstance(failure, DiskFull) else []
            if kept:
                self._try_again(kept)
            for job in records:
                if not (job.applied and kept):
                    job.done(failure)
            return
        for job in records:
            if not job.applied:
                self._state.replay(job.record, log_offset=result.log_offset, store_ms=result.store_ms)
            self._waiting.append((result.end_offset, job.done))

    def _try_again(self, records: list[RecordJob]) -> None:
        """No room for what the state already holds: nothing new is decided until it is stored."""
        self._first += records
        if not self._stuck:
            self._stuck = True
            self._loop.call_later(RETRY_S, self._unstick)

    def _unstick(self) -> None:
        self._stuck = False
        self._schedule()

    # ---- confirmation

    def copied(self, arrived: list[Arrived]) -> None:
        """Frames of the master's log were appended here, and applied."""
        self._appended += arrived
        self._confirm()

    def moved(self) -> None:
        """The other members' part in what is confirmed has changed."""
        self._confirm()

    def abandon(self) -> None:
        """This broker is not the master any more. What waits may be stored by the next one, or not: its outcome is unknown.
        Call it when those who asked have been cut off."""
        self.closing = True
        unknown = OutcomeUnknown("this broker is not the master of its group any more")
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            job.done(None, False, unknown)
        records, self._first, self._records = [*self._first, *self._records], [], []
        for record in records:
            record.done(unknown)
        while self._waiting:
            self._waiting.popleft()[1](unknown)

    def _confirm(self) -> None:
        offset = self._store.synced_offset if self._sync_flush else self._store.end_offset
        if self.replicas is not None:
            offset = self.replicas.confirm(end=self._store.end_offset, synced=self._store.synced_offset)
        if offset > self.confirmed:
            self.confirmed = offset
        appended = self._appended
        if appended and appended[0][2].end_offset <= self.confirmed:
            arrived: list[Arrived] = []
            while appended and appended[0][2].end_offset <= self.confirmed:
                arrived.append(appended.popleft())
            for listener in self._listeners:
                listener(arrived)
        waiting = self._waiting  # after the readers: whoever waits for a message waits longest
        while waiting and waiting[0][0] <= self.confirmed:
            waiting.popleft()[1](None)
        if self._sync_flush and self._store.synced_offset < self._store.end_offset and not self._syncing:
            self._start_sync()

    def _start_sync(self) -> None:
        if self._failed is not None:
            return
        lately_ms = sorted(self._sync_times_ms)[len(self._sync_times_ms) // 2]
        quick = lately_ms < INLINE_SYNC_MS_MAX and self._sync_times_ms[-1] < INLINE_SYNC_LAST_MS_MAX
        if len(self._waiting) == 1 and quick:
            started = self._loop.time()
            try:
                self._store.note_synced(self._store.sync())
            except KourouError as failure:
                self._note_failure(failure)
                self._fail_waiting()
                return
            self._measure(started)
            self._confirm()
        else:
            self._syncing = True
            self._loop.create_task(self._sync_and_confirm())

    async def _sync_and_confirm(self) -> None:
        self._syncing = False
        await self._sync_in_thread()

    async def _sync_in_thread(self) -> None:
        self._syncing = True
        started = self._sync_began = self._loop.time()
        try:
            synced = await self._loop.run_in_executor(self._executor, self._store.sync)
            self._store.note_synced(synced)
        except KourouError as failure:
            self._note_failure(failure)
            self._fail_waiting()
            return
        finally:
            self._syncing, self._sync_began = False, None
        self._measure(started)
        self._confirm()

    def _measure(self, started: float) -> None:
        took_ms = (self._loop.time() - started) * 1000
        self._sync_times_ms.append(took_ms)
        self._sync_worst_ms = max(self._sync_worst_ms, took_ms)

    def slowest_sync(self) -> tuple[float, bool]:
        """The longest fdatasync since this was asked for last, in milliseconds; does it still run?"""
        worst_ms, self._sync_worst_ms = self._sync_worst_ms, 0.0
        if self._sync_began is None:
            return worst_ms, False
        return max(worst_ms, (self._loop.time() - self._sync_began) * 1000), True

    def fail(self, failure: FlushFailed) -> None:
        """Somebody else found out that the disk can't be trusted: nothing is acknowledged from here on."""
        self._note_failure(failure)
        self._fail_waiting()

    def _note_failure(self, failure: KourouError) -> None:
        if isinstance(failure, FlushFailed) and self._failed is None:
            self._failed = failure
            self._on_failure(str(failure))

    def _fail_waiting(self) -> None:
        failure = self._failed or FlushFailed("the disk could not make the data durable")
        while self._waiting:
            self._waiting.popleft()[1](failure)


def metadata_frame(encoded: list[bytes], *, born_ms: int) -> CheckedFrame:
    """A frame of metadata records that the broker itself seals."""
    return CheckedFrame.trusted(seal(topic="", queue_id=0, records=encoded, born_ms=born_ms, kind=Kind.METADATA))
