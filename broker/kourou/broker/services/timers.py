"""Delivering delayed messages: when the time of one has come, a copy is stored in its queue, which retires it.

One task does it, in order of the times, so that order holds within each queue. Times are wall-clock times; the alarm is
set again at least twice a second, so that a clock that was put forward is noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Protocol

from kourou.broker.machines.timers import Timer
from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.services.moves import FRAME_BYTES_SOFT, Move, Mover
from kourou.broker.services.records import DecodedFrame, RecordReader, StoredMessage
from kourou.broker.services.state import BrokerState
from kourou.core.clock import Clock
from kourou.core.errors import Corrupted, IllegalDeliveryTime, InvalidRecallHandle, KourouError
from kourou.core.frame import TIMER_ROOM
from kourou.core.handles import Recall
from kourou.core.sources import Reason, Source

BATCH = 512
ALARM_S = 0.5
RETRY_S = 1.0
DELAY_MS_MAX = 40 * 86_400_000


class Log(Protocol):
    def warning(self, event: str, **fields: Any) -> Any: ...


class TimerService:
    def __init__(
        self,
        state: BrokerState,
        journal: Journal,
        records: RecordReader,
        mover: Mover,
        *,
        clock: Clock,
        log: Log,
        delay_ms_max: int,
    ) -> None:
        self._state = state
        self._journal = journal
        self._records = records
        self._mover = mover
        self._clock = clock
        self._log = log
        self._delay_ms_max = delay_ms_max
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_ms = 0
        self._task: asyncio.Task[None] | None = None
        self._recalled: set[tuple[int, int]] = set()  # on their way to being recalled
        self.delivered = 0
        self.late_ms_max = 0
        journal.on_confirmed(self._arrived)

    def start(self) -> None:
        self._set_alarm()

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            self._task.cancel()

    def check_due(self, due_ms: int) -> None:
        """Raises IllegalDeliveryTime when a message may not wait that long."""
        ahead_ms = due_ms - self._clock.wall_ms()
        if ahead_ms > self._delay_ms_max:
            limit = self._delay_ms_max / 86_400_000
            raise IllegalDeliveryTime(
                f"delivery time is {ahead_ms / 86_400_000:.1f} days ahead; the limit is {limit:g} days"
            )

    async def recall(self, recall: Recall) -> StoredMessage:
        """Take a delayed message back; what it was. Raises InvalidRecallHandle when it is no longer waiting."""
        place = recall.log_offset, recall.record
        timer = self._state.timers.find(place)
        if timer is None or timer.due_ms != recall.due_ms or place in self._recalled:
            raise InvalidRecallHandle("the message is no longer waiting: it was delivered or recalled before")
        self._recalled.add(place)
        try:
            message = StoredMessage(await self._records.at(timer.log_offset), timer.record)
            if self._state.timers.find(place) is None:
                raise InvalidRecallHandle("the message is no longer waiting: it was just delivered")
            await self._journal.write([{"t": "tm-", "e": [place]}])
        finally:
            self._recalled.discard(place)
        return message

    # ---- the alarm

    def _arrived(self, arrived: list[Arrived]) -> None:
        if any(key & TIMER_ROOM for key, _, _ in arrived):
            due_ms = self._state.timers.next_due_ms()
            if due_ms is not None and (due_ms < self._alarm_ms or self._alarm is None):
                self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._task is not None and not self._task.done():
            return
        due_ms = self._state.timers.next_due_ms()
        if due_ms is None:
            return
        self._alarm_ms = due_ms
        wait_s = max(0.0, (due_ms - self._clock.wall_ms()) / 1000)
        self._alarm = self._loop.call_later(min(wait_s, ALARM_S), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        due_ms = self._state.timers.next_due_ms()
        if due_ms is not None and due_ms <= self._clock.wall_ms():
            self._task = self._loop.create_task(self._deliver())
        else:
            self._set_alarm()

    async def _deliver(self) -> None:
        timers = self._state.timers
        retry = False
        try:
            while due := timers.take_due(self._clock.wall_ms(), BATCH):
                try:
                    await self._deliver_batch(due)
                except KourouError as failure:
                    timers.give_back(timer for timer in due if timers.find((timer.log_offset, timer.record)) is not None)
                    self._log.warning("timers_not_delivered", count=len(due), reason=str(failure))
                    retry = True
                    return
        finally:
            self._task = None
            if retry:
                self._alarm = self._loop.call_later(RETRY_S, self._ring)
            elif not self._journal.closing:
                self._set_alarm()

    async def _deliver_batch(self, due: list[Timer]) -> None:
        """Store the copies: one frame for each queue and run of timers."""
        for (incarnation, queue), timers in groupby(sorted(due, key=_queue), key=_queue):
            topic_name = self._state.topics.named(incarnation)
            if topic_name is None:
                continue
            topic = self._state.topics.get(topic_name)
            async for moves in self._moves(list(timers)):
                if self._state.topics.is_live(incarnation):
                    await self._mover.move(topic, queue, moves)
                    self.delivered += len(moves)
        self.late_ms_max = max(self.late_ms_max, self._clock.wall_ms() - due[0].due_ms)

    async def _moves(self, timers: list[Timer]) -> Any:
        """Copies to be made, in portions that fit a frame."""
        frames: dict[int, DecodedFrame] = {}
        moves: list[Move] = []
        size = 0
        for timer in timers:
            place = timer.log_offset, timer.record
            if timer.log_offset not in frames:
                try:
                    frames[timer.log_offset] = await self._records.at(timer.log_offset)
                except Corrupted as failure:
                    self._log.warning("timer_unreadable", log_offset=timer.log_offset, reason=str(failure))
                    continue
            if self._state.timers.find(place) is None or place in self._recalled:
                continue  # recalled meanwhile
            message = StoredMessage(frames[timer.log_offset], timer.record)
            length = len(message.body) + len(message.block)
            if moves and size + length > FRAME_BYTES_SOFT:
                yield moves
                moves, size = [], 0
            moves.append(Move(message, Source(Reason.TIMER, *place)))
            size += length
        if moves:
            yield moves

    def scheduled(self, topic: str, *, limit: int) -> Iterator[Timer]:
        """What waits in a topic, soonest first."""
        return iter(self._state.timers.of_topic(self._state.topics.get(topic).incarnation, limit=limit))


def _queue(timer: Timer) -> tuple[int, int]:
    return timer.incarnation, timer.queue
