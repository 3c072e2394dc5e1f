"""Pushing frames to subscribers: each has cursors on its queues and credit; frames leave exactly as they lie in the log.

A cursor is *ready* when its queue may have frames below the confirm offset, else it waits to be woken by the journal.
One turn sends a subscription at most TURN_BYTES_MAX from at most TURN_CURSORS_MAX cursors, round robin over those that are
ready, so that neither a big backlog nor a busy queue nor very many queues starve the others. Pages that are not in the
page cache are read in a thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Protocol

from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.services.mended import POLL_S
from kourou.broker.store.store import ReadPlan, Store
from kourou.core.errors import Busy, KourouError, OffsetOutOfRange
from kourou.core.frame import Buffer

TURN_BYTES_MAX = 1024 * 1024
TURN_CURSORS_MAX = 128  # looking where a queue's frames lie takes 5 µs
READ_BYTES_MAX = 256 * 1024
CLOSED_AT_ONCE = 1_000  # cursors of a subscription that has ended

Generation = tuple[int, int]


class Outlet(Protocol):
    """The connection of a subscriber, as far as deliveries need it."""

    @property
    def writable(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def deliver(self, subscription: int, cursor: Cursor, parts: Sequence[Buffer], next_offset: int) -> None:
        """Send frames (or an empty body, which only moves the position)."""
        ...

    def elsewhere(self, subscription: int, cursor: Cursor, replicas: Sequence[int]) -> None:
        """What follows is to be read at one of these slaves; nothing is sent of the queue until the cursor is set anew."""
        ...

    def failed(self, subscription: int, cursor: Cursor, failure: KourouError) -> None:
        """The queue can't be read on (damage); the subscriber must be told."""
        ...


@dataclass(slots=True, eq=False)
class Cursor:
    """Where one subscription is in one queue."""

    subscription: Subscription
    key: int
    queue_id: int
    generation: Generation
    session: int
    offset: int
    paused: bool = False
    waiting: bool = False  # to be woken
    queued: bool = False  # among the ready ones
    stays: bool = False  # is not sent to a slave (again)
    gone: bool = False


@dataclass(slots=True, eq=False)
class Subscription:
    number: int
    group: str
    topic: str
    mode: str
    member: str
    tag_hashes: frozenset[int] | None
    outlet: Outlet
    credit: int
    cursors: dict[int, Cursor] = field(default_factory=dict)  # by queue id
    ready: deque[Cursor] = field(default_factory=deque)
    scheduled: bool = False
    reading: bool = False  # a cold read is under way in a thread
    closed: bool = False
    may_leave: bool = False  # the client can read at slaves


class DeliveryService:
    """Moves frames from the log to subscribers as credit and the confirm offset allow."""

    def __init__(self, store: Store, journal: Journal, *, read_executor: Executor) -> None:
        self._store = store
        self._journal = journal
        self._executor = read_executor
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Cursor | dict[Cursor, None]] = {}  # by queue key; most have one reader
        self._tasks: set[asyncio.Task[None]] = set()
        self.messages_out = 0
        self.bytes_out = 0
        self.cold_reads = 0
        self.sent_elsewhere = 0
        self.slaves_for: Callable[[int], Sequence[int]] = lambda behind: ()  # who reads so many bytes behind may go there
        journal.on_confirmed(self._arrived)

    # ---- what subscriptions do

    def start(self, subscription: Subscription, cursor: Cursor, *, at_end: bool) -> None:
        """Begin, or begin again, to deliver a queue from the cursor's offset. ``at_end``: where its next frame will be."""
        self.stop(subscription, cursor.queue_id)
        subscription.cursors[cursor.queue_id] = cursor
        if at_end:
            self._wait(cursor)
        else:
            self._ready(cursor)
            self._schedule(subscription)

    def stop(self, subscription: Subscription, queue_id: int) -> None:
        """Deliver nothing more of a queue."""
        cursor = subscription.cursors.pop(queue_id, None)
        if cursor is not None:
            cursor.gone = True
            self._unwait(cursor)

    def hold(self, subscription: Subscription, queue_id: int) -> None:
        """The same, but the queue is still the subscription's: it can be paused until ``start``, or ``stop``, follows."""
        cursor = subscription.cursors.get(queue_id)
        if cursor is not None:
            cursor.gone = True
            self._unwait(cursor)

    def close(self, subscription: Subscription) -> None:
        """The subscription has ended. Its cursors are taken out bit by bit, when there are very many."""
        subscription.closed = True
        subscription.ready.clear()
        self._take_out(subscription)

    def _take_out(self, subscription: Subscription) -> None:
        for queue_id in list(islice(subscription.cursors, CLOSED_AT_ONCE)):
            self.stop(subscription, queue_id)
        if subscription.cursors:
            self._loop.call_soon(self._take_out, subscription)

    def grant(self, subscription: Subscription, count: int) -> None:
        """More credit; the client has taken ``count`` bytes off its hands."""
        subscription.credit += count
        self._schedule(subscription)

    def pause(self, subscription: Subscription, queue_id: int, paused: bool) -> None:
        cursor = subscription.cursors.get(queue_id)
        if cursor is None or cursor.paused == paused:
            return
        cursor.paused = paused
        if not paused and not cursor.waiting and not cursor.gone:
            self._ready(cursor)
            self._schedule(subscription)

    def writable(self, subscription: Subscription) -> None:
        self._schedule(subscription)

    # ---- inside

    def _arrived(self, arrived: list[Arrived]) -> None:
        """Frames have come below the confirm offset. Who waits at their queue's end gets them as they are in memory; who
        can't take them now reads them from the log later."""
        waiting = self._waiting
        for key, checked, placed in arrived if waiting else ():
            found = waiting.get(key)
            if found is None:
                continue
            for cursor in (found,) if isinstance(found, Cursor) else list(found):
                subscription = cursor.subscription
                if (
                    placed.queue_offset == cursor.offset
                    and subscription.tag_hashes is None
                    and not subscription.closed
                    and not cursor.paused
                    and subscription.credit > 0
                    and subscription.outlet.writable
                ):
                    self._sent(subscription, cursor, (placed.prefix, checked.sealed), checked.header.record_count)
                    continue
                self._unwait(cursor)
                if subscription.closed:
                    continue
                self._ready(cursor)
                if subscription.credit > 0:
                    self._schedule(subscription)

    def _sent(self, subscription: Subscription, cursor: Cursor, parts: Sequence[Buffer], count: int) -> None:
        """Send ``count`` records from the cursor on."""
        size = sum(map(len, parts))
        self.messages_out += count
        self.bytes_out += size
        cursor.offset += count
        subscription.credit -= size
        subscription.outlet.deliver(subscription.number, cursor, parts, cursor.offset)

    def _unwait(self, cursor: Cursor) -> None:
        if cursor.waiting:
            cursor.waiting = False
            found = self._waiting[cursor.key]
            if isinstance(found, dict):
                del found[cursor]
                if found:
                    return
            del self._waiting[cursor.key]

    @staticmethod
    def _ready(cursor: Cursor) -> None:
        if not cursor.queued:
            cursor.queued = True
            cursor.subscription.ready.append(cursor)

    def _wait(self, cursor: Cursor) -> None:
        if cursor.waiting:
            return
        cursor.waiting = True
        found = self._waiting.get(cursor.key)
        if found is None:
            self._waiting[cursor.key] = cursor
        elif isinstance(found, Cursor):
            self._waiting[cursor.key] = {found: None, cursor: None}
        else:
            found[cursor] = None

    def _schedule(self, subscription: Subscription) -> None:
        if not subscription.scheduled and not subscription.reading and subscription.ready:
            subscription.scheduled = True
            self._loop.call_soon(self._turn, subscription)

    def _turn(self, subscription: Subscription) -> None:
        subscription.scheduled = False
        sent = looked = 0
        while self._may_send(subscription) and sent < TURN_BYTES_MAX and looked < TURN_CURSORS_MAX:
            looked += 1
            cursor = subscription.ready.popleft()
            cursor.queued = False
            if cursor.gone or cursor.paused:
                continue
            try:
                plan = self._plan(subscription, cursor)
                if subscription.may_leave and plan.spans and self._send_elsewhere(subscription, cursor, plan):
                    continue
                data = self._store.read(plan, cached_only=True)
            except KourouError as failure:
                self._unreadable(subscription, cursor, failure)
                continue
            if data is None:
                self._read_cold(subscription, cursor, plan)
                return
            sent += self._took(subscription, cursor, plan, data)
        if self._may_send(subscription):
            self._schedule(subscription)

    @staticmethod
    def _may_send(subscription: Subscription) -> bool:
        return bool(
            subscription.ready
            and subscription.credit > 0
            and subscription.outlet.writable
            and not subscription.outlet.closed
            and not subscription.closed
        )

    def _plan(self, subscription: Subscription, cursor: Cursor) -> ReadPlan:
        return self._store.plan(
            cursor.key,
            cursor.offset,
            bytes_max=min(READ_BYTES_MAX, max(subscription.credit, 1)),
            below=self._journal.confirmed,
            tag_hashes=subscription.tag_hashes,
            topic=subscription.topic,
        )

    def _send_elsewhere(self, subscription: Subscription, cursor: Cursor, plan: ReadPlan) -> bool:
        """Is it so far behind that a slave had better read it, and is there one?"""
        replicas = () if cursor.stays else self.slaves_for(self._journal.confirmed - plan.log_offset)
        if not replicas:
            return False
        cursor.gone = True
        self.sent_elsewhere += 1
        subscription.outlet.elsewhere(subscription.number, cursor, replicas)
        return True

    def _took(self, subscription: Subscription, cursor: Cursor, plan: ReadPlan, data: bytes) -> int:
        """Send what was read; the bytes sent. The cursor goes to the end of the line, or waits at the end of its queue."""
        size = len(data)
        if plan.next_offset > cursor.offset:
            self._sent(subscription, cursor, (data,), plan.next_offset - cursor.offset)
            self._ready(cursor)
        else:
            self._wait(cursor)
        return size

    def _unreadable(self, subscription: Subscription, cursor: Cursor, failure: KourouError) -> None:
        if isinstance(failure, OffsetOutOfRange):
            low, high = self._store.queue_bounds(cursor.key)
            if cursor.offset < low:  # retention passed the reader by
                cursor.offset = low
                subscription.outlet.deliver(subscription.number, cursor, (), low)
                self._ready(cursor)
            elif cursor.offset > high:
                cursor.gone = True
                subscription.outlet.failed(subscription.number, cursor, failure)
            else:
                self._wait(cursor)
            return
        if isinstance(failure, Busy):  # an index is being made anew
            self._loop.call_later(POLL_S, self._again, subscription, cursor)
            return
        cursor.gone = True
        subscription.outlet.failed(subscription.number, cursor, failure)

    def _again(self, subscription: Subscription, cursor: Cursor) -> None:
        if not cursor.gone and not subscription.closed:
            self._ready(cursor)
            self._schedule(subscription)

    def _read_cold(self, subscription: Subscription, cursor: Cursor, plan: ReadPlan) -> None:
        subscription.reading = True
        self.cold_reads += 1
        task = self._loop.create_task(self._finish_cold(subscription, cursor, plan))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish_cold(self, subscription: Subscription, cursor: Cursor, plan: ReadPlan) -> None:
        try:
            data = await self._loop.run_in_executor(self._executor, partial(self._store.read, plan, cached_only=False))
            assert data is not None
        except KourouError as failure:
            subscription.reading = False
            if not cursor.gone:
                self._unreadable(subscription, cursor, failure)
        else:
            subscription.reading = False
            if not cursor.gone and not subscription.closed:
                self._took(subscription, cursor, plan, data)
        self._schedule(subscription)
