"""The consumer: subscribes at every broker of a topic, hands out what is delivered, commits what was finished.

A queue that is assigned has a position (next offset to be delivered) and a done offset (next offset to commit).
Deliveries carry the generation and session of their assignment; what does not fit is dropped. Credit, in bytes, bounds
what is fetched ahead: it is given back when a batch is taken out of the inbox.

Finished means: the loop's body has ended for it, which shows when the loop asks for the next one, or when the context is
left without an exception. From inside an iterator ``break`` looks the same as an exception in the body, so both leave the
message unfinished: a new loop is handed it again, and nothing is committed that a handler failed on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

from kourou.client import fork
from kourou.client.arguments import check_number
from kourou.client.batches import Batch
from kourou.client.cluster import Cluster
from kourou.client.damage import DamageReport
from kourou.client.delivered import ReceivedMessage
from kourou.client.options import ConsumerOptions, Start
from kourou.client.subscription import Position, Subscription
from kourou.core.errors import BadRequest, KourouError, NotConnected, QueueNotFound, TopicTypeMismatch
from kourou.core.names import check_topic
from kourou.core.route import TopicType

COMMIT_EVERY_S = 1.0

__all__ = ["Batch", "Consumer", "ConsumerOptions", "Start"]


class Consumer:
    """Made by ``Client.consumer``; use it in ``async with``, and read it with one loop at a time."""

    def __init__(self, cluster: Cluster, topic: str, options: ConsumerOptions) -> None:
        self.topic = check_topic(topic)
        self.options = options
        self.member = f"{cluster.client_id}-{secrets.token_hex(4)}"
        self._cluster = cluster
        self._subscriptions: dict[str, Subscription] = {}  # by broker
        self._inbox: deque[Batch] = deque()
        self._arrived = asyncio.Event()
        self._failure: KourouError | None = None
        self._committer: asyncio.Task[None] | None = None
        self._batch: Batch | None = None  # handed out, or being handed out message by message; not finished
        self._message: ReceivedMessage | None = None  # the message that the loop's body works on
        self._opened = False
        self.closed = False
        self.damage = DamageReport(options.group, options.on_damaged)
        fork.watch(self)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish_current()
        await self.close()

    async def open(self) -> None:
        """Subscribe. Raises what the brokers refuse (TopicNotFound, GroupShapeMismatch, …)."""
        if self._opened:
            return
        self._opened = True
        route = await self._cluster.route(self.topic)
        if route.type is TopicType.LITE:
            self._opened = False
            raise TopicTypeMismatch(f"topic {self.topic} has type lite: read it with shared_consumer(…, lite=[…])")
        failures: list[KourouError] = []
        try:
            for broker in route.brokers:
                if broker.queues:
                    subscription = self._subscriptions[broker.broker] = Subscription(self._cluster, self, broker.broker)
                    try:
                        await subscription.open()
                    except NotConnected as failure:
                        failures.append(failure)
            if failures and len(failures) == len(self._subscriptions):
                raise failures[0]
        except BaseException:
            await self.close()
            raise
        for subscription in self._subscriptions.values():
            subscription.keep()
        self._cluster.on_change(self._route_changed)  # not before: two subscriptions at a broker would expel each other
        self._route_changed()
        if self.options.auto_commit:
            self._committer = self._cluster.spawn(self._commit_periodically())

    def _route_changed(self) -> None:
        """Brokers that are new in the topic's route."""
        route = self._cluster.routes.get(self.topic)
        for broker in route.brokers if route is not None and self._opened and not self.closed else ():
            if broker.queues and broker.broker not in self._subscriptions:
                subscription = self._subscriptions[broker.broker] = Subscription(self._cluster, self, broker.broker)
                subscription.keep()

    def forked(self) -> None:
        """A member of a group can't be in two processes: the child's copy only says so."""
        self._subscriptions = {}
        self._inbox.clear()
        self._batch = self._message = self._committer = None
        self.closed = True
        self._failure = NotConnected("the consumer belongs to the process before the fork; make a new one in this process")

    # ---- what subscriptions report

    def delivered(self, position: Position, data: memoryview, start: int, next_offset: int) -> None:
        self._inbox.append(Batch(self, position, data, start, next_offset))
        self._arrived.set()

    def dropped(self, position: Position) -> None:
        """A position has ended: what waits of it is not handed out any more."""
        for batch in [batch for batch in self._inbox if batch.position is position]:
            self._inbox.remove(batch)
            self._credit(batch)

    def is_working_on(self, position: Position) -> bool:
        return self._batch is not None and self._batch.position is position

    def failed(self, failure: KourouError) -> None:
        """Something that reading on can't mend: the iteration raises it."""
        self._failure = self._failure or failure
        self._arrived.set()

    # ---- handing out

    def resume_reading(self) -> None:
        """A loop begins: what an earlier one did not finish comes first."""
        batch, message = self._batch, self._message
        self._batch = self._message = None
        if batch is None:
            return
        if batch.revoked:
            self.left(batch)
            return
        start = None if message is None else message.offset + (batch.position.done > message.offset)
        if start is None:
            self._inbox.appendleft(batch)
        elif start < batch.next_offset:
            self._inbox.appendleft(batch.rest(start))

    async def take(self) -> Batch | None:
        """The next batch that is not empty, to be worked on until ``left`` is called: a queue that is asked back
        meanwhile is let go of then. None when the consumer has been closed."""
        self._check_opened()
        while True:
            while not self._inbox:
                if self._failure is not None:
                    failure, self._failure = self._failure, self._failure if self.closed else None
                    raise failure
                if self.closed:
                    return None
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._inbox[0]
            rest = batch.decode()  # where that raises it stays there, until its queue is moved elsewhere
            self._inbox.popleft()
            if rest is not None:
                self._inbox.appendleft(rest)
            else:
                self._credit(batch)
            if batch.frames() and (self.options.tags is None or len(batch)):
                self._batch = batch
                return batch
            batch.done()

    def _check_opened(self) -> None:
        if not self._opened:
            raise NotConnected("the consumer is not open; use it in 'async with', or await open() first")
        self._cluster.check_loop()

    def _check_open(self) -> None:
        self._check_opened()
        if self.closed:
            raise self._failure or NotConnected("the consumer is closed")

    def _credit(self, batch: Batch) -> None:
        if not batch.credited:
            batch.credited = True
            batch.position.took(len(batch.data))

    def walk(self, batch: Batch) -> Iterator[ReceivedMessage]:
        """The messages of a batch that was taken; each is finished when the next one is asked for."""
        auto, position = self.options.auto_commit, batch.position
        for message in batch.messages():
            self._message = message
            yield message
            if self._message is not message:
                if self.closed or self._batch is not batch:
                    self._check_loop(batch)
                    return
            elif auto:
                position.done = message.offset + 1
            else:
                position.handed = message.offset + 1
            if position.gone or position.releasing is not None:
                self._message = None
                return
        self._message = None
        self.worked(batch)

    def worked(self, batch: Batch) -> None:
        """The loop's body has ended for all of a batch."""
        self._check_loop(batch)
        batch.position.handed = batch.next_offset
        if self.options.auto_commit:
            batch.position.finished(batch.next_offset)

    def _check_loop(self, batch: Batch) -> None:
        if not self.closed and self._batch is not None and self._batch is not batch:
            raise BadRequest("two loops read one consumer; make a consumer for each")

    def left(self, batch: Batch) -> None:
        """The work on a batch has ended."""
        self.put_down(batch)
        if batch.position.releasing is not None:
            batch.position.subscription.release(batch.position)

    def put_down(self, batch: Batch) -> None:
        """The same, from outside the loop: letting go of the queue is left to whoever sees it asked back."""
        if self._batch is batch:
            self._batch = self._message = None

    async def receive(self, *, timeout_s: float | None = None) -> Batch | None:
        """The next batch, or None when none has come within the time. The caller marks it ``done()``."""
        if timeout_s is not None:
            check_number("timeout_s", timeout_s, least=0)
        self.resume_reading()
        try:
            async with asyncio.timeout(timeout_s):
                batch = await self.take()
        except TimeoutError:
            return None
        if batch is None:
            raise NotConnected("the consumer is closed")
        self._batch = None  # what the caller does with it shows in ``done`` alone
        return batch

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches as they come. With automatic commit a batch is finished when the loop's body is."""
        self.resume_reading()
        while (batch := await self.take()) is not None:
            yield batch
            self.worked(batch)
            self.left(batch)

    async def __aiter__(self) -> AsyncIterator[ReceivedMessage]:
        """Messages as they come. With automatic commit a message is finished when the loop's body is."""
        self.resume_reading()
        while (batch := await self.take()) is not None:
            for message in self.walk(batch):
                yield message
            self.left(batch)

    def finish_current(self) -> None:
        """The context is left without an exception: what was handed out last counts as finished."""
        batch, message = self._batch, self._message
        if batch is not None and self.options.auto_commit:
            batch.position.finished(batch.next_offset if message is None else message.offset + 1)

    def finished(self, batch: Batch) -> None:
        """The caller marked a batch itself."""
        if self._batch is batch:
            self.left(batch)

    # ---- control

    @property
    def damaged_count(self) -> int:
        """Messages that could not be read and were left out so far."""
        return self.damage.count

    @property
    def assignment(self) -> list[tuple[str, int]]:
        """(broker, queue id) of the queues that this consumer has now."""
        return sorted((s.broker, queue) for s in self._subscriptions.values() for queue in s.positions)

    def done(self, message: ReceivedMessage) -> None:
        """Mark a message, and all before it in its queue, as finished (manual commit).

        Of one that was handed out before the queue was revoked, or its offset was set anew, nothing is marked: it will be
        handed out again.
        """
        if not isinstance(message, ReceivedMessage):
            raise BadRequest(f"done takes a message that was received, not {type(message).__name__}")
        position = message.position or self._position(message.broker, message.queue)
        if position is not None:
            position.finished(message.offset + 1)

    async def commit(self) -> None:
        """Commit, now, what is finished and what the loop has handed out. Raises what the brokers answer."""
        self._check_open()
        batch, message = self._batch, self._message
        if batch is not None:
            batch.position.handed = batch.next_offset if message is None else message.offset + 1
        for subscription in list(self._subscriptions.values()):
            for position in subscription.positions.values():
                position.finished(position.handed)
            await subscription.commit()

    def _position(self, broker: str | None, queue: int) -> Position | None:
        for subscription in self._subscriptions.values():
            if broker in (None, subscription.broker) and queue in subscription.positions:
                return subscription.positions[queue]
        return None

    async def seek(self, queue: int, to: Start | int, *, broker: str | None = None) -> None:
        """Go on reading a queue from somewhere else. ``broker`` is needed where several have a queue of that number."""
        self._check_open()
        position = self._position(broker, queue)
        if position is None:
            raise QueueNotFound(f"queue {queue} is not assigned to this consumer")
        await position.subscription.seek(position, {"offset": to} if isinstance(to, int) else to)

    async def pause(self, queue: int | None = None, *, broker: str | None = None) -> None:
        """Have nothing more delivered (of one queue) until ``resume``; what has arrived already still comes."""
        await self._flow(queue, broker, True)

    async def resume(self, queue: int | None = None, *, broker: str | None = None) -> None:
        await self._flow(queue, broker, False)

    async def _flow(self, queue: int | None, broker: str | None, paused: bool) -> None:
        self._check_open()
        for subscription in list(self._subscriptions.values()):
            if broker in (None, subscription.broker):
                await subscription.pause(None if queue is None else [queue], paused)

    async def _commit_periodically(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            for subscription in list(self._subscriptions.values()):
                try:
                    await subscription.commit()
                except KourouError:
                    continue  # the next round, or the next owner, goes on from the last commit

    async def close(self) -> None:
        """Commit what is finished, give the queues back, stop."""
        if self.closed:
            return
        self.closed = True
        self._arrived.set()
        self._cluster.off_change(self._route_changed)
        if self._committer is not None:
            self._committer.cancel()
        for subscription in self._subscriptions.values():
            await subscription.close(commit=self.options.auto_commit)
        self._inbox.clear()
        self._batch = self._message = None

    def subscribe_request(self) -> dict[str, Any]:
        options = self.options
        return {
            "group": options.group,
            "topic": self.topic,
            "mode": options.mode,
            "member": self.member,
            "start": options.start,
            "tags": sorted(options.tags) if options.tags is not None else None,
            "credit": options.credit,
            "slave_reads": True,
        }
