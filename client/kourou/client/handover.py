"""Where a consumer was in the queues of a broker whose master it has lost, to be taken up at the next one.

What was finished and not committed is committed there, if the new master's log is the same so far: the last frame that
was handed out is at the same place in its log, of the same epoch. Where it is not the consumer begins at what was
committed, and messages come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from kourou.core import wire
from kourou.core.errors import KourouError
from kourou.core.frame import parse_prefix
from kourou.core.wire import Code
from kourou.transport.connection import Connection

if TYPE_CHECKING:
    from kourou.client.subscription import Position

HOLD_S = 30.0  # a queue that is assigned later than that begins at what is committed
AT_A_TIME = 64


class Witness(NamedTuple):
    """A frame that was handed out."""

    queue_offset: int
    end: int  # queue offset behind it
    epoch: int
    log_offset: int


class Held(NamedTuple):
    queue: int
    generation: tuple[int, int]
    done: int
    committed: int
    seen: Witness | None  # nothing behind it is finished


class Handover:
    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._proven: dict[int, int] = {}  # up to where the master's log is known to be the same
        self._until: float | None = None

    def __bool__(self) -> bool:
        return bool(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def hold(self, positions: Iterable[Position], *, now: float) -> None:
        """The positions are about to be dropped."""
        self._expire(now)
        self._until = None
        for p in positions:
            self._held[p.queue] = Held(p.queue, p.generation, p.done, p.committed, p.seen)

    def subscribed(self, *, now: float) -> None:
        self._until = now + HOLD_S

    def take(self, queue: int, offset: int, *, now: float) -> int:
        """The broker assigns a queue from an offset on: up to where it is finished. At least that offset."""
        self._expire(now)
        held = self._held.pop(queue, None)
        if held is None or offset < held.committed:  # set back meanwhile
            return offset
        return max(offset, min(held.done, self._proven.get(queue, 0)))

    def _expire(self, now: float) -> None:
        if self._until is not None and now > self._until:
            self._held.clear()

    async def prove(
        self, connection: Connection, topic: str, seen: Iterable[tuple[int, Witness]], *, timeout_s: float
    ) -> None:
        """Ask a master for the last frames that were handed out."""
        self._proven.clear()
        limit = asyncio.Semaphore(AT_A_TIME)

        async def one(queue: int, witness: Witness) -> None:
            async with limit:
                if await _has(connection, topic, queue, witness, timeout_s):
                    self._proven[queue] = witness.end

        await asyncio.gather(*(one(queue, witness) for queue, witness in seen))


async def _has(connection: Connection, topic: str, queue: int, witness: Witness, timeout_s: float) -> bool:
    header = wire.FETCH_REQUEST.pack(witness.queue_offset, queue, 1, 0, 0, 0)
    try:
        answer = await connection.ask(Code.FETCH, header=header, parts=(topic.encode(),), timeout_s=timeout_s)
        prefix = parse_prefix(answer.body)
    except KourouError:
        return False
    found = (prefix.queue_offset, prefix.epoch, prefix.log_offset)
    return found == (witness.queue_offset, witness.epoch, witness.log_offset)
