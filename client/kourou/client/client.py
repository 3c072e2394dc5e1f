"""The client: one object to a cluster, from which producers and consumers are made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from kourou.client.admin import Admin
from kourou.client.arguments import check_positive, check_tags
from kourou.client.cluster import Cluster
from kourou.client.consumer import Consumer, ConsumerOptions, Start
from kourou.client.damage import OnDamaged
from kourou.client.operations import Operations
from kourou.client.producer import Producer
from kourou.client.shared.consumer import SharedConsumer
from kourou.client.shared.handlers import Handler, Registered
from kourou.client.shared.options import SharedOptions, Sql
from kourou.client.transactions.checks import Checker, TransactionChecks
from kourou.core.errors import BadRequest, NotConnected
from kourou.core.names import check_client_id
from kourou.core.route import Endpoint, parse_endpoint

SERVER_DEFAULT = "127.0.0.1:10911"
KIB = 1024
H = TypeVar("H", bound=Handler)


def parse_servers(server: str | None) -> tuple[Endpoint, ...]:
    """``host:port[,…]``; without one KOUROU_SERVER, else the standalone node's default address."""
    text = server or os.environ.get("KOUROU_SERVER") or SERVER_DEFAULT
    if not isinstance(text, str):
        raise BadRequest(f"server must be text such as {SERVER_DEFAULT!r}, not {type(text).__name__}")
    servers = tuple(parse_endpoint(part, default_port=10911) for part in text.split(",") if part.strip())
    if not servers:
        raise BadRequest(f"{text!r} names no server; expected host:port, or several with commas between them")
    return servers


class Client(Admin, Operations):
    """Connects to a nameserver or standalone node; finds the brokers from there.

        async with Client("127.0.0.1:10911") as client: ...

    Belongs to the event loop and process in which it was opened. Raises NotConnected when nothing listens.
    """

    def __init__(self, server: str | None = None, *, client_id: str | None = None, timeout_s: float = 10.0) -> None:
        """``server``: address of one or more nameservers (default: KOUROU_SERVER, then 127.0.0.1:10911). ``timeout_s``
        bounds each administrative call."""
        self.servers = parse_servers(server)
        self._client_id = check_client_id(client_id) if client_id is not None else None
        self._timeout_s = check_positive("timeout_s", timeout_s)
        self._opened: Cluster | None = None  # also once it is closed
        self._made: list[Producer | Consumer | SharedConsumer] = []
        self._handlers: list[Registered] = []
        self._running: list[SharedConsumer] = []
        self._is_open = False

    @property
    def id(self) -> str:
        """The client id: broadcast offsets are kept under it."""
        if self._opened is None:
            return self._need().client_id
        return self._opened.client_id

    @property
    def _cluster(self) -> Cluster:
        return self._need()

    async def open(self) -> Self:
        if not self._is_open:
            cluster = Cluster(self.servers, client_id=self._client_id, timeout_s=self._timeout_s)
            try:
                await cluster.open()
            except BaseException:
                await cluster.close()
                raise
            self._opened = cluster
            self._checks = TransactionChecks(cluster)
            self._is_open = True
        return self

    async def close(self) -> None:
        """Close what was made from it, then the connections."""
        if not self._is_open or self._opened is None:
            return
        self._is_open = False
        made, self._made = self._made, []
        try:
            ended = await asyncio.gather(*(each.close() for each in made), return_exceptions=True)
        finally:
            await self._opened.close()
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def producer(
        self,
        *,
        linger_ms: float = 5.0,
        batch_bytes: int = 256 * KIB,
        compression: str | None = None,
        deadline_s: float = 10.0,
        buffer_bytes: int = 32 * KIB * KIB,
        transaction_checker: Checker | None = None,
        transaction_topics: Iterable[str] = (),
    ) -> Producer:
        """A producer. ``linger_ms``: how long a message may wait for company while others are under way;
        ``batch_bytes``: size at which a batch is sent; ``compression``: None, "zlib", "lz4" or "zstd"; ``deadline_s``:
        after which a send fails; ``buffer_bytes``: of messages not yet acknowledged, beyond which senders wait.

        ``transaction_checker``: a function of a HalfMessage, which a broker asks about because it did not hear how its
        transaction ended; it answers "commit", "rollback" or "unknown", from what the application has stored itself. It
        is asked about the ``transaction_topics``, and those that this producer has transactions in.
        """
        producer = Producer(
            self._need(),
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            compression=compression,
            deadline_s=deadline_s,
            buffer_bytes=buffer_bytes,
            checks=self._checks,
            checker=transaction_checker,
            transaction_topics=transaction_topics,
        )
        self._made.append(producer)
        return producer

    def consumer(
        self,
        topic: str,
        *,
        group: str,
        start: Start = "earliest",
        tags: Iterable[str] | str | None = None,
        auto_commit: bool = True,
        mode: str = "stream",
        prefetch_bytes: int = 8 * KIB * KIB,
        verify: bool = True,
        on_damaged: OnDamaged | None = None,
    ) -> Consumer:
        """A consumer of one topic; use it in ``async with``.

        ``start`` counts where the group has committed nothing yet: "earliest", "latest", {"time": ms} or {"offset": n}.
        ``tags``: only messages with one of these, a list or "a || b". ``mode``: "stream" shares the queues among the
        group's consumers, "broadcast" gives each client everything. ``prefetch_bytes`` are delivered ahead.
        ``verify``: check checksums. ``on_damaged``: called with a Damage for messages that can't be read, which are then
        left out; without it, those that a producer stored so are left out with a warning, and those that were changed
        since raise DamagedMessages. It must not wait.
        """
        options = ConsumerOptions(
            group=group,
            start=start,
            tags=check_tags(tags),
            auto_commit=auto_commit,
            mode=mode,
            credit=prefetch_bytes,
            verify=verify,
            on_damaged=on_damaged,
        )
        consumer = Consumer(self._need(), topic, options)
        self._made.append(consumer)
        return consumer

    def shared_consumer(
        self,
        topic: str,
        *,
        group: str,
        filter: str | Sql | None = None,
        invisible_s: float = 30.0,
        prefetch: int | None = None,
        concurrency: int = 1,
        auto_ack: bool = True,
        renew_max_s: float = 3_600.0,
        prefetch_bytes: int = 4 * KIB * KIB,
        lite: Iterable[str] | None = None,
    ) -> SharedConsumer:
        """A member of a shared group: any member gets any message. Use it in ``async with``.

        ``filter``: only messages with one of these tags ("a || b"), or for which a condition holds (``Sql("price > 10")``).
        ``invisible_s``: after which a message that is not settled is delivered again; while a loop or handler works on it
        that is renewed, for ``renew_max_s`` at most. ``prefetch`` messages are held ahead (default: 32, or as many as are
        worked on). ``concurrency``: how many messages ``run`` works on at a time. ``auto_ack``: a message is acknowledged
        when the loop's body has ended for it. ``lite``: of a topic of type lite, the lite topics to begin with; see
        ``subscribe``. A client has one such consumer for each topic and group.
        """
        options = SharedOptions(
            group=group,
            filter=filter,
            invisible_s=invisible_s,
            prefetch=prefetch,
            concurrency=concurrency,
            auto_ack=auto_ack,
            renew_max_s=renew_max_s,
            prefetch_bytes=prefetch_bytes,
            lite=lite,
        )
        consumer = SharedConsumer(self._need(), topic, options)
        self._made.append(consumer)
        return consumer

    # ---- handlers

    def on(
        self,
        topic: str,
        *,
        group: str,
        concurrency: int = 1,
        filter: str | Sql | None = None,
        invisible_s: float = 30.0,
        prefetch: int | None = None,
        renew_max_s: float = 3_600.0,
        lite: Iterable[str] | None = None,
    ) -> Callable[[H], H]:
        """Have the function below it work on a topic's messages, as a member of a shared group, while ``run`` runs.

            @client.on("orders", group="billing", concurrency=8)
            async def bill(message): ...

        When it returns the message is acknowledged; when it raises the message is delivered again later.
        """
        options: dict[str, Any] = {"group": group, "concurrency": concurrency, "filter": filter}
        options |= {"invisible_s": invisible_s, "prefetch": prefetch, "renew_max_s": renew_max_s, "lite": lite}

        def register(handler: H) -> H:
            self._handlers.append(Registered(topic, handler, options))
            return handler

        return register

    async def run(self) -> None:
        """Run the handlers until ``stop`` is called, or one of the topics can't be read any more. Opens the client, and
        closes it in the end, unless it is open already."""
        if self._is_open:
            await self.run_handlers(self._handlers)
            return
        async with self:
            await self.run_handlers(self._handlers)

    async def run_handlers(self, handlers: Sequence[Registered]) -> None:
        if not handlers:
            raise BadRequest("there is no handler; put @client.on(topic, group=…) above a function")
        self._running = [self.shared_consumer(each.topic, **each.options) for each in handlers]
        runs = [
            self._cluster.spawn(self._serve(consumer, each.handler))
            for consumer, each in zip(self._running, handlers, strict=True)
        ]
        try:
            done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in runs:
                task.cancel()
            await asyncio.wait(runs)
            self._running = []

    async def _serve(self, consumer: SharedConsumer, handler: Handler) -> None:
        async with consumer:
            await consumer.run(handler)

    def stop(self) -> None:
        """Have ``run`` return when the handlers that have begun are done."""
        for consumer in self._running:
            consumer.stop()

    def _need(self) -> Cluster:
        if not self._is_open or self._opened is None:
            if self._opened is not None:
                raise NotConnected("the client is closed")
            raise NotConnected("the client is not open; use it in 'async with', or await open() first")
        self._opened.check_loop()
        return self._opened
