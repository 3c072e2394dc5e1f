"""Reading a broker's queues at one of its slaves while there is no master: what was confirmed, in the order of each queue.

A slave hands out what its master told it was confirmed, so there is an end to it; what is finished is committed later.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kourou.client.cluster import Cluster
from kourou.core import wire
from kourou.core.errors import KourouError, OffsetOutOfRange
from kourou.core.wire import Code
from kourou.transport.connection import Connection

if TYPE_CHECKING:
    from kourou.client.subscription import Position, Subscription

FETCH_BYTES = 256 * 1024
PAUSE_S = 0.25  # when nothing was new in any queue; doubled up to
PAUSE_S_MAX = 2.0
IDLE_ROUNDS = 3  # then another slave may have more


class Reading:
    """Feeds positions of a subscription from a slave: what may be in the inbox from there, and how it is asked for."""

    def __init__(self, cluster: Cluster, subscription: Subscription, *, topic: str, credit: int) -> None:
        self._cluster = cluster
        self._subscription = subscription
        self._topic = topic
        self._free = credit  # bytes
        self._room = asyncio.Event()

    def took(self, size: int) -> None:
        """Bytes have left the inbox."""
        self._free += size
        self._room.set()

    async def _wait_for_room(self) -> None:
        while self._free <= 0:
            self._room.clear()
            await self._room.wait()

    async def _fetch(self, connection: Connection, position: Position) -> tuple[memoryview, int, int, int]:
        """What follows in a queue: frames, the offset behind them, the lowest, the highest. Raises what it answers."""
        header = wire.FETCH_REQUEST.pack(position.next, position.queue, FETCH_BYTES, 0, 0, 0)
        parts = (self._topic.encode(),)
        answer = await connection.ask(Code.FETCH, header=header, parts=parts, timeout_s=self._cluster.timeout_s)
        return (answer.body, *wire.FETCH_ANSWER.unpack(answer.header))

    def _arrived(self, position: Position, data: memoryview, after: int) -> None:
        self._free -= len(data)
        self._subscription.arrived(position, data, after)


class SlaveReading(Reading):
    """Feeds the positions of a subscription until it is stopped."""

    def __init__(self, cluster: Cluster, subscription: Subscription, *, topic: str, credit: int) -> None:
        super().__init__(cluster, subscription, topic=topic, credit=credit)
        self._task: asyncio.Task[Any] = cluster.spawn(self._run())

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        turn = self._cluster.rng.getrandbits(16)
        while True:
            try:
                connection = await self._cluster.replica(self._subscription.broker, self._topic, turn)
                try:
                    await self._read(connection)
                finally:
                    connection.close()
            except KourouError:
                await asyncio.sleep(PAUSE_S)
            turn += 1

    async def _read(self, connection: Connection) -> None:
        """All queues in turn, until nothing has been new for some time. Raises KourouError."""
        idle, pause = 0, PAUSE_S
        while idle < IDLE_ROUNDS:
            new = False
            for position in list(self._subscription.positions.values()):
                new |= await self._advance(connection, position)
            if new:
                idle, pause = 0, PAUSE_S
                continue
            idle += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_S_MAX)

    async def _advance(self, connection: Connection, position: Position) -> bool:
        await self._wait_for_room()
        if position.gone or position.queue in self._subscription.paused:
            return False
        try:
            data, after, lowest, _ = await self._fetch(connection, position)
        except OffsetOutOfRange:
            return False  # this one is behind
        if position.gone or after <= position.next or lowest > position.next:
            return False  # nothing new; or it has deleted what the master may still have
        self._arrived(position, data, after)
        return True
