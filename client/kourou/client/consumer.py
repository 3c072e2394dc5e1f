"""The consumer: subscribes at every broker of a topic, hands out what is delivered, commits what was finished.

A queue that is assigned has a position (next offset to hand out) and a done offset (next offset to commit). Deliveries
carry the generation and session of their assignment; what does not fit is dropped. Credit, in bytes, bounds what is
fetched ahead: it is given back when a batch is taken out of the inbox.

Finished means: the loop's body has ended for it. A message whose body raised is not finished and comes again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

from kourou.client.cluster import Cluster
from kourou.client.delivered import DeliveredFrame, ReceivedMessage, messages_of, read_frames
from kourou.client.subscription import Position, Subscription
from kourou.core.errors import BadRequest, KourouError, NotConnected, QueueNotFound
from kourou.core.names import check_group, check_topic

COMMIT_EVERY_S = 1.0
Start = str | dict[str, int]


class Batch:
    """Messages of one queue that were delivered together. Nothing is decoded until it is asked for."""

    __slots__ = ("_consumer", "_frames", "_position", "_start", "broker", "data", "next_offset", "queue", "topic")

    def __init__(self, consumer: Consumer, position: Position, data: memoryview, start: int, next_offset: int) -> None:
        self._consumer = consumer
        self._position = position
        self._frames: list[DeliveredFrame] | None = None
        self._start = start
        self.data = data
        self.topic = consumer.topic
        self.broker = position.subscription.broker
        self.queue = position.queue
        self.next_offset = next_offset  # of the first message behind the batch

    def frames(self) -> list[DeliveredFrame]:
        if self._frames is None:
            options = self._consumer.options
            self._frames = read_frames(self.data, start=self._start, tags=options.tags, verify=options.verify)
        return self._frames

    def bodies(self) -> list[bytes]:
        """The bodies, in order. Raises Corrupted when a frame is damaged."""
        frames = self.frames()
        if len(frames) == 1:
            return frames[0].bodies()
        return [body for delivered in frames for body in delivered.bodies()]

    def messages(self) -> Iterator[ReceivedMessage]:
        return messages_of(self.frames(), self.broker, self.queue)

    def __len__(self) -> int:
        return sum(len(delivered.chosen) for delivered in self.frames())

    @property
    def revoked(self) -> bool:
        """The queue has been taken away: what is not finished belongs to another consumer."""
        return self._position.gone or self._position.releasing is not None

    def done(self) -> None:
        """Mark all its messages as finished; the next commit covers them."""
        self._position.finished(self.next_offset)

    def done_upto(self, message: ReceivedMessage) -> None:
        """Mark one of its messages, and those before it, as finished."""
        self._position.finished(message.offset + 1)

    async def commit(self) -> None:
        """Mark as finished and commit now."""
        self.done()
        await self._position.subscription.commit()


class ConsumerOptions:
    __slots__ = ("auto_commit", "credit", "group", "mode", "start", "tags", "verify")

    def __init__(
        self,
        *,
        group: str,
        start: Start,
        tags: frozenset[str] | None,
        auto_commit: bool,
        mode: str,
        credit: int,
        verify: bool,
    ) -> None:
        self.group = check_group(group)
        if mode not in ("stream", "broadcast"):
            raise BadRequest(f'mode is {mode!r}; it must be "stream" or "broadcast"')
        if start not in ("earliest", "latest") and not isinstance(start, dict):
            raise BadRequest('start must be "earliest", "latest", {"time": ms} or {"offset": n}')
        if not 1024 <= credit <= 256 << 20:
            raise BadRequest(f"prefetch_bytes is {credit}; from 1024 to {256 << 20} is allowed")
        self.start = start
        self.tags = tags
        self.auto_commit = auto_commit
        self.mode = mode
        self.credit = credit
        self.verify = verify


class Consumer:
    """Made by ``Client.consumer``; use it in ``async with``."""

    def __init__(self, cluster: Cluster, topic: str, options: ConsumerOptions) -> None:
        self.topic = check_topic(topic)
        self.options = options
        self.member = f"{cluster.client_id}-{secrets.token_hex(4)}"
        self._cluster = cluster
        self._loop = asyncio.get_running_loop()
        self._subscriptions: dict[str, Subscription] = {}  # by broker
        self._inbox: deque[Batch] = deque()
        self._arrived = asyncio.Event()
        self._failure: KourouError | None = None
        self._committer: asyncio.Task[None] | None = None
        self._current: Position | None = None  # whose messages the loop's body works on
        self._opened = False
        self.closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Subscribe. Raises what the brokers refuse (TopicNotFound, GroupShapeMismatch, …)."""
        if self._opened:
            return
        self._opened = True
        route = await self._cluster.route(self.topic)
        self._cluster.on_change(self._route_changed)
        failures: list[KourouError] = []
        for broker in route.brokers:
            if broker.queues:
                subscription = self._subscriptions[broker.broker] = Subscription(self._cluster, self, broker.broker)
                try:
                    await subscription.open()
                except NotConnected as failure:
                    failures.append(failure)
                    subscription.keep()
        if failures and len(failures) == len(self._subscriptions):
            await self.close()
            raise failures[0]
        for subscription in self._subscriptions.values():
            subscription.keep()
        if self.options.auto_commit:
            self._committer = self._cluster.spawn(self._commit_periodically())

    def _route_changed(self) -> None:
        """Brokers that are new in the topic's route."""
        route = self._cluster.routes.get(self.topic)
        for broker in route.brokers if route is not None and self._opened and not self.closed else ():
            if broker.queues and broker.broker not in self._subscriptions:
                subscription = self._subscriptions[broker.broker] = Subscription(self._cluster, self, broker.broker)
                subscription.keep()

    # ---- what subscriptions report

    def delivered(self, position: Position, data: memoryview, start: int, next_offset: int) -> None:
        self._inbox.append(Batch(self, position, data, start, next_offset))
        self._arrived.set()

    def dropped(self, position: Position) -> None:
        """A position has ended: what waits of it is not handed out any more."""
        for batch in [batch for batch in self._inbox if batch._position is position]:
            self._inbox.remove(batch)
            position.subscription.took(len(batch.data))

    def is_working_on(self, position: Position) -> bool:
        return self._current is position

    def failed(self, failure: KourouError) -> None:
        """Something that reading on can't mend: the iteration raises it."""
        self._failure = self._failure or failure
        self._arrived.set()

    # ---- handing out

    async def _next(self) -> Batch:
        while not self._inbox:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self.closed:
                raise NotConnected("the consumer is closed")
            self._arrived.clear()
            await self._arrived.wait()
        batch = self._inbox.popleft()
        batch._position.subscription.took(len(batch.data))
        return batch

    async def receive(self, *, timeout_s: float | None = None) -> Batch | None:
        """The next batch, or None when none has come within the time. The caller marks it ``done()``."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    batch = await self._next()
                    if len(batch):
                        return batch
                    batch.done()
        except TimeoutError:
            return None

    async def take(self) -> Batch:
        """The next batch that is not empty, to be worked on until ``left`` is called: a queue that is asked back
        meanwhile is let go of then."""
        while True:
            batch = await self._next()
            if self.options.tags is None or len(batch):
                self._current = batch._position
                return batch
            batch.done()

    def left(self, batch: Batch) -> None:
        """The work on a batch has ended."""
        self._current = None
        position = batch._position
        if position.releasing is not None:
            position.subscription.release(position)

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches as they come. With automatic commit a batch is finished when the loop's body is."""
        while not self.closed:
            batch = await self.take()
            try:
                yield batch
                if self.options.auto_commit:
                    batch.done()
            finally:
                self.left(batch)

    async def __aiter__(self) -> AsyncIterator[ReceivedMessage]:
        """Messages as they come. With automatic commit a message is finished when the loop's body is."""
        auto = self.options.auto_commit
        while not self.closed:
            batch = await self.take()
            position = batch._position
            try:
                for message in batch.messages():
                    yield message
                    if auto:
                        position.done = message.offset + 1
                    if position.releasing is not None or position.gone:
                        break
                else:
                    if auto:
                        batch.done()
            finally:
                self.left(batch)

    # ---- control

    @property
    def assignment(self) -> list[tuple[str, int]]:
        """(broker, queue id) of the queues that this consumer has now."""
        return sorted((s.broker, queue) for s in self._subscriptions.values() for queue in s.positions)

    def done(self, message: ReceivedMessage) -> None:
        """Mark a message, and all before it in its queue, as finished (manual commit)."""
        position = self._position(message.broker, message.queue)
        if position is not None:
            position.finished(message.offset + 1)

    async def commit(self) -> None:
        """Commit what is finished, now. Raises what the brokers answer."""
        for subscription in list(self._subscriptions.values()):
            await subscription.commit()

    def _position(self, broker: str | None, queue: int) -> Position | None:
        for subscription in self._subscriptions.values():
            if broker in (None, subscription.broker) and queue in subscription.positions:
                return subscription.positions[queue]
        return None

    async def seek(self, queue: int, to: Start | int, *, broker: str | None = None) -> None:
        """Go on reading a queue from somewhere else. ``broker`` is needed where several have a queue of that number."""
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
        for subscription in self._subscriptions.values():
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
        }
