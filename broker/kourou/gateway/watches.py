"""Who waits at a distance for messages: one watch at a broker for all that wait there for the same, and turns.

When a broker may have something, the one who has waited longest has a turn: it asks. Where it finds something the next one
has a turn, else the broker is watched again. So a message makes two or three asks, however many wait; and a broker that
keeps saying that there is something, though nobody gets it (others were faster, a filter passes it over, its message group
is held), is watched again after a pause, which grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from kourou.core.errors import KourouError
from kourou.gateway.tunnel import CallInfo
from kourou.http2.call import GrpcError

WATCH_S = 5.0  # one that nobody waits for any more is over after this
EARLY_S = 0.1  # a watch that ends so much earlier has seen something
AGAIN_S = 0.02  # between a turn that found nothing and the next watch
AGAIN_MAX_S = 0.5
FAILED_S = 0.05  # before a broker that could not be watched is watched again; grows
FAILED_MAX_S = 1.0


class Place(NamedTuple):
    """Where, and what is waited for: whoever waits at the same place gets the same messages."""

    broker: str
    wanted: bytes


class Turn:
    """To be ended, with whether something was found."""

    def __init__(self, broker: str) -> None:
        self.broker = broker
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(self, found: bool) -> None:
        if not self.over.done():
            self.over.set_result(found)


class _Waiter:
    def __init__(self, request: bytes, info: CallInfo) -> None:
        self.request = request
        self.info = info
        self.turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()


class _Watched:
    def __init__(self) -> None:
        self.waiters: dict[_Waiter, None] = {}  # the longest first
        self.task: asyncio.Task[None] | None = None


class Watches:
    def __init__(self, watch: Callable[[str, bytes, CallInfo], Awaitable[object]]) -> None:
        """``watch`` asks a broker to answer when it may have something, or after WATCH_S."""
        self._watch = watch
        self._watched: dict[Place, _Watched] = {}

    def __len__(self) -> int:
        return len(self._watched)

    async def turn(self, places: Sequence[Place], request: bytes, info: CallInfo, wait_s: float) -> Turn | None:
        """Wait for a turn at one of the places; None when the time is over."""
        waiter = _Waiter(request, info)
        for place in places:
            self._join(place, waiter)
        try:
            await asyncio.wait((waiter.turn,), timeout=wait_s)
        except asyncio.CancelledError:
            if waiter.turn.done():
                waiter.turn.result().end(True)  # what made it is still there, for the next one
            raise
        finally:
            for place in places:
                if (watched := self._watched.get(place)) is not None:
                    watched.waiters.pop(waiter, None)
        return waiter.turn.result() if waiter.turn.done() else None

    def _join(self, place: Place, waiter: _Waiter) -> None:
        watched = self._watched.get(place)
        if watched is None:
            watched = self._watched[place] = _Watched()
            watched.task = asyncio.get_running_loop().create_task(self._run(place, watched))
        watched.waiters[waiter] = None

    async def _run(self, place: Place, watched: _Watched) -> None:
        """For as long as anybody waits."""
        loop = asyncio.get_running_loop()
        again_s, failed_s = AGAIN_S, FAILED_S
        try:
            while watched.waiters:
                first = next(iter(watched.waiters))
                began_s = loop.time()
                try:
                    await self._watch(place.broker, first.request, first.info)
                except (KourouError, GrpcError):
                    await asyncio.sleep(failed_s)
                    failed_s = min(2 * failed_s, FAILED_MAX_S)
                    continue
                failed_s = FAILED_S
                lasted_s = loop.time() - began_s
                if lasted_s > AGAIN_MAX_S:
                    again_s = AGAIN_S
                if lasted_s > WATCH_S - EARLY_S:
                    continue
                if await self._turns(place, watched):
                    again_s = AGAIN_S
                elif watched.waiters:
                    await asyncio.sleep(again_s)
                    again_s = min(2 * again_s, AGAIN_MAX_S)
        finally:
            del self._watched[place]

    @staticmethod
    async def _turns(place: Place, watched: _Watched) -> bool:
        """One after the other, until one finds nothing; whether any did."""
        found = False
        while watched.waiters:
            waiter = next(iter(watched.waiters))
            del watched.waiters[waiter]
            if waiter.turn.done():
                continue  # it has one at another broker
            turn = Turn(place.broker)
            waiter.turn.set_result(turn)
            if not await turn.over:
                break
            found = True
        return found
