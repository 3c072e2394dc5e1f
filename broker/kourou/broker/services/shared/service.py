"""Receiving, acknowledging and putting off messages of shared groups on this broker.

A decision is applied at once and appended at the end of the loop's turn, so two receives never get the same message.
Hand-outs are answered without waiting for their record (losing one means an early redelivery); acknowledgements wait.
Receives with nothing to get are parked, and woken by new, redelivered and due messages.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kourou.broker.machines.ledger import QueueLedger
from kourou.broker.machines.shared import CHANGED, RENEWED, UNCOUNTED
from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.services.records import DecodedFrame, RecordReader
from kourou.broker.services.shared.alarms import Alarms, Place
from kourou.broker.services.shared.copies import Copies
from kourou.broker.services.shared.picking import Pick, Picker
from kourou.broker.services.shared.request import Delivery, Outcome, ReceiveRequest, Waiter
from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Store
from kourou.core.clock import Clock
from kourou.core.errors import Busy, InvalidReceiptHandle, KourouError, TooManyRequests, TopicNotFound
from kourou.core.frame import QUEUE_ID_MAX
from kourou.core.handles import Handles, Receipt, group_hash
from kourou.core.route import TopicType
from kourou.runtime import gc_tame

WAITING_MAX = 100_000
ATTEMPTS_KEPT = 10_000
EXHAUSTED_A_TURN = 256
COLLECT_EVERY = 8_192  # messages handed out: leases live for long
SERVED_AT_ONCE = 128  # messages of a receive, some milliseconds; it may have fewer than it asked for
HASTY_MS = 1_000  # at most so long a receive that does not want to wait is held for a read or a long look
BEGIN_A_RECORD = 1_024
FRESH_BYTES = 1024 * 1024 * 1024  # a queue whose first message is not further back in the log is new


@dataclass(slots=True, eq=False)
class Reader:
    """The receives of one group on one topic that are parked, and where there may be something for them."""

    group: str
    incarnation: int
    topic: str
    ordered: bool
    waiting: deque[Waiter] = field(default_factory=deque)
    ready: dict[int, None] = field(default_factory=dict)  # queues that may have something
    loading: set[int] = field(default_factory=set)  # queues whose next frame is read from the disk
    hasty: set[Waiter] = field(default_factory=set)  # of those that wait: for what is read or looked through now, no longer
    full: set[int] = field(default_factory=set)  # queues with as many open or parked messages as may be
    lows: dict[int, int] = field(default_factory=dict)  # lowest offset held, when the queue was last looked at
    attempts_max: int = 16
    scheduled: bool = False


class Buried(Protocol):
    """Where messages go that were handed out often enough."""

    def bury(self, group: str, incarnation: int, queue: int, offsets: list[int]) -> None: ...


class Log(Protocol):
    def warning(self, event: str, **fields: Any) -> Any: ...


class SharedService:
    def __init__(
        self,
        store: Store,
        state: BrokerState,
        journal: Journal,
        records: RecordReader,
        handles: Handles,
        *,
        clock: Clock,
        log: Log | None = None,
    ) -> None:
        self._log = log
        self.left_out = 0  # messages that could not be read
        self._store = store
        self._state = state
        self._journal = journal
        self._records = records
        self._handles = handles
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._readers: dict[tuple[str, int], Reader] = {}
        self._by_topic: dict[int, list[Reader]] = {}
        self._attempts: OrderedDict[tuple[str, int, str], list[tuple[int, int, int]]] = OrderedDict()
        self._parked = 0
        self._alarms = Alarms(self._loop, clock, self._rang)
        self._tasks: set[asyncio.Task[None]] = set()
        self._recovered: dict[Place, int] = {}  # serials at the start of this epoch
        self.graves: Buried | None = None
        self.messages_out = 0
        self._uncollected = 0
        self.acked = 0
        for group, incarnation in state.shared.places():
            for queue, ledger in state.shared.of(group, incarnation).items():
                self._recovered[group, incarnation, queue] = ledger.serial
                self._set_alarm(group, incarnation, queue, ledger)
        journal.on_confirmed(self._arrived)

    # ---- receiving

    def receive(self, request: ReceiveRequest, *, wait_ms: int, done: Callable[[Outcome], None]) -> Waiter:
        """``done`` gets the messages: at once, when there are some, or (none) after ``wait_ms``; or an error. One with
        limit 0 takes none: it is done when there may be some, its filter aside."""
        waiter = Waiter(request, done)
        try:
            self._journal.check_open()
            reader = self._reader(request)
            again = self._same_again(request) if request.attempt_id else []
            if again:
                waiter.finish(again)
            elif not self._serve(reader, waiter):
                self._park(reader, waiter, wait_ms)
        except KourouError as failure:
            waiter.finish(failure)
        return waiter

    def _park(self, reader: Reader, waiter: Waiter, wait_ms: int) -> None:
        if wait_ms <= 0:
            if not reader.loading and not reader.ready:
                waiter.finish([])
                return
            wait_ms = HASTY_MS
            reader.hasty.add(waiter)
        if self._parked >= WAITING_MAX:
            reader.hasty.discard(waiter)
            raise TooManyRequests(f"{WAITING_MAX} receives wait already", retry_after_ms=1_000)
        self._parked += 1
        reader.waiting.append(waiter)
        waiter.timer = self._loop.call_later(wait_ms / 1000, self._give_up, reader, waiter)

    def _give_up(self, reader: Reader, waiter: Waiter) -> None:
        if not waiter.finished:
            waiter.finish([])
            self.leave(reader, waiter)

    def leave(self, reader: Reader, waiter: Waiter) -> None:
        reader.hasty.discard(waiter)
        try:
            reader.waiting.remove(waiter)
        except ValueError:
            return
        self._parked -= 1

    def cancel(self, waiter: Waiter) -> None:
        """Whoever waits has gone."""
        waiter.end()
        waiter.cancelled = True
        request = waiter.request
        reader = self._readers.get((request.group, request.topic.incarnation))
        if reader is not None:
            self.leave(reader, waiter)

    def _reader(self, request: ReceiveRequest) -> Reader:
        reader = self._readers.get((request.group, request.topic.incarnation)) or self._open(request.group, request.topic)
        reader.attempts_max = request.attempts_max
        return reader

    def _open(self, group: str, topic: Topic) -> Reader:
        place = group, topic.incarnation
        ordered = topic.type in (TopicType.FIFO, TopicType.LITE)
        reader = self._readers[place] = Reader(*place, topic.name, ordered)
        self._by_topic.setdefault(topic.incarnation, []).append(reader)
        self._records.want(topic.incarnation)
        if topic.type is not TopicType.LITE:
            reader.ready = dict.fromkeys(range(topic.queues))
            if not self._state.shared.of(*place):
                self._begin(reader, topic.queues)
        return reader

    def _begin(self, reader: Reader, queues: int) -> None:
        """A group that is new on a topic. From here on a queue without a ledger is one that has begun since, and is read
        from its first message on, however much of it there is by then."""
        places: list[tuple[int, int]] = []
        for queue in range(queues):
            key = reader.incarnation << 32 | queue
            low, high = self._store.queue_bounds(key)
            if high or (queue == queues - 1 and not places):
                places.append((queue, self._first(key, low, high)))
        for at in range(0, len(places), BEGIN_A_RECORD):
            entries = places[at : at + BEGIN_A_RECORD]
            self._journal.submit_applied({"t": "pos", "g": reader.group, "i": reader.incarnation, "e": entries}, _ignore)

    def _serve(self, reader: Reader, waiter: Waiter) -> bool:
        """Answer a receive if there is anything for it."""
        request = waiter.request
        found: list[Delivery] = []
        limit, room = min(request.limit, SERVED_AT_ONCE), request.bytes_max
        broken: KourouError | None = None
        untold: list[int] = []
        copies = Copies() if self._journal.replicas is not None else None
        if not self._state.topics.is_live(reader.incarnation):
            raise TopicNotFound(f"topic {reader.topic} was deleted")
        if not request.limit:
            if self._order(reader, request):
                waiter.finish([])
            return waiter.finished
        for queue in self._order(reader, request):
            try:
                pick = self._pick(reader, request, queue, limit - len(found), room)
            except KourouError as failure:  # a damaged queue: said to whoever comes, but the others go on
                broken = failure
                reader.ready.pop(queue, None)
                untold.append(queue)
                continue
            if pick is None:
                continue
            more = self._hand_out(request, queue, pick, copies.one() if copies is not None else _ignore)
            found += more
            room -= pick.size
            if len(found) >= limit or room <= 0:
                break
        if found or isinstance(broken, Busy):  # an index is being made anew: the next receive finds it
            reader.ready.update(dict.fromkeys(untold))
        if not found:
            if broken is not None:
                raise broken
            return False
        if request.attempt_id:
            self._remember(request, found)
        self.messages_out += len(found)
        self._uncollected += len(found)
        if self._uncollected >= COLLECT_EVERY:
            self._uncollected = 0
            gc_tame.collect_young()
        if copies is None:
            waiter.finish(found)
        else:  # a lease that the next master doesn't know is none
            waiter.end()
            copies.then(lambda failure: self._tell(waiter, found, failure))
        return True

    def _tell(self, waiter: Waiter, found: list[Delivery], failure: KourouError | None) -> None:
        """What was handed out is in the log of every member that counts."""
        if failure is not None:
            waiter.done(failure)
        elif not waiter.cancelled:
            waiter.done(found)
        else:
            for delivery in found:
                self.put_off(waiter.request.group, delivery.handle, 0, uncounted=True, done=lambda outcome: None)

    @staticmethod
    def _order(reader: Reader, request: ReceiveRequest) -> list[int]:
        """Which queues to look into: the one that was asked for first; else each in its turn; urgent ones first."""
        if request.only is not None:
            few, many = sorted((reader.ready.keys(), request.only), key=len)
            return [queue for queue in list(few) if queue in many]
        ready = list(reader.ready)
        if request.topic.type is TopicType.PRIORITY:
            return sorted(ready, reverse=True)
        hint = request.queue
        if hint is not None and hint in reader.ready and len(ready) > 1:
            ready.remove(hint)
            ready.insert(0, hint)
        return ready

    def _pick(self, reader: Reader, request: ReceiveRequest, queue: int, limit: int, bytes_max: int) -> Pick | None:
        """What a queue has for a receive; None, and the queue is not looked at again for now, where there is nothing."""
        key = reader.incarnation << 32 | queue
        low, high = self._store.queue_bounds(key)
        ledger = self._state.shared.find(reader.group, reader.incarnation, queue)
        start = low
        if ledger is not None:
            if low > reader.lows.get(queue, 0):
                reader.lows[queue] = low
                self._taken(reader, queue, ledger.below(low))
            if ledger.ripen(self.now_ms()):
                self._bury(reader, queue, ledger)
            start = max(ledger.next, low)
            if ledger.full:
                reader.full.add(queue)
        if start >= high and (ledger is None or (not ledger.ripe and not ledger.free)):
            reader.ready.pop(queue, None)
            return None
        find = self._finder(key)
        picker = Picker(request, ledger, find, start=start, end=high, below=self._journal.confirmed)
        pick = picker.run(limit, bytes_max)
        for first, decoded in pick.left_out:
            self._leave_out(reader, queue, first, decoded)
        if pick.cold is not None and not self._records.is_unconfirmed(key, pick.cold):
            self._load(reader, queue, key, pick.cold)
        reader.ready.pop(queue, None)
        if pick.chosen or pick.more:
            reader.ready[queue] = None  # at the end of the line
        if pick.more and not pick.chosen:
            self._serve_soon(reader)
        if pick.chosen or pick.parked or pick.next > start:
            return pick
        return None

    def _leave_out(self, reader: Reader, queue: int, first: int, decoded: DecodedFrame) -> None:
        """A producer stored what nobody can read: that must not hold up what is behind it."""
        self.left_out += decoded.end - first
        if self._log is not None:
            self._log.warning(
                "messages_left_out", group=reader.group, topic=reader.topic, queue=queue, first_offset=first,
                last_offset=decoded.end - 1, log_offset=decoded.prefix.log_offset, reason=decoded.unreadable,
            )  # fmt: skip

    def _first(self, key: int, low: int, high: int) -> int:
        """Where a group that is new here begins: with what comes; but with all of a queue that is itself rather new."""
        if low == 0 < high:
            refs = self._store.index.refs(key, 0, limit=1)
            if refs and self._store.end_offset - refs[0].log_offset < FRESH_BYTES:
                return 0
        return high

    def _taken(self, reader: Reader, queue: int, offsets: list[int]) -> None:
        """Retention has taken messages that were not acknowledged yet: they hold nothing up any more."""
        if offsets:
            record = {"t": "ack", "g": reader.group, "i": reader.incarnation, "e": [(queue, offsets)]}
            self._journal.submit_applied(record, _ignore)

    def _finder(self, key: int) -> Callable[[int], DecodedFrame | None]:
        find = self._records.find
        return lambda offset: find(key, offset)

    def _hand_out(
        self, request: ReceiveRequest, queue: int, pick: Pick, confirmed: Callable[[KourouError | None], None]
    ) -> list[Delivery]:
        incarnation = request.topic.incarnation
        due_ms = self.now_ms() + request.invisible_ms
        self._journal.submit_applied(pick.record(request, queue, due_ms), confirmed)
        if not pick.chosen:
            return []
        ledger = self._state.shared.find(request.group, incarnation, queue)
        assert ledger is not None
        self._set_alarm(request.group, incarnation, queue, ledger)
        group, epoch, serial_of = group_hash(request.group), self._store.epoch, ledger.serial_of
        found = []
        for candidate, message in pick.chosen:
            serial = serial_of(candidate.offset)
            handle = self._handles.receipt(
                Receipt(epoch, group, incarnation, queue, candidate.offset, serial, candidate.attempt)
            )
            found.append(Delivery(message, request.topic.name, queue, handle, candidate.attempt, due_ms))
        return found

    # ---- the same receive again

    def _remember(self, request: ReceiveRequest, found: list[Delivery]) -> None:
        key = request.group, request.topic.incarnation, request.attempt_id
        leases = []
        for delivery in found:
            ledger = self._state.shared.find(request.group, request.topic.incarnation, delivery.queue)
            assert ledger is not None
            offset = delivery.message.queue_offset
            leases.append((delivery.queue, offset, ledger.serial_of(offset)))
        self._attempts[key] = leases
        self._attempts.move_to_end(key)
        if len(self._attempts) > ATTEMPTS_KEPT:
            self._attempts.popitem(last=False)

    def _same_again(self, request: ReceiveRequest) -> list[Delivery]:
        """What the same attempt got before, as far as it still holds it."""
        incarnation = request.topic.incarnation
        held = self._attempts.get((request.group, incarnation, request.attempt_id), ())
        found: list[Delivery] = []
        for queue, offset, serial in held:
            ledger = self._state.shared.find(request.group, incarnation, queue)
            lease = ledger.live(offset, serial) if ledger is not None else None
            if lease is None or lease.due_ms <= self.now_ms():
                continue
            decoded = self._records.find(incarnation << 32 | queue, offset)
            if decoded is None:
                break  # a later one must not come without it
            receipt = Receipt(
                self._store.epoch, group_hash(request.group), incarnation, queue, offset, serial, lease.attempt
            )
            message = decoded.message(offset)
            handle = self._handles.receipt(receipt)
            found.append(Delivery(message, request.topic.name, queue, handle, lease.attempt, lease.due_ms))
        return found

    # ---- waking

    def _arrived(self, arrived: list[Arrived]) -> None:
        by_topic = self._by_topic
        for key, _, _ in arrived if by_topic else ():
            queue = key & 0xFFFFFFFF
            if queue > QUEUE_ID_MAX:
                continue  # it waits for its time, or for a decision
            for reader in by_topic.get(key >> 32, ()):
                reader.ready[queue] = None
                if reader.waiting:
                    self._serve_soon(reader)

    def _serve_soon(self, reader: Reader) -> None:
        if not reader.scheduled:
            reader.scheduled = True
            self._loop.call_soon(self._serve_waiting, reader)

    def _serve_waiting(self, reader: Reader) -> None:
        """Give what there is to those who wait, the longest first."""
        reader.scheduled = False
        for _ in range(len(reader.waiting)):
            if not reader.ready:
                break
            waiter = reader.waiting.popleft()
            try:
                self._journal.check_open()
                served = waiter.finished or self._serve(reader, waiter)
            except KourouError as failure:
                waiter.finish(failure)
                served = True
            if served:
                self._parked -= 1
                reader.hasty.discard(waiter)
            else:
                reader.waiting.append(waiter)
        if reader.hasty and not reader.ready and not reader.loading:
            for waiter in list(reader.hasty):
                self._give_up(reader, waiter)

    def _load(self, reader: Reader, queue: int, key: int, offset: int) -> None:
        if queue in reader.loading:
            return
        reader.loading.add(queue)

        async def load() -> None:
            try:
                await self._records.load(key, offset)
                reader.ready[queue] = None
            except KourouError as failure:
                if not reader.waiting or isinstance(failure, Busy):
                    reader.ready[queue] = None  # for the next who comes
                for waiter in list(reader.waiting):
                    waiter.finish(failure)
                    self.leave(reader, waiter)
            finally:
                reader.loading.discard(queue)
                self._serve_soon(reader)

        task = self._loop.create_task(load())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_alarm(self, group: str, incarnation: int, queue: int, ledger: QueueLedger) -> None:
        due_ms = ledger.next_due_ms()
        if due_ms is not None:
            self._alarms.set((group, incarnation, queue), due_ms)

    def _rang(self, place: Place) -> None:
        """Leases of a queue are over: wake who waits, give up what was handed out often enough."""
        group, incarnation, queue = place
        ledger = self._state.shared.find(group, incarnation, queue)
        if ledger is None:
            return
        reader = self._readers.get((group, incarnation))
        if ledger.ripen(self.now_ms()):
            if reader is not None:
                reader.ready[queue] = None
                self._bury(reader, queue, ledger)
                if reader.waiting:
                    self._serve_soon(reader)
            elif (known := self._state.groups.find(group)) is not None:
                self._bury_in(group, incarnation, queue, ledger, known.max_attempts)
        self._set_alarm(group, incarnation, queue, ledger)

    def _bury(self, reader: Reader, queue: int, ledger: QueueLedger) -> None:
        self._bury_in(reader.group, reader.incarnation, queue, ledger, reader.attempts_max)

    def _bury_in(self, group: str, incarnation: int, queue: int, ledger: QueueLedger, attempts_max: int) -> None:
        if self.graves is None:
            return
        offsets = ledger.exhausted(attempts_max)
        if offsets:
            if len(offsets) > EXHAUSTED_A_TURN:
                del offsets[EXHAUSTED_A_TURN:]
                self._alarms.set((group, incarnation, queue), self.now_ms())
            ledger.dying.update(offsets)
            self.graves.bury(group, incarnation, queue, offsets)

    def look_again(self, group: str, topic: Topic, queues: Iterable[int]) -> None:
        """Somebody wants queues now that may have had messages before; he may come for them later."""
        reader = self._readers.get((group, topic.incarnation))
        if reader is None:
            reader = self._open(group, topic)
            if (known := self._state.groups.find(group)) is not None:
                reader.attempts_max = known.max_attempts
        reader.ready.update(dict.fromkeys(queues))
        if reader.waiting:
            self._serve_soon(reader)

    def freed(self, group: str, incarnation: int, queue: int) -> None:
        """Something was settled: in an ordered topic that may let others go, and in a queue that was full."""
        reader = self._readers.get((group, incarnation))
        if reader is not None and (reader.ordered or queue in reader.full):
            reader.full.discard(queue)
            reader.ready[queue] = None
            if reader.waiting:
                self._serve_soon(reader)

    # ---- settling

    def open_handle(self, group: str, text: str, topic: str | None = None) -> tuple[Receipt, QueueLedger | None]:
        """A handle of this group and, where it is said, of this topic. Raises InvalidReceiptHandle."""
        receipt = self._handles.open_receipt(text)
        if receipt.group_hash != group_hash(group):
            raise InvalidReceiptHandle(f"the handle does not belong to group {group}")
        if not self._state.topics.is_live(receipt.incarnation):
            raise InvalidReceiptHandle("the topic of the handle was deleted")
        if topic is not None:
            known = self._state.topics.find(topic)
            if known is None or known.incarnation != receipt.incarnation:
                raise InvalidReceiptHandle(f"the handle does not belong to topic {topic}")
        return receipt, self._state.shared.find(group, receipt.incarnation, receipt.queue)

    def _valid(self, group: str, ledger: QueueLedger, receipt: Receipt) -> bool:
        """Whether a delivery is still its receiver's to settle.

        Serials of hand-outs that were lost in a crash are given out again: a handle of an earlier epoch is good only for
        what was recovered.
        """
        lease = ledger.live(receipt.queue_offset, receipt.serial)
        if lease is None or lease.due_ms <= self.now_ms():
            return False
        if receipt.epoch == self._store.epoch:
            return True
        last = self._recovered.get((group, receipt.incarnation, receipt.queue), 0)
        return (last - receipt.serial) & 0xFFFFFFFF < 0x80000000

    def ack(
        self, group: str, handles: Sequence[str], done: Callable[[list[KourouError | None]], None], topic: str | None = None
    ) -> None:
        """Settle deliveries; ``done`` gets an error, or None, for each. Settled before is no error."""
        results: list[KourouError | None] = [None] * len(handles)
        settled: dict[int, dict[int, list[int]]] = {}
        for number, text in enumerate(handles):
            try:
                self._journal.check_open()
                receipt, ledger = self.open_handle(group, text, topic)
                if ledger is None or receipt.queue_offset >= ledger.next:
                    raise InvalidReceiptHandle("the delivery was lost in a restart; the message will come again")
                if self._valid(group, ledger, receipt):
                    queues = settled.setdefault(receipt.incarnation, {})
                    queues.setdefault(receipt.queue, []).append(receipt.queue_offset)
                elif receipt.queue_offset in ledger.open or receipt.queue_offset in ledger.parked:
                    raise InvalidReceiptHandle("the time of the delivery is over, or the message was delivered again since")
            except KourouError as failure:
                results[number] = failure
        if not settled:
            done(results)
            return
        missing = len(settled)

        def confirmed(failure: KourouError | None) -> None:
            nonlocal missing
            missing -= 1
            if failure is not None:
                results[:] = [failure if result is None else result for result in results]
            if missing == 0:
                done(results)

        for incarnation, queues in settled.items():
            self.acked += sum(map(len, queues.values()))
            record = {"t": "ack", "g": group, "i": incarnation, "e": list(queues.items())}
            self._journal.submit_applied(record, confirmed)
            for queue in queues:
                self.freed(group, incarnation, queue)

    def put_off(
        self, group: str, text: str, invisible_ms: int, *, uncounted: bool = False,
        done: Callable[[str | KourouError], None], topic: str | None = None,
    ) -> None:  # fmt: skip
        """Change when a delivered message comes back; ``done`` gets the new handle, or what is wrong."""
        try:
            self._journal.check_open()
            receipt, ledger = self.open_handle(group, text, topic)
            if ledger is None or not self._valid(group, ledger, receipt):
                raise InvalidReceiptHandle("the time of the delivery is over, or the message was settled since")
        except KourouError as failure:
            done(failure)
            return
        due_ms = self.now_ms() + invisible_ms
        counted = ledger.lease(receipt.queue_offset).attempt >= receipt.attempt  # it was not suspended before
        mode = UNCOUNTED if uncounted and counted else CHANGED
        self._due(group, receipt.incarnation, [(receipt.queue, receipt.queue_offset, due_ms, mode)], confirmed := _Once())
        lease = ledger.lease(receipt.queue_offset)
        handle = self._handles.receipt(receipt._replace(serial=lease.serial, epoch=self._store.epoch))
        confirmed.then(lambda failure: done(failure if failure is not None else handle))

    def now_ms(self) -> int:
        """The time that leases end by."""
        return self._clock.wall_ms()

    def renew(self, group: str, incarnation: int, queue: int, offset: int, serial: int, due_ms: int) -> bool:
        """Keep a delivered message invisible for longer, its handle staying good; False when it was settled."""
        ledger = self._state.shared.find(group, incarnation, queue)
        if ledger is None or ledger.live(offset, serial) is None:
            return False
        self._journal.check_open()
        self._due(group, incarnation, [(queue, offset, due_ms, RENEWED)], _ignore)
        return True

    def _due(
        self,
        group: str,
        incarnation: int,
        entries: list[tuple[int, int, int, int]],
        done: Callable[[KourouError | None], None],
    ) -> None:
        record = {"t": "due", "g": group, "i": incarnation, "e": entries}
        self._journal.submit_applied(record, done)
        for queue in {entry[0] for entry in entries}:
            ledger = self._state.shared.find(group, incarnation, queue)
            if ledger is not None:
                self._set_alarm(group, incarnation, queue, ledger)

    def holds(self, group: str, incarnation: int, queue: int, offset: int, serial: int) -> bool:
        """Whether a delivery is still neither settled nor delivered again."""
        ledger = self._state.shared.find(group, incarnation, queue)
        return ledger is not None and ledger.live(offset, serial) is not None

    # ---- the rest

    async def reset(self, group: str, incarnation: int, places: list[tuple[int, int]]) -> None:
        """Go on from (queue, offset); what is open is forgotten."""
        self._journal.check_open()
        future: asyncio.Future[None] = self._loop.create_future()
        once = _Once()
        record = {"t": "pos", "g": group, "i": incarnation, "e": places}
        self._journal.submit_applied(record, once)
        once.then(lambda failure: future.set_exception(failure) if failure is not None else future.set_result(None))
        reader = self._readers.get((group, incarnation))
        if reader is not None:
            reader.ready.update(dict.fromkeys(queue for queue, _ in places))
            self._serve_soon(reader)
        await future

    def topic_changed(self, name: str) -> None:
        """Created, grown or deleted: receives of a topic that is gone end."""
        for place, reader in list(self._readers.items()):
            if reader.topic != name:
                continue
            topic = self._state.topics.find(name)
            if topic is not None and topic.incarnation == reader.incarnation:
                if topic.type is not TopicType.LITE:
                    reader.ready.update(dict.fromkeys(range(topic.queues)))
                    self._serve_soon(reader)
                continue
            self._drop(place, reader)

    def group_deleted(self, group: str) -> None:
        for place, reader in list(self._readers.items()):
            if reader.group == group:
                self._drop(place, reader)

    def _drop(self, place: tuple[str, int], reader: Reader) -> None:
        del self._readers[place]
        readers = self._by_topic[reader.incarnation]
        readers.remove(reader)
        if not readers:
            del self._by_topic[reader.incarnation]
            self._records.forget(reader.incarnation)
        while reader.waiting:
            reader.waiting.popleft().finish([])
            self._parked -= 1

    @property
    def waiting(self) -> int:
        return self._parked

    def stop(self) -> None:
        self._alarms.stop()
        for reader in self._readers.values():
            while reader.waiting:
                reader.waiting.popleft().finish([])


class _Once:
    """A result that may come before or after somebody asks for it."""

    def __init__(self) -> None:
        self._result: list[KourouError | None] = []
        self._then: Callable[[KourouError | None], None] | None = None

    def __call__(self, failure: KourouError | None) -> None:
        if self._then is not None:
            self._then(failure)
        else:
            self._result.append(failure)

    def then(self, callback: Callable[[KourouError | None], None]) -> None:
        if self._result:
            callback(self._result[0])
        else:
            self._then = callback


def _ignore(failure: KourouError | None) -> None:
    """A hand-out that was not stored is an early redelivery after a restart, no more."""
