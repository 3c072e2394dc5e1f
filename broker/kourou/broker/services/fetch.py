"""Reading a queue on request, with a bounded wait when there is nothing yet."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.services.mended import when_mended
from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Store
from kourou.core.errors import NotConnected, QueueNotFound, TooManyRequests

WAIT_MS_MAX = 30_000
BYTES_MAX = 8 * 1024 * 1024
WAITING_MAX = 100_000
WAITING_OF_ONE_MAX = 1_024  # of those: of one connection


@dataclass(slots=True)
class Fetched:
    data: bytes
    next_offset: int
    min_offset: int
    max_offset: int


class Waits:
    """The reads of one connection that wait; ``end`` when it has ended."""

    def __init__(self) -> None:
        self.ended = False
        self.waiting: set[asyncio.Future[None]] = set()

    def end(self) -> None:
        self.ended = True
        for future in self.waiting:
            if not future.done():
                future.set_result(None)


class FetchService:
    """Long polls, woken when the confirm offset passes a frame of their queue."""

    def __init__(self, store: Store, state: BrokerState, journal: Journal, *, read_executor: Executor) -> None:
        self._store = store
        self._state = state
        self._journal = journal
        self._executor = read_executor
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        self._waiting_count = 0
        journal.on_confirmed(self._arrived)

    async def fetch(
        self, topic: str, queue_id: int, offset: int, *, bytes_max: int, wait_ms: int, waits: Waits | None = None
    ) -> Fetched:
        """Whole frames from ``offset`` on, at most ``bytes_max`` (but at least one frame); empty after ``wait_ms``.

        NotConnected when the connection of ``waits`` ends meanwhile.
        """
        known = self._state.topics.get(topic)
        if queue_id >= known.queues:
            raise QueueNotFound(f"topic {topic} has {known.queues} queues on this broker, not queue {queue_id}")
        key = known.incarnation << 32 | queue_id
        bytes_max = max(1, min(bytes_max, BYTES_MAX))
        deadline = self._loop.time() + min(wait_ms, WAIT_MS_MAX) / 1000
        while True:
            plan = await when_mended(
                partial(self._store.plan, key, offset, bytes_max=bytes_max, below=self._journal.confirmed, topic=topic)
            )
            if plan.next_offset > offset or self._loop.time() >= deadline:
                data = self._store.read(plan, cached_only=True)
                if data is None:
                    read = partial(self._store.read, plan, cached_only=False)
                    data = await self._loop.run_in_executor(self._executor, read)
                    assert data is not None
                low, high = self._store.queue_bounds(key)
                return Fetched(data, plan.next_offset, low, high)
            await self._wait(key, deadline, waits or Waits())

    async def _wait(self, key: int, deadline: float, waits: Waits) -> None:
        if len(waits.waiting) >= WAITING_OF_ONE_MAX:
            raise TooManyRequests(f"{WAITING_OF_ONE_MAX} reads of this connection wait already", retry_after_ms=1_000)
        if self._waiting_count >= WAITING_MAX:
            raise TooManyRequests(f"{WAITING_MAX} reads wait already", retry_after_ms=1_000)
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(key, set()).add(future)
        self._waiting_count += 1
        waits.waiting.add(future)
        try:
            async with asyncio.timeout_at(deadline):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting_count -= 1
            waits.waiting.discard(future)
            entries = self._waiting.get(key)
            if entries is not None:
                entries.discard(future)
                if not entries:
                    del self._waiting[key]
        if waits.ended:
            raise NotConnected("the connection has ended")

    def _arrived(self, arrived: list[Arrived]) -> None:
        if not self._waiting:
            return
        for key, _, _ in arrived:
            for future in self._waiting.pop(key, ()):
                if not future.done():
                    future.set_result(None)
