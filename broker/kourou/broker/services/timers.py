"""Delivering delayed messages: when the time of one has come, a copy is stored in its queue, which retires it.

One task does it, in order of the times, so that order holds within each queue. Times are wall-clock times; the alarm is
set again at least twice a second, so that a clock that was put forward is noticed. Timers come from memory and from
buckets (``timerwindows``), which ``timerkeeper`` writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from itertools import groupby
from typing import Any, Protocol

from kourou.broker.machines.timerpages import NEVER_MS
from kourou.broker.machines.timers import Place, Timer
from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.services.moves import FRAME_BYTES_SOFT, Move, Mover
from kourou.broker.services.records import DecodedFrame, RecordReader, StoredMessage
from kourou.broker.services.state import BrokerState
from kourou.broker.services.timerkeeper import PAGES_FULL, PAGES_MAX, TimerKeeper
from kourou.broker.services.timerwindows import Waiting, Windows
from kourou.broker.store.store import Appended, Store
from kourou.broker.store.timerformat import Entry
from kourou.core import frame
from kourou.core.clock import Clock
from kourou.core.errors import Corrupted, IllegalDeliveryTime, InvalidRecallHandle, KourouError, TooManyRequests
from kourou.core.frame import PREFIX_SIZE, TIMER_ROOM
from kourou.core.handles import Recall
from kourou.core.ids import format_id
from kourou.core.sources import Reason, Source

BATCH = 512
PORTION = 128  # copies made in one go, a millisecond or two
ALARM_S = 0.5
BLOCKED_S = 0.005  # what is due is being recalled
RETRY_S = 1.0
LOAD_AHEAD_MS = 1_000  # blocks of buckets are at hand so long before their first timer is due
TRIES = 3  # then a message that can't be read is given up, by name
BODIES_BYTES_MAX = 32 * 1024 * 1024  # of a batch, in memory together
SCHEDULED_MAX = 1_000  # listed at a time


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...


class BucketMessage(StoredMessage):
    """A message as it lies in a bucket: it has no frame any more."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry, record: bytes) -> None:
        self._entry = entry
        self.number = entry.record
        self.block, self.body = record[: entry.properties_size], record[entry.properties_size :]
        self.born_ms = entry.born_ms

    @property
    def native_id(self) -> str:
        entry = self._entry
        if entry.producer_id:
            return format_id(entry.producer_id, entry.sequence, entry.record)
        return f"{entry.log_offset:016X}{entry.record:08X}"


@dataclass(slots=True)
class _Due:
    timer: Timer
    waiting: Waiting | None  # where it lies, if not in memory
    message: StoredMessage | Corrupted | None = None


class TimerService:
    def __init__(
        self,
        store: Store,
        state: BrokerState,
        journal: Journal,
        records: RecordReader,
        mover: Mover,
        *,
        read_executor: Executor,
        write_executor: Executor,
        clock: Clock,
        log: Log,
        delay_ms_max: int,
        pages_max: int = PAGES_MAX,
        pages_full: int = PAGES_FULL,
    ) -> None:
        self._store = store
        self._state = state
        self._journal = journal
        self._records = records
        self._mover = mover
        self._executor = read_executor
        self._clock = clock
        self._log = log
        self._delay_ms_max = delay_ms_max
        self._pages_full = pages_full
        self._loop = asyncio.get_running_loop()
        self._between = asyncio.Lock()  # held while a batch is being delivered: nothing in it moves to a bucket
        self.windows = Windows(state.timers, store.files, executor=read_executor, clock=clock, log=log)
        self.keeper = TimerKeeper(
            store,
            state.timers,
            journal,
            executor=write_executor,
            clock=clock,
            log=log,
            pages_max=pages_max,
            between=self._between,
        )
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_ms = 0
        self._task: asyncio.Task[None] | None = None
        self._moving: set[Place] = set()  # being delivered
        self._recalled: set[Place] = set()  # on their way to being recalled
        self._failures: dict[Place, int] = {}  # of messages that could not be read
        self.delivered = 0
        self.given_up = 0
        self.late_ms_max = 0
        journal.on_confirmed(self._arrived)

    def start(self) -> None:
        """*Blocking*, a little: the heads of the buckets are looked at."""
        self.keeper.open()
        self._set_alarm()

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            self._task.cancel()

    def check_due(self, due_ms: int) -> None:
        """Raises IllegalDeliveryTime when a message may not wait that long, TooManyRequests when so many come at once that
        buckets can't be written as fast."""
        ahead_ms = due_ms - self._clock.wall_ms()
        if ahead_ms > self._delay_ms_max:
            days, limit = ahead_ms / 86_400_000, self._delay_ms_max / 86_400_000
            raise IllegalDeliveryTime(f"delivery time is {days:.1f} days ahead; the limit is {limit:g} days")
        if self._state.timers.pages >= self._pages_full:
            raise TooManyRequests(
                f"{len(self._state.timers)} delayed messages wait, too many of them still in memory", retry_after_ms=200
            )

    # ---- recall and list

    async def recall(self, recall: Recall, *, incarnation: int | None = None) -> StoredMessage:
        """Take a delayed message back; what it was. Raises InvalidRecallHandle when it is no longer waiting, or not in
        the topic with this incarnation."""
        place = recall.log_offset, recall.record
        if place in self._recalled or place in self._moving:
            raise InvalidRecallHandle("the message is no longer waiting: it is being delivered or recalled")
        self._recalled.add(place)
        try:
            while True:  # again when the timer moved to another place meanwhile
                timer = self._state.timers.find(place)
                if timer is not None:
                    message = await self._recall_from_memory(timer, recall, incarnation)
                else:
                    message = await self._recall_from_bucket(recall, incarnation)
                if message is not None:
                    return message
        finally:
            self._recalled.discard(place)

    async def _recall_from_memory(self, timer: Timer, recall: Recall, incarnation: int | None) -> StoredMessage | None:
        if timer.due_ms != recall.due_ms:
            raise InvalidRecallHandle("the handle does not fit the message")
        _check_topic(timer.incarnation, incarnation)
        message = StoredMessage(await self._records.at(timer.log_offset), timer.record)
        self._journal.settle()
        if self._state.timers.find(timer.place) is None:
            return None
        await self._journal.write([{"t": "tm-", "e": [timer.place]}])
        return message

    async def _recall_from_bucket(self, recall: Recall, incarnation: int | None) -> StoredMessage | None:
        timers = self._state.timers
        place = recall.log_offset, recall.record
        for bucket in list(timers.buckets.values()):
            if not (bucket.start <= place < bucket.end and recall.due_ms <= bucket.last_due_ms):
                continue
            try:
                file = await self.windows.file(bucket.number)
                found = await self._loop.run_in_executor(self._executor, file.find, recall.due_ms, *place)
                if found is None or self.windows.is_retired(bucket.number, *found):
                    continue
                position, entry = found
                _check_topic(entry.incarnation, incarnation)
                message = BucketMessage(entry, await self._loop.run_in_executor(self._executor, file.record, entry))
            except Corrupted:
                if bucket.number not in timers.buckets:
                    return None  # merged meanwhile
                raise
            self._journal.settle()
            if bucket.number not in timers.buckets:
                return None
            if self.windows.is_retired(bucket.number, position, entry):
                break
            await self._journal.write([{"t": "tm-", "b": [[bucket.number, position, entry.incarnation]]}])
            return message
        if timers.find(place) is not None:
            return None
        raise InvalidRecallHandle("the message is no longer waiting: it was delivered or recalled before")

    async def scheduled(self, topic: str, *, limit: int, from_ms: int = 0) -> tuple[int, list[Timer]]:
        """(how many wait in a topic, those that are due at or after a time), soonest first. Buckets are searched in a
        thread."""
        timers = self._state.timers
        incarnation = self._state.topics.get(topic).incarnation
        found: list[Timer] = []
        for page in timers.of_topic(incarnation):
            found = nsmallest(limit, [*found, *(timer for timer in page if timer.due_ms >= from_ms)])
            await asyncio.sleep(0)
        for bucket in list(timers.buckets.values()):
            upto_ms = found[-1].due_ms if len(found) == limit else NEVER_MS
            if not (from_ms <= bucket.last_due_ms and bucket.next_due_ms <= upto_ms):
                continue
            if timers.buckets.get(bucket.number) is not bucket:
                continue
            try:
                file = await self.windows.file(bucket.number)
                search = partial(  # what it needs is bound now: the bucket may change
                    file.of_topic, incarnation, from_ms=from_ms, upto_ms=upto_ms, limit=limit + len(timers.moved),
                    floor=bucket.floor, bits=bytes(bucket.bits),
                )  # fmt: skip
                entries = await self._loop.run_in_executor(self._executor, search)
            except Corrupted:
                if bucket.number in timers.buckets:
                    raise
                return await self.scheduled(topic, limit=limit, from_ms=from_ms)  # merged meanwhile
            waiting = (Timer(e.due_ms, e.log_offset, e.record, e.incarnation, e.queue) for e in entries)
            found = nsmallest(limit, {*found, *(timer for timer in waiting if timer.place not in timers.moved)})
        return timers.count(incarnation), found

    # ---- the alarm

    def next_due_ms(self) -> int | None:
        """Nothing that waits is due before; None when nothing waits."""
        times = self._state.timers.next_due_ms(), self.windows.next_due_ms()
        return min((due_ms for due_ms in times if due_ms is not None), default=None)

    def _arrived(self, arrived: list[Arrived]) -> None:
        if any(key & TIMER_ROOM for key, _, _ in arrived):
            due_ms = self._state.timers.next_due_ms()
            if due_ms is not None and (due_ms < self._alarm_ms or self._alarm is None):
                self._set_alarm()

    def _set_alarm(self, *, after_s: float = 0.0) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._task is not None and not self._task.done():
            return
        due_ms = self.next_due_ms()
        if due_ms is None and not self._state.timers.buckets:
            return
        self._alarm_ms = due_ms if due_ms is not None else 0
        wait_s = (due_ms - self._clock.wall_ms()) / 1000 if due_ms is not None else ALARM_S
        self._alarm = self._loop.call_later(max(after_s, min(wait_s, ALARM_S)), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now_ms = self._clock.wall_ms()
        due_ms = self.next_due_ms()
        if due_ms is not None and (due_ms <= now_ms or self.windows.wants(now_ms + LOAD_AHEAD_MS)):
            self._task = self._loop.create_task(self._run())
        else:
            self._set_alarm()

    async def _run(self) -> None:
        after_s = 0.0
        try:
            await self.windows.load(self._clock.wall_ms() + LOAD_AHEAD_MS)
            if not await self.fire():
                after_s = BLOCKED_S
        except KourouError as failure:
            self._log.warning("timers_not_delivered", reason=str(failure))
            after_s = RETRY_S
        finally:
            self._task = None
            if not self._journal.closing:
                self._set_alarm(after_s=after_s)

    async def fire(self) -> bool:
        """Deliver everything whose time has come. False when something of it is just being recalled. Raises what kept
        copies from being stored."""
        while (due_ms := self.next_due_ms()) is not None and due_ms <= self._clock.wall_ms():
            if not await self._deliver_batch():
                return False
        return True

    # ---- delivering

    async def _deliver_batch(self) -> bool:
        """Store the copies of what is due; whether there was any. Raises what kept them from being stored."""
        async with self._between:
            now_ms = self._clock.wall_ms()
            await self.windows.load(now_ms)
            batch = self._take(now_ms)
            if not batch:
                self._say_floors(now_ms)
                return not self._recalled
            self._moving.update(due.timer.place for due in batch)
            try:
                await self._loop.run_in_executor(self._executor, self._read, batch)
                await self._give_up_unreadable(batch)
                await self._store_copies(batch)
            finally:
                self._moving.clear()
                timers = self._state.timers
                timers.give_back(d.timer for d in batch if d.waiting is None and timers.find(d.timer.place) is not None)
                self._say_floors(now_ms)
            self.late_ms_max = max(self.late_ms_max, self._clock.wall_ms() - batch[0].timer.due_ms)
            return True

    def _take(self, now_ms: int) -> list[_Due]:
        """The next of both kinds, in order."""
        timers = self._state.timers
        waiting, bound = self.windows.upcoming(now_ms, BATCH, without=self._recalled)
        taken = timers.take_due(now_ms, BATCH)
        found = [_Due(timer, None) for timer in taken] + [_Due(each.timer, each) for each in waiting]
        found.sort(key=lambda due: due.timer[:3])
        batch = [due for due in found[:BATCH] if due.timer[:3] < bound and due.timer.place not in self._recalled]
        chosen = {due.timer.place for due in batch}
        timers.give_back(timer for timer in taken if timer.place not in chosen)
        return batch

    def _read(self, batch: list[_Due]) -> None:
        """*Blocking*. Fill in the messages, as many as fit into memory; what can't be read is an error in its place."""
        size = 0
        frames: dict[int, DecodedFrame | Corrupted] = {}
        in_buckets: dict[int, list[_Due]] = {}
        for due in batch:
            if size > BODIES_BYTES_MAX:
                break  # the rest comes with the next batch
            if due.waiting is not None:
                size += due.waiting.entry.size
                in_buckets.setdefault(due.waiting.bucket, []).append(due)
                continue
            due.message = self._read_from_log(due.timer.place, frames)
            if isinstance(due.message, StoredMessage):
                size += len(due.message.body) + len(due.message.block)
        for bucket, some in in_buckets.items():
            entries = [due.waiting.entry for due in some if due.waiting is not None]
            for due, entry, record in zip(some, entries, self.windows.opened(bucket).records(entries), strict=True):
                if isinstance(record, bytes):
                    due.message = BucketMessage(entry, record)
                    continue
                message = self._read_from_log(due.timer.place, frames)  # where it may still be
                due.message = message if isinstance(message, StoredMessage) else record

    def _read_from_log(self, place: Place, frames: dict[int, DecodedFrame | Corrupted]) -> StoredMessage | Corrupted:
        log_offset, record = place
        if log_offset not in frames:
            try:
                data = self._store.read_frame(log_offset)
                frames[log_offset] = DecodedFrame(*frame.check_frame(data), data, PREFIX_SIZE)
            except Corrupted as failure:
                frames[log_offset] = failure
        found = frames[log_offset]
        return StoredMessage(found, record) if isinstance(found, DecodedFrame) else found

    async def _give_up_unreadable(self, batch: list[_Due]) -> None:
        lost: list[Place] = []
        for due in batch:
            if not isinstance(due.message, Corrupted):
                continue
            place = due.timer.place
            self._failures[place] = self._failures.get(place, 0) + 1
            if self._failures[place] < TRIES:
                continue
            del self._failures[place]
            self.given_up += 1
            self._log.warning(
                "timer_unreadable", topic=self._state.topics.named(due.timer.incarnation), log_offset=place[0],
                record=place[1], due_ms=due.timer.due_ms, reason=str(due.message),
            )  # fmt: skip
            if due.waiting is None:
                lost.append(place)
            else:
                self.windows.unreadable.add(place)
        if lost:
            await self._journal.write([{"t": "tm-", "e": lost}])

    async def _store_copies(self, batch: list[_Due]) -> None:
        """One frame for each queue and run of timers; all are confirmed, or the first failure is raised."""
        stored = _Stored(self._loop)
        for (incarnation, queue), some in groupby(sorted(batch, key=_queue), key=_queue):
            for portion in _portions([due for due in some if isinstance(due.message, StoredMessage)]):
                topic = self._state.topics.named(incarnation)
                if topic is None or stored.failure is not None:
                    break
                moves = [
                    Move(due.message, Source(Reason.TIMER, *due.timer.place))
                    for due in portion
                    if isinstance(due.message, StoredMessage) and self._is_pending(due)
                ]
                if moves:
                    self._submit(self._state.topics.get(topic), queue, moves, stored)
                    await asyncio.sleep(0)
        await stored.wait()

    def _submit(self, topic: Topic, queue: int, moves: list[Move], stored: _Stored) -> None:
        count = len(moves)

        def done(result: Appended | None, failure: KourouError | None) -> None:
            if result is not None:
                self.delivered += count
            stored.one_done(failure)

        stored.missing += 1
        self._mover.submit(topic, queue, moves, done)

    def _is_pending(self, due: _Due) -> bool:
        if due.waiting is None:
            return self._state.timers.find(due.timer.place) is not None
        return not self.windows.is_retired(due.waiting.bucket, due.waiting.position, due.waiting.entry)

    def _say_floors(self, now_ms: int) -> None:
        """Tell the log how far the buckets are delivered."""
        try:
            self._journal.check_open()
        except KourouError:
            return  # later
        record = self.windows.floors(now_ms)
        if record is not None:
            self._journal.submit_applied(record, lambda failure: None)


class _Stored:
    """Waits for frames of copies."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.missing = 0
        self.failure: KourouError | None = None
        self._done = loop.create_future()
        self._waits = False

    def one_done(self, failure: KourouError | None) -> None:
        self.missing -= 1
        self.failure = self.failure or failure
        self._check()

    def _check(self) -> None:
        if self._waits and not self.missing and not self._done.done():
            self._done.set_result(None)

    async def wait(self) -> None:
        self._waits = True
        self._check()
        await self._done
        if self.failure is not None:
            raise self.failure


def _portions(some: list[_Due]) -> Iterator[list[_Due]]:
    """Copies that are made together and share a frame."""
    portion: list[_Due] = []
    size = 0
    for due in some:
        assert isinstance(due.message, StoredMessage)
        length = len(due.message.body) + len(due.message.block)
        if portion and (size + length > FRAME_BYTES_SOFT or len(portion) == PORTION):
            yield portion
            portion, size = [], 0
        portion.append(due)
        size += length
    if portion:
        yield portion


def _queue(due: _Due) -> tuple[int, int]:
    return due.timer.incarnation, due.timer.queue


def _check_topic(found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise InvalidRecallHandle("the handle does not belong to this topic")
