"""Members of shared groups without asyncio. Leases are renewed in the background while the loop's body works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from kourou.client.blocking.portal import Portal
from kourou.client.shared.consumer import SharedConsumer as AsyncSharedConsumer
from kourou.client.shared.lite import Start as LiteStart
from kourou.client.shared.message import HeldMessage
from kourou.client.shared.message import SharedMessage as AsyncSharedMessage
from kourou.core.errors import NotConnected

if TYPE_CHECKING:
    from kourou.client.blocking.client import Client

T = TypeVar("T")


class SharedMessage(HeldMessage):
    """See ``kourou.client.SharedMessage``."""

    __slots__ = ("_inner", "_portal")

    def __init__(self, portal: Portal, inner: AsyncSharedMessage) -> None:
        super().__init__(inner.topic, inner.broker, inner.delivery, inner.max_attempts)
        self._portal = portal
        self._inner = inner

    @property
    def lost(self) -> bool:
        return self._inner.lost

    def ack(self) -> None:
        self._portal.run(self._inner.ack())

    def nack(self, delay_s: float | None = None, *, reason: str = "") -> None:
        self._portal.run(self._inner.nack(delay_s, reason=reason))

    def extend(self, seconds: float) -> None:
        self._portal.run(self._inner.extend(seconds))

    def bury(self, reason: str = "") -> None:
        self._portal.run(self._inner.bury(reason))


class SharedConsumer:
    """See ``kourou.client.SharedConsumer``; ``for message in consumer``."""

    def __init__(self, client: Client, topic: str, options: dict[str, Any]) -> None:
        self._client = client
        portal = client._ready()
        self._generation = client.generation
        self._inner: AsyncSharedConsumer = portal.call(lambda: client._inner.shared_consumer(topic, **options))

    def _portal(self) -> Portal:
        portal = self._client._ready()
        if self._generation != self._client.generation:
            raise NotConnected("the consumer belongs to the process before the fork; make a new one in this process")
        return portal

    def _run(self, make: Callable[[AsyncSharedConsumer], Coroutine[Any, Any, T]]) -> T:
        return self._portal().run(make(self._inner))

    def open(self) -> None:
        self._run(lambda inner: inner.open())

    def close(self) -> None:
        if self._generation == self._client.generation and self._client._portal is not None:
            self._run(lambda inner: inner.close())

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._generation == self._client.generation and self._client._portal is not None:
            self._client._portal.call(self._inner.leave_current, value)
        self.close()

    def __iter__(self) -> Iterator[SharedMessage]:
        """Messages as they come. With automatic acknowledgement a message is settled when the loop's body has ended."""
        inner = self._inner
        self._portal().call(inner.resume_reading)
        while True:
            portal = self._portal()
            message = portal.now(inner.try_take) or portal.run(inner.take())
            if message is None:
                return
            inner.begin(message)
            yield SharedMessage(portal, message)
            settled = self._portal().now(inner.ended, message)
            if settled is not None:
                portal.run(_wait(settled))

    def receive(self, max_messages: int = 16, *, wait_s: float = 20.0) -> list[SharedMessage]:
        portal = self._portal()
        return [SharedMessage(portal, found) for found in portal.run(self._inner.receive(max_messages, wait_s=wait_s))]

    @property
    def lite_topics(self) -> tuple[str, ...]:
        return self._inner.lite_topics

    def subscribe(self, *names: str, start: LiteStart | None = None) -> None:
        self._run(lambda inner: inner.subscribe(*names, start=start))

    def unsubscribe(self, *names: str) -> None:
        self._run(lambda inner: inner.unsubscribe(*names))

    def stop(self) -> None:
        """Have the loop end, from another thread."""
        self._portal().call(self._inner.stop)


async def _wait(settled: asyncio.Future[None]) -> None:
    await asyncio.wait((settled,))
