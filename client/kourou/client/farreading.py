"""Reading far behind the end of queues at a slave, when the master says so: it has what was written lately in memory, and
its disk is for producers. At the end of what the slave has the master goes on.

What is assigned, committed and asked back is the master's business throughout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kourou.client.cluster import Cluster
from kourou.client.slavereading import Reading
from kourou.core.errors import KourouError, OutcomeUnknown, Unreachable
from kourou.transport.connection import Connection

if TYPE_CHECKING:
    from kourou.client.subscription import Position, Subscription

PAUSE_S = 0.25  # while all queues are paused


class FarReading(Reading):
    """Feeds those positions of a subscription that its master has sent off."""

    def __init__(self, cluster: Cluster, subscription: Subscription, *, topic: str, credit: int) -> None:
        super().__init__(cluster, subscription, topic=topic, credit=credit)
        self._positions: dict[int, Position] = {}
        self._replicas: tuple[int, ...] = ()
        self._task: asyncio.Task[Any] | None = None

    def add(self, position: Position, replicas: Iterable[int]) -> None:
        self._replicas = tuple(replicas)
        self._positions[position.queue] = position
        position.reading = self
        if self._task is None:
            self._task = self._cluster.spawn(self._run())

    def stop(self) -> None:
        """The positions have ended."""
        self._positions.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        mine = asyncio.current_task()
        try:
            turn = self._cluster.rng.getrandbits(16)
            connection = await self._cluster.replica(self._subscription.broker, self._topic, turn, among=self._replicas)
            try:
                await self._read(connection)
            finally:
                connection.close()
        except KourouError:  # the slave is gone
            while self._positions:
                await self._back(next(iter(self._positions.values())), stay=True)
        finally:
            if self._task is mine:
                self._task = None

    async def _read(self, connection: Connection) -> None:
        while self._positions:
            advanced = False
            for position in list(self._positions.values()):
                advanced |= await self._advance(connection, position)
            if not advanced:
                await asyncio.sleep(PAUSE_S)

    async def _advance(self, connection: Connection, position: Position) -> bool:
        """False while it is paused. Raises Unreachable or OutcomeUnknown when the slave does not answer."""
        await self._wait_for_room()
        if position.gone or position.releasing is not None:
            if self._positions.get(position.queue) is position:
                del self._positions[position.queue]
            return True
        if position.queue in self._subscription.paused:
            return False
        try:
            data, after, lowest, highest = await self._fetch(connection, position)
        except (Unreachable, OutcomeUnknown):
            raise
        except KourouError:  # of this queue alone: it lacks what we want, or can't read it
            await self._back(position, stay=True)
            return True
        if position.gone or position.releasing is not None:
            return True
        if lowest > position.next:  # it has deleted what the master may still have
            await self._back(position, stay=True)
            return True
        if after > position.next:
            self._arrived(position, data, after)
            if after < highest:
                return True
        await self._back(position, stay=False)
        return True

    async def _back(self, position: Position, *, stay: bool) -> None:
        if self._positions.get(position.queue) is position:
            del self._positions[position.queue]
        await self._subscription.come_back(position, stay=stay)
