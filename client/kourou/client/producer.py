"""The producer: gathers messages into frames, picks queues, keeps frames under way, retries, tells how it ended.

A message goes into an open batch. The batch is closed when it is full, when nothing is under way (so a lone message does
not wait), or when its linger time is over. Closed batches wait for a slot at a broker; a batch is sealed when it gets one.

    open -> closed -> under way -> stored
                          |-> refused: for good, or again later (ordered: the same queue; else any) -> the last refusal
                          |-> unknown: the same bytes again on a new connection, until the deadline -> OutcomeUnknown

``logic/deadlines.py`` says how late an attempt may start: one whose answer nobody would hear makes the outcome unknown.

Order: frames of a FIFO topic are pinned to their queue and go one at a time for each queue, so none can overtake another.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from kourou.client import fork
from kourou.client.arguments import check_number, check_positive, check_whole
from kourou.client.cluster import Cluster
from kourou.client.dispatch import Dispatcher
from kourou.client.lite import LiteQueues
from kourou.client.logic.batch import Batch, Outcome, QueueName, Stored
from kourou.client.logic.chunks import chunks
from kourou.client.logic.selector import Selector
from kourou.client.logic.types import check_route
from kourou.client.many import Many
from kourou.client.message import (
    Message,
    Receipt,
    check_body,
    check_message_group,
    check_priority,
    due_ms_of,
    encode_half,
    encode_properties,
)
from kourou.client.recalls import recall
from kourou.client.receipts import Receipts, SendFailed, make_receipt
from kourou.client.transactions.checks import Checker, TransactionChecks
from kourou.client.transactions.transaction import Transaction
from kourou.core.compression import parse as parse_compression
from kourou.core.errors import (
    BadRequest,
    BodyTooLarge,
    InvalidRecallHandle,
    KourouError,
    NotConnected,
    TopicTypeMismatch,
)
from kourou.core.frame import HALF
from kourou.core.limits import BODY_BYTES_MAX, RECORDS_PER_FRAME_MAX
from kourou.core.route import TopicRoute, TopicType
from kourou.core.siphash import message_group_index

REAP_S = 0.1
POST_FAILURES_MAX = 1_000
BATCH_BYTES_MAX = 4 * 1024 * 1024


class Producer:
    """Made by ``Client.producer``."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        linger_ms: float,
        batch_bytes: int,
        compression: str | None,
        deadline_s: float,
        buffer_bytes: int,
        checks: TransactionChecks,
        checker: Checker | None = None,
        transaction_topics: Iterable[str] = (),
    ) -> None:
        self._cluster = cluster
        self._linger_s = check_number("linger_ms", linger_ms, least=0, most=10_000) / 1000
        self._batch_bytes = check_whole("batch_bytes", batch_bytes, least=1, most=BATCH_BYTES_MAX)
        self._compression = parse_compression(compression)
        self._deadline_s = check_positive("deadline_s", deadline_s)
        self._buffer_bytes = check_positive("buffer_bytes", buffer_bytes)
        self._closed = self._forked = False
        self._checks = checks.register(checker, transaction_topics)
        self._selector = Selector(cluster.rng)
        self._lite = LiteQueues(cluster)
        self._loop = asyncio.get_running_loop()
        self._start()
        self._dispatcher = self._new_dispatcher()
        fork.watch(self)

    def _start(self) -> None:
        """With an identity of its own, and nothing under way."""
        self.id = random.SystemRandom().getrandbits(63) | 1
        self._open: dict[tuple[str, QueueName | None], Batch] = {}
        self._lingering: dict[Batch, asyncio.TimerHandle] = {}
        self._live: dict[int, Batch] = {}  # batches that are not finished, by number, rising
        self._number = 0
        self._turn = 0  # of the brokers of topics with priorities
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()  # (last batch they wait for, …), rising
        self._buffered = 0  # bytes in all batches
        self._last_count = 1  # records of the last closed batch
        self._flush_scheduled = False
        self._room: deque[asyncio.Future[None]] = deque()
        self._post_failures: list[tuple[int, KourouError]] = []
        self._posted_topic = ""
        self._reaper: asyncio.TimerHandle | None = None

    def _new_dispatcher(self) -> Dispatcher:
        dispatcher = Dispatcher(
            self._cluster,
            loop=self._loop,
            producer_id=self.id,
            compression=self._compression,
            deadline_s=self._deadline_s,
            finished=self._finish,
            settled=self._settled,
        )
        self._cluster.on_change(dispatcher.route_changed)
        return dispatcher

    def forked(self) -> None:
        """In the child the messages under way are the parent's; their senders are not here either."""
        fork.bury(self._loop, self._dispatcher, self._lingering, self._flushes, self._room, self._reaper)
        self._cluster.off_change(self._dispatcher.route_changed)
        self._start()
        self._forked = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- sending

    async def send(
        self,
        topic: str,
        body: bytes | str,
        *,
        key: str | None = None,
        keys: Sequence[str] = (),
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
        message_group: str | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | float | None = None,
        priority: int | None = None,
        lite_topic: str | None = None,
    ) -> Receipt:
        """Send one message and wait until it is stored.

        Topics of type fifo take a ``message_group``, of type delay a ``delay`` (timedelta or seconds) or ``deliver_at``
        (datetime or seconds since 1970 UTC), of type priority a ``priority`` (higher is more urgent), of type lite a
        ``lite_topic``.
        Raises what it was refused with (where trying again might help, only when that lasted until the deadline),
        DeadlineExceeded when it was never sent, OutcomeUnknown when it was sent but the answer never came.
        """
        route = self._known(topic) or await self._route(topic)
        self._check_loop()
        if self._buffered >= self._buffer_bytes:
            await self._wait_for_room()
        future: asyncio.Future[Receipt] = self._loop.create_future()

        def called(number: int, outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, Stored):
                future.set_result(make_receipt(topic, outcome, number))
            else:
                future.set_exception(outcome)

        if (
            key is None
            and tag is None
            and not keys
            and not properties
            and message_group is None
            and delay is None
            and deliver_at is None
            and priority is None
            and lite_topic is None
        ):
            self._add(route, check_body(body), None, called)
        else:
            if lite_topic is not None and route.type is TopicType.LITE:
                await self._find_lite(route, lite_topic)
            message = Message(b"", key, tag, keys, properties or {}, message_group, delay, deliver_at, priority, lite_topic)
            self._add(route, check_body(body), message, called)
        return await future

    async def post(
        self,
        topic: str,
        body: bytes | str,
        *,
        key: str | None = None,
        keys: Sequence[str] = (),
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
        message_group: str | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | float | None = None,
        priority: int | None = None,
        lite_topic: str | None = None,
    ) -> None:
        """Send one message without waiting for the outcome, only for room in the buffer; ``flush`` tells how it went."""
        route = self._known(topic) or await self._route(topic)
        self._check_loop()
        if self._buffered >= self._buffer_bytes:
            await self._wait_for_room()
        if (
            key is None
            and tag is None
            and not keys
            and not properties
            and message_group is None
            and delay is None
            and deliver_at is None
            and priority is None
            and lite_topic is None
        ):
            self._add(route, body if type(body) is bytes else check_body(body), None, None)
        else:
            if lite_topic is not None and route.type is TopicType.LITE:
                await self._find_lite(route, lite_topic)
            message = Message(b"", key, tag, keys, properties or {}, message_group, delay, deliver_at, priority, lite_topic)
            self._add(route, check_body(body), message, None)

    def try_post(self, topic: str, body: bytes | str, fields: Mapping[str, Any]) -> bool:
        """``post`` where it need not wait; False when it would have to."""
        route = self._known(topic)
        if route is None or self._buffered >= self._buffer_bytes:
            return False
        message = Message(b"", **fields) if fields else None
        if route.type is TopicType.LITE:
            return False
        self._add(route, check_body(body), message, None)
        return True

    async def flush(self) -> None:
        """Wait until everything given to ``post`` so far has an outcome. Raises SendFailed if any of it was not stored."""
        self._close_open()
        if self._live:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushes.append((self._number, future))
            await future
        if self._post_failures:
            failures, self._post_failures = self._post_failures, []
            raise SendFailed(self._posted_topic, failures)

    async def send_many(self, topic: str, messages: Iterable[bytes | str | Message]) -> Receipts:
        """Send many messages and wait until all are stored. Plain bytes are the fastest.

        Nothing is sent when one of the messages is not legal. Raises SendFailed if any was not stored.
        """
        route = self._known(topic) or await self._route(topic)
        self._check_loop()
        given = messages if isinstance(messages, list) else list(messages)
        many = Many(topic, self._loop.create_future())
        if set(map(type, given)) <= {bytes}:
            await self._send_bodies(route, given, many)  # type: ignore[arg-type]
        else:
            await self._send_messages(route, given, many)
        return await many.wait(len(given))

    async def _send_bodies(self, route: TopicRoute, bodies: list[bytes], many: Many) -> None:
        check_route(route, None)
        if self._closed:
            raise NotConnected("the producer is closed")
        if not bodies:
            return
        sizes = list(map(len, bodies))
        largest = max(sizes)
        if largest > BODY_BYTES_MAX:
            raise BodyTooLarge(f"a body has {largest} bytes; the limit is {BODY_BYTES_MAX}")
        for start, end, size in chunks(sizes, largest, self._batch_bytes):
            if self._buffered >= self._buffer_bytes:
                await self._wait_for_room()
            batch = self._new_batch(route.topic, None, many.expect(start))
            batch.records = bodies[start:end] if end - start < len(bodies) else bodies
            batch.size = size
            self._buffered += size
            self._dispatcher.add(batch)
            self._dispatcher.pump()

    async def _send_messages(self, route: TopicRoute, given: Sequence[bytes | str | Message], many: Many) -> None:
        prepared: list[tuple[bytes, Message | None, bytes]] = []
        for item in given:
            message = item if isinstance(item, Message) else None
            body = check_body(message.body if message is not None else item)
            check_route(route, message)
            prepared.append((body, message, encode_properties(message) if message is not None else b""))
        for number, (body, message, properties) in enumerate(prepared):
            if self._buffered >= self._buffer_bytes:
                await self._wait_for_room()
            if route.type is TopicType.LITE and message is not None:
                await self._find_lite(route, message.lite_topic)
            self._add(route, body, message, many.expect_one(number), properties)
        self._close_open()

    async def send_half(self, topic: str, body: bytes, message: Message, recovery_ms: int | None) -> Stored:
        """Store a half message of a transaction, in a frame of its own."""
        route = self._known(topic) or await self._route(topic)
        self._check_loop()
        if route.type is not TopicType.TRANSACTION:
            raise TopicTypeMismatch(
                f"topic {topic} has type {route.type.value}: transactions need a topic of type transaction"
            )
        if message.message_group is not None or message.delay is not None or message.priority is not None:
            raise TopicTypeMismatch("messages of transactions have no message group, delay or priority")
        if self._closed:
            raise NotConnected("the producer is closed")
        properties = encode_properties(message) + encode_half(recovery_ms)
        if self._buffered >= self._buffer_bytes:
            await self._wait_for_room()
        future: asyncio.Future[Stored] = self._loop.create_future()

        def done(batch: Batch, outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, Stored):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

        batch = self._new_batch(topic, None, done)
        batch.attributes, batch.plain = HALF, False
        batch.add(body, properties, batch.first_born_ms, tag=message.tag, keys=message.all_keys, group=None)
        self._buffered += batch.size
        self._dispatcher.add(batch)
        self._dispatcher.pump()
        return await future

    def transaction(
        self,
        topic: str,
        *,
        check_after_s: float | None = None,
        timeout_s: float = 10.0,
    ) -> Transaction:
        """``async with producer.transaction("orders") as tx``: what is sent in it is seen by consumers when it is left
        without an exception, and never when it is left by one.

        When a broker does not hear how it ended it asks a producer of the topic that has a ``transaction_checker``.
        ``check_after_s``: when it asks first; ``timeout_s``: for commit and rollback.
        """
        return Transaction(self, self._cluster, self._checks, topic, check_after_s, timeout_s)

    async def recall(self, receipt: Receipt | str, *, topic: str | None = None) -> str:
        """Take a delayed message back; its id. ``receipt``, or its ``recall_handle`` with the topic.

        Raises InvalidRecallHandle when it was delivered, or recalled, before.
        """
        if isinstance(receipt, Receipt):
            if receipt.recall_handle is None:
                raise InvalidRecallHandle(f"message {receipt.id} was not delayed")
            return await recall(self._cluster, receipt.topic, receipt.recall_handle)
        if topic is None:
            raise BadRequest("a recall handle needs the topic of its message")
        return await recall(self._cluster, topic, receipt)

    def _known(self, topic: str) -> TopicRoute | None:
        try:
            return self._cluster.routes.get(topic)
        except TypeError:  # not hashable
            raise BadRequest(f"topic name must be a string, not {type(topic).__name__}") from None

    def _check_loop(self) -> None:
        """Before anything is taken: what is sent from another loop could not be waited for."""
        if asyncio._get_running_loop() is not self._loop:
            self._cluster.check_loop()

    async def _find_lite(self, route: TopicRoute, name: object) -> None:
        """Before the message is added."""
        await self._lite.find(route, name, deadline=self._loop.time() + self._deadline_s)

    async def _route(self, topic: str) -> TopicRoute:
        """A topic that is met for the first time; after a fork that is each, on the loop of the new process."""
        if self._forked:
            self._forked = False
            self._loop = asyncio.get_running_loop()
            self._dispatcher = self._new_dispatcher()
        return await self._cluster.route(topic)

    # ---- batches

    def _add(
        self,
        route: TopicRoute,
        body: bytes,
        message: Message | None,
        called: Callable[[int, Outcome], None] | None,
        properties: bytes | None = None,
    ) -> None:
        if self._closed:
            raise NotConnected("the producer is closed")
        pinned: QueueName | None = None
        due_ms: int | None = None
        if message is not None or route.type is not TopicType.NORMAL:
            check_route(route, message)
            if message is not None and route.type is not TopicType.NORMAL:
                pinned, due_ms = self._place(route, message)
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge(f"the body has {len(body)} bytes; the limit is {BODY_BYTES_MAX}")
        if properties is None or due_ms is not None:
            properties = encode_properties(message, due_ms) if message is not None else b""
        place = (route.topic, pinned)
        batch = self._open.get(place)
        if batch is not None and batch.size + len(body) > self._batch_bytes:
            self._close(place)
            batch = None
        fresh = batch is None
        if batch is None:
            batch = self._open[place] = self._new_batch(route.topic, pinned, None)
            batch.plain = route.type is TopicType.NORMAL
        born_ms = batch.first_born_ms if fresh else time.time_ns() // 1_000_000
        number = len(batch.records)
        before = batch.size
        if message is None:
            batch.add_body(body, born_ms)
        else:
            batch.add(
                body,
                properties,
                born_ms,
                tag=message.tag,
                keys=message.all_keys,
                group=message.message_group,
                due_ms=due_ms,
                priority=message.priority,
            )
        self._buffered += batch.size - before
        if called is not None:
            batch.waiters.append((number, called))
        else:
            self._posted_topic = route.topic
        if batch.size >= self._batch_bytes or number + 1 >= RECORDS_PER_FRAME_MAX:
            self._close(place)
            self._dispatcher.pump()
        elif len(self._live) == len(self._open):  # nothing closed is under way
            self._flush_soon()
        elif fresh:
            self._start_linger(place, batch)

    def _place(self, route: TopicRoute, message: Message) -> tuple[QueueName | None, int | None]:
        """(queue that it has to go to, when it is due)."""
        if message.message_group is not None:
            check_message_group(message.message_group)
            queues = self._selector.declared(route)
            return queues[message_group_index(message.message_group, len(queues))], None
        if message.lite_topic is not None:
            return self._lite.place(route, message.lite_topic), None
        if message.priority is not None:
            masters = self._cluster.masters
            places = [place for place in route.brokers if place.queues]
            places = [place for place in places if masters.get(place.broker) is not None] or places
            self._turn += 1
            place = places[self._turn % len(places)]
            return (place.broker, min(check_priority(message.priority), place.queues - 1)), None
        return None, due_ms_of(message, now_ms=time.time_ns() // 1_000_000)

    def _new_batch(self, topic: str, pinned: QueueName | None, done: Callable[[Batch, Outcome], None] | None) -> Batch:
        if self._reaper is None:
            self._reaper = self._loop.call_later(REAP_S, self._reap)
        deadline = self._loop.time() + self._deadline_s
        batch = Batch(topic, pinned=pinned, deadline=deadline, born_ms=time.time_ns() // 1_000_000, done=done)
        self._number = batch.number = self._number + 1
        self._live[batch.number] = batch
        return batch

    def _start_linger(self, place: tuple[str, QueueName | None], batch: Batch) -> None:
        self._lingering[batch] = self._loop.call_later(self._linger_s, self._lingered, place, batch)

    def _lingered(self, place: tuple[str, QueueName | None], batch: Batch) -> None:
        if self._open.get(place) is batch:
            self._close(place)
            self._dispatcher.pump()

    def _flush_soon(self) -> None:
        """Nothing is under way: don't wait. A lone sender's message goes at once; where many send together, at the end of
        the loop's turn, so that they share a frame."""
        if self._last_count <= 1:
            self._close_open()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_scheduled = False
        self._close_open()

    def _close_open(self) -> None:
        if self._open:
            for place in list(self._open):
                self._close(place)
            self._dispatcher.pump()

    def _close(self, place: tuple[str, QueueName | None]) -> None:
        batch = self._open.pop(place)
        timer = self._lingering.pop(batch, None)
        if timer is not None:
            timer.cancel()
        self._last_count = len(batch.records)
        self._dispatcher.add(batch)

    # ---- outcomes

    def _finish(self, batch: Batch, outcome: Outcome) -> None:
        live = self._live
        del live[batch.number]
        self._buffered -= batch.size
        if isinstance(outcome, KourouError) and batch.done is None:
            self._note_failure(len(batch.records) - len(batch.waiters), outcome)
        batch.finish(outcome)
        if self._room:
            self._let_in()
        while self._flushes and (not live or next(iter(live)) > self._flushes[0][0]):
            _, future = self._flushes.popleft()
            if not future.done():
                future.set_result(None)

    def _note_failure(self, posted: int, failure: KourouError) -> None:
        """For ``flush``. Where nobody calls it, the count goes on and the reasons stop."""
        failures = self._post_failures
        if len(failures) >= POST_FAILURES_MAX:
            failures[-1] = (failures[-1][0] + posted, failures[-1][1])
        elif posted:
            failures.append((posted, failure))

    def _let_in(self) -> None:
        """Wake one that waits for room; it wakes the next while there is more."""
        while self._room and self._buffered < self._buffer_bytes:
            future = self._room.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def _wait_for_room(self) -> None:
        """Back-pressure: the buffer is full."""
        self._close_open()
        try:
            while self._buffered >= self._buffer_bytes:
                future: asyncio.Future[None] = self._loop.create_future()
                self._room.append(future)
                await future
        finally:
            self._let_in()  # also where this one was cancelled after it had been woken

    def _settled(self) -> None:
        """An answer has come: where nothing else is under way, what has gathered meanwhile goes now."""
        if self._open and len(self._live) == len(self._open):
            self._flush_now()
        elif self._dispatcher.waiting:
            self._dispatcher.pump()

    def _reap(self) -> None:
        self._reaper = None
        self._dispatcher.reap()
        if self._live and self._reaper is None:
            self._reaper = self._loop.call_later(REAP_S, self._reap)

    async def close(self) -> None:
        """Send what is still there, wait for the outcomes, and stop. Failures of ``post`` are raised as by ``flush``."""
        if self._closed:
            return
        self._checks.close()
        try:
            await self.flush()
        finally:
            self._closed = True
            self._dispatcher.closed = True
            self._cluster.off_change(self._dispatcher.route_changed)
            if self._reaper is not None:
                self._reaper.cancel()
