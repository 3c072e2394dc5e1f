"""Long computations on the event loop, a millisecond of one of them in each turn of the loop.

    turn = await turns.begin()
    for number in range(100_000):
        ...
        if turn.late:
            await turn.pause()

One that fits a millisecond isn't slowed down unless others wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import TypeVar

Entry = TypeVar("Entry")

STEP_S = 0.001


class Turns:
    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._coming = False

    async def begin(self) -> Turn:
        if self._coming:
            await self.wait()
        return Turn(self)

    async def wait(self) -> None:
        """Until the loop has done what else there is, and those who asked before have had their turn."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        if not self._coming:
            self._coming = True
            loop.call_soon(self._next)
        await future

    def _next(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():  # else cancelled
                future.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._coming = False


class Turn:
    """Of one computation."""

    __slots__ = ("_turns", "_until")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._until = time.perf_counter() + STEP_S

    @property
    def late(self) -> bool:
        return time.perf_counter() >= self._until

    async def pause(self) -> None:
        await self._turns.wait()
        self._until = time.perf_counter() + STEP_S

    async def portions(self, entries: Iterable[Entry], count: int) -> AsyncIterator[list[Entry]]:
        """What an iterator computes, ``count`` at a time."""
        iterator = iter(entries)
        while portion := list(islice(iterator, count)):
            yield portion
            if self.late:
                await self.pause()
