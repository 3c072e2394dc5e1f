"""The client: one object to a cluster, from which producers and consumers are made."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from kourou.client.admin import Admin
from kourou.client.cluster import Cluster
from kourou.client.consumer import Consumer, ConsumerOptions, Start
from kourou.client.producer import Producer
from kourou.core.errors import BadRequest, NotConnected
from kourou.core.names import check_client_id
from kourou.core.route import Endpoint, parse_endpoint

SERVER_DEFAULT = "127.0.0.1:10911"
KIB = 1024


def parse_servers(server: str | None) -> tuple[Endpoint, ...]:
    """``host:port[,…]``; without one KOUROU_SERVER, else the standalone node's default address."""
    text = server or os.environ.get("KOUROU_SERVER") or SERVER_DEFAULT
    return tuple(parse_endpoint(part, default_port=10911) for part in text.split(",") if part.strip())


class Client(Admin):
    """Connects to a nameserver or standalone node; finds the brokers from there.

        async with Client("127.0.0.1:10911") as client: ...

    Belongs to the event loop and process in which it was opened. Raises NotConnected when nothing listens.
    """

    def __init__(self, server: str | None = None, *, client_id: str | None = None, timeout_s: float = 10.0) -> None:
        """``server``: address of one or more nameservers (default: KOUROU_SERVER, then 127.0.0.1:10911). ``timeout_s``
        bounds each administrative call."""
        self.servers = parse_servers(server)
        if timeout_s <= 0:
            raise BadRequest("timeout_s must be above 0")
        self._client_id = check_client_id(client_id) if client_id is not None else None
        self._timeout_s = timeout_s
        self._made: list[Producer | Consumer] = []
        self._is_open = False

    @property
    def id(self) -> str:
        """The client id: broadcast offsets are kept under it."""
        return self._cluster.client_id

    async def open(self) -> Self:
        if not self._is_open:
            self._cluster = Cluster(self.servers, client_id=self._client_id, timeout_s=self._timeout_s)
            try:
                await self._cluster.open()
            except BaseException:
                await self._cluster.close()
                raise
            self._is_open = True
        return self

    async def close(self) -> None:
        """Close what was made from it, then the connections."""
        if not self._is_open:
            return
        self._is_open = False
        made, self._made = self._made, []
        try:
            ended = await asyncio.gather(*(each.close() for each in made), return_exceptions=True)
        finally:
            await self._cluster.close()
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
    ) -> Producer:
        """A producer. ``linger_ms``: how long a message may wait for company while others are under way;
        ``batch_bytes``: size at which a batch is sent; ``compression``: None, "zlib", "lz4" or "zstd"; ``deadline_s``:
        after which a send fails; ``buffer_bytes``: of messages not yet acknowledged, beyond which senders wait."""
        producer = Producer(
            self._need(),
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            compression=compression,
            deadline_s=deadline_s,
            buffer_bytes=buffer_bytes,
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
    ) -> Consumer:
        """A consumer of one topic; use it in ``async with``.

        ``start`` counts where the group has committed nothing yet: "earliest", "latest", {"time": ms} or {"offset": n}.
        ``tags``: only messages with one of these. ``mode``: "stream" shares the queues among the group's consumers,
        "broadcast" gives each client everything. ``prefetch_bytes`` are delivered ahead. ``verify``: check checksums.
        """
        if isinstance(tags, str):
            tags = (tags,)
        options = ConsumerOptions(
            group=group,
            start=start,
            tags=frozenset(tags) if tags is not None else None,
            auto_commit=auto_commit,
            mode=mode,
            credit=prefetch_bytes,
            verify=verify,
        )
        consumer = Consumer(self._need(), topic, options)
        self._made.append(consumer)
        return consumer

    def _need(self) -> Cluster:
        if not self._is_open:
            raise NotConnected("the client is not open; use it in 'async with', or await open() first")
        return self._cluster
