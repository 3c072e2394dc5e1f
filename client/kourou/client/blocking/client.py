"""``Client``, ``Producer`` and ``Consumer`` with the same names and without asyncio. Safe to use from several threads.

Fork-safe: in a child process a client connects anew at its next use, and a producer gets a new identity, so the two
processes never share a connection or a sequence. A consumer does not survive a fork; make a new one in the child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from kourou.client import client as asynchronous
from kourou.client.admin import Fetched
from kourou.client.blocking.handlers import Handler, run_handlers
from kourou.client.blocking.portal import Portal
from kourou.client.blocking.shared import SharedConsumer
from kourou.client.blocking.transactions import Transaction, threaded
from kourou.client.consumer import Batch as AsyncBatch
from kourou.client.consumer import Consumer as AsyncConsumer
from kourou.client.consumer import Start
from kourou.client.delivered import ReceivedMessage
from kourou.client.message import Message, Receipt
from kourou.client.producer import Producer as AsyncProducer
from kourou.client.receipts import Receipts
from kourou.core.errors import NotConnected

T = TypeVar("T")
H = TypeVar("H", bound=Handler)
_graveyard: list[object] = []  # what a forked child inherited: never touched, never collected (that would close sockets)


class Client:
    """See ``kourou.client.Client``; every method waits for its result."""

    def __init__(self, server: str | None = None, *, client_id: str | None = None, timeout_s: float = 10.0) -> None:
        self._server = server
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._inner = self._make()
        self._portal: Portal | None = None
        self._pid = os.getpid()
        self.generation = 0  # counts forks
        self._closed = False
        self._handlers: list[tuple[str, Handler, dict[str, Any]]] = []

    def _make(self) -> asynchronous.Client:
        return asynchronous.Client(self._server, client_id=self._client_id, timeout_s=self._timeout_s)

    # ---- opening and closing

    def open(self) -> Self:
        self._closed = False
        self._ready()
        return self

    def close(self) -> None:
        """Send what is still there, commit what is finished, close."""
        self._closed = True
        portal, self._portal = self._portal, None
        if portal is not None and self._pid == os.getpid():
            portal.close(self._inner.close())

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ready(self) -> Portal:
        """The portal, with the client open; made again after a fork."""
        if self._pid != os.getpid():
            _graveyard.append((self._portal, self._inner))
            self._portal, self._inner, self._pid = None, self._make(), os.getpid()
            self.generation += 1
        if self._portal is None:
            if self._closed:
                raise NotConnected("the client is closed")
            portal = Portal()
            try:
                portal.run(self._inner.open())
            except BaseException:
                portal.close(self._inner.close())
                raise
            self._portal = portal
        return self._portal

    @overload
    def run(self) -> None: ...

    @overload
    def run(self, make: Callable[[asynchronous.Client], Coroutine[Any, Any, T]]) -> T: ...

    def run(self, make: Callable[[asynchronous.Client], Coroutine[Any, Any, T]] | None = None) -> T | None:
        """Run the handlers (see ``on``) until ``stop`` is called, or Ctrl-C; what they have begun is finished.

        Or run something of the asynchronous client and wait for it: ``client.run(lambda c: c.topics())``.
        """
        portal = self._ready()
        if make is not None:
            return portal.run(make(self._inner))
        run_handlers(portal, self._inner, self._handlers)
        return None

    @property
    def id(self) -> str:
        self._ready()
        return self._inner.id

    # ---- producers and consumers

    def producer(self, **options: Any) -> Producer:
        """See ``kourou.client.Client.producer`` for the options. A ``transaction_checker`` runs in a thread."""
        checker = options.get("transaction_checker")
        return Producer(self, {**options, "transaction_checker": threaded(checker)} if checker is not None else options)

    def consumer(
        self,
        topic: str,
        *,
        group: str,
        start: Start = "earliest",
        tags: Iterable[str] | str | None = None,
        auto_commit: bool = True,
        mode: str = "stream",
        **options: Any,
    ) -> Consumer:
        """See ``kourou.client.Client.consumer`` for the options."""
        options |= {"group": group, "start": start, "tags": tags, "auto_commit": auto_commit, "mode": mode}
        return Consumer(self, topic, options)

    def shared_consumer(self, topic: str, *, group: str, **options: Any) -> SharedConsumer:
        """See ``kourou.client.Client.shared_consumer`` for the options."""
        return SharedConsumer(self, topic, {"group": group, **options})

    # ---- handlers

    def on(self, topic: str, *, group: str, concurrency: int = 1, **options: Any) -> Callable[[H], H]:
        """See ``kourou.client.Client.on``; the function runs in a thread, as many of them at a time as ``concurrency``."""

        def register(handler: H) -> H:
            self._handlers.append((topic, handler, {"group": group, "concurrency": concurrency, **options}))
            return handler

        return register

    def stop(self) -> None:
        """Have ``run`` return when the handlers that have begun are done. From any thread."""
        self._ready().call(self._inner.stop)

    # ---- administration

    def create_topic(self, name: str, *, type: str = "normal", queues: int = 8) -> bool:
        return self.run(lambda c: c.create_topic(name, type=type, queues=queues))

    def delete_topic(self, name: str) -> bool:
        return self.run(lambda c: c.delete_topic(name))

    def topics(self) -> list[dict[str, Any]]:
        return self.run(lambda c: c.topics())

    def describe_topic(self, name: str) -> dict[str, Any]:
        return self.run(lambda c: c.describe_topic(name))

    def create_group(
        self,
        name: str,
        *,
        shape: str | None = None,
        fifo: bool = False,
        max_attempts: int = 16,
        retry_s: Sequence[float] | None = None,
    ) -> bool:
        return self.run(lambda c: c.create_group(name, shape=shape, fifo=fifo, max_attempts=max_attempts, retry_s=retry_s))

    def delete_group(self, name: str) -> bool:
        return self.run(lambda c: c.delete_group(name))

    def groups(self) -> list[dict[str, Any]]:
        return self.run(lambda c: c.groups())

    def describe_group(self, name: str) -> dict[str, Any]:
        return self.run(lambda c: c.describe_group(name))

    def reset_offsets(
        self, group: str, topic: str, *, to: Start, queue: int | None = None, broker: str | None = None
    ) -> list[dict[str, Any]]:
        return self.run(lambda c: c.reset_offsets(group, topic, to=to, queue=queue, broker=broker))

    def explain(self, topic: str, *, id: str | None = None, key: str | None = None) -> list[dict[str, Any]]:
        return self.run(lambda c: c.explain(topic, id=id, key=key))

    def scheduled(self, topic: str, *, limit: int = 100, from_ms: int = 0) -> tuple[int, list[dict[str, Any]]]:
        return self.run(lambda c: c.scheduled(topic, limit=limit, from_ms=from_ms))

    def dead_letters(self, group: str, **options: Any) -> tuple[int, list[dict[str, Any]]]:
        return self.run(lambda c: c.dead_letters(group, **options))

    def redrive(self, group: str, **options: Any) -> int:
        return self.run(lambda c: c.redrive(group, **options))

    def purge_dead_letters(self, group: str, **options: Any) -> int:
        return self.run(lambda c: c.purge_dead_letters(group, **options))

    def update_group(self, name: str, **changes: Any) -> bool:
        return self.run(lambda c: c.update_group(name, **changes))

    def set_subscription(self, group: str, topic: str, *, filter: str | None, filter_kind: str = "tag") -> bool:
        return self.run(lambda c: c.set_subscription(group, topic, filter=filter, filter_kind=filter_kind))

    def offsets(self, topic: str, **options: Any) -> list[dict[str, Any]]:
        return self.run(lambda c: c.offsets(topic, **options))

    def find(self, topic: str, **what: Any) -> list[ReceivedMessage]:
        return self.run(lambda c: c.find(topic, **what))

    def recall(self, topic: str, handle: str) -> str:
        return self.run(lambda c: c.recall(topic, handle))

    def fetch(self, topic: str, queue: int, offset: int, **options: Any) -> Fetched:
        return self.run(lambda c: c.fetch(topic, queue, offset, **options))

    def cluster(self) -> dict[str, Any]:
        return self.run(lambda c: c.cluster())

    def status(self) -> dict[str, dict[str, Any]]:
        return self.run(lambda c: c.status())


class Producer:
    """See ``kourou.client.Producer``."""

    def __init__(self, client: Client, options: dict[str, Any]) -> None:
        self._client = client
        self._options = options
        self._inner: AsyncProducer | None = None
        self._generation = -1
        self._ready()

    def _ready(self) -> tuple[Portal, AsyncProducer]:
        portal = self._client._ready()
        if self._inner is None or self._generation != self._client.generation:
            if self._inner is not None:
                _graveyard.append(self._inner)
            self._generation = self._client.generation
            self._inner = portal.call(lambda: self._client._inner.producer(**self._options))
        return portal, self._inner

    @property
    def id(self) -> int:
        return self._ready()[1].id

    def send(
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
        portal, inner = self._ready()
        return portal.run(
            inner.send(
                topic,
                body,
                key=key,
                keys=keys,
                tag=tag,
                properties=properties,
                message_group=message_group,
                delay=delay,
                deliver_at=deliver_at,
                priority=priority,
                lite_topic=lite_topic,
            )
        )

    def recall(self, receipt: Receipt | str, *, topic: str | None = None) -> str:
        portal, inner = self._ready()
        return portal.run(inner.recall(receipt, topic=topic))

    def transaction(self, topic: str, **options: Any) -> Transaction:
        """See ``kourou.client.Producer.transaction``; ``with producer.transaction(topic) as tx``."""
        portal, inner = self._ready()
        return Transaction(portal, portal.call(lambda: inner.transaction(topic, **options)))

    def post(self, topic: str, body: bytes | str, **fields: Any) -> None:
        """Send one message without waiting for the outcome, only for room in the buffer; ``flush`` tells how it went."""
        portal, inner = self._ready()
        if not portal.now(inner.try_post, topic, body, fields):
            portal.run(inner.post(topic, body, **fields))

    def send_many(self, topic: str, messages: Iterable[bytes | str | Message]) -> Receipts:
        portal, inner = self._ready()
        return portal.run(inner.send_many(topic, messages))

    def flush(self) -> None:
        portal, inner = self._ready()
        portal.run(inner.flush())

    def close(self) -> None:
        if self._inner is not None and self._generation == self._client.generation and self._client._portal is not None:
            self._client._portal.run(self._inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Batch:
    """See ``kourou.client.Batch``."""

    def __init__(self, consumer: Consumer, inner: AsyncBatch) -> None:
        self._consumer = consumer
        self._inner = inner
        self.topic = inner.topic
        self.broker = inner.broker
        self.queue = inner.queue
        self.next_offset = inner.next_offset

    def bodies(self) -> list[bytes]:
        return self._inner.bodies()

    def messages(self) -> Iterator[ReceivedMessage]:
        return self._inner.messages()

    def __len__(self) -> int:
        return len(self._inner)

    @property
    def revoked(self) -> bool:
        return self._inner.revoked

    def done(self) -> None:
        self._inner.done()

    def commit(self) -> None:
        self._consumer._run(lambda inner: self._inner.commit())


class Consumer:
    """See ``kourou.client.Consumer``; ``for message in consumer``."""

    def __init__(self, client: Client, topic: str, options: dict[str, Any]) -> None:
        self._client = client
        portal = client._ready()
        self._generation = client.generation
        self._inner: AsyncConsumer = portal.call(lambda: client._inner.consumer(topic, **options))

    def _run(self, make: Callable[[AsyncConsumer], Coroutine[Any, Any, T]]) -> T:
        portal = self._client._ready()
        if self._generation != self._client.generation:
            raise NotConnected("the consumer belongs to the process before the fork; make a new one in this process")
        return portal.run(make(self._inner))

    def open(self) -> None:
        self._run(lambda inner: inner.open())

    def close(self) -> None:
        if self._generation == self._client.generation and self._client._portal is not None:
            self._run(lambda inner: inner.close())

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._generation == self._client.generation:
            self._inner.finish_current()
        self.close()

    def receive(self, *, timeout_s: float | None = None) -> Batch | None:
        """The next batch, or None when none has come within the time. The caller marks it ``done()``."""
        inner = self._run(lambda inner: inner.receive(timeout_s=timeout_s))
        return Batch(self, inner) if inner is not None else None

    def batches(self) -> Iterator[Batch]:
        """Batches as they come. With automatic commit a batch is finished when the loop's body is."""
        for batch in self._taken():
            yield Batch(self, batch)
            self._inner.worked(batch)

    def __iter__(self) -> Iterator[ReceivedMessage]:
        """Messages as they come. With automatic commit a message is finished when the loop's body is."""
        for batch in self._taken():
            yield from self._inner.walk(batch)

    def _taken(self) -> Iterator[AsyncBatch]:
        """Batches to work on. Bookkeeping is plain assignments and needs no turn on the loop; letting go does."""
        self._client._ready().call(self._inner.resume_reading)
        while (batch := self._run(AsyncConsumer.take)) is not None:
            yield batch
            self._inner.put_down(batch)
            if batch.revoked:
                self._client._ready().call(self._inner.left, batch)

    @property
    def damaged_count(self) -> int:
        return self._inner.damaged_count

    @property
    def assignment(self) -> list[tuple[str, int]]:
        return self._inner.assignment

    def done(self, message: ReceivedMessage) -> None:
        self._inner.done(message)

    def commit(self) -> None:
        self._run(lambda inner: inner.commit())

    def seek(self, queue: int, to: Start | int, *, broker: str | None = None) -> None:
        self._run(lambda inner: inner.seek(queue, to, broker=broker))

    def pause(self, queue: int | None = None, *, broker: str | None = None) -> None:
        self._run(lambda inner: inner.pause(queue, broker=broker))

    def resume(self, queue: int | None = None, *, broker: str | None = None) -> None:
        self._run(lambda inner: inner.resume(queue, broker=broker))
