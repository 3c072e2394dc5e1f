"""Waiting at a distance: how often brokers are asked, whoever waits and whatever they say."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from kourou.core.errors import NotConnected
from kourou.gateway.tunnel import CallInfo
from kourou.gateway.watches import AGAIN_MAX_S, WATCH_S, Place, Watches

INFO = CallInfo({}, "", "", "", False, None)
A, B = Place("a", b"t"), Place("b", b"t")


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock goes to the next timer when there is nothing else to do."""

    _now = 0.0
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def jumping(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(test())

    return run


class Brokers:
    """They answer a watch when ``something`` is set, or when its time is over."""

    def __init__(self) -> None:
        self.something = {name: asyncio.Event() for name in "ab"}
        self.watched: Counter[str] = Counter()
        self.clients: list[bytes] = []
        self.away = False
        self.watches = Watches(self.watch)

    async def watch(self, broker: str, request: bytes, info: CallInfo) -> None:
        self.watched[broker] += 1
        self.clients.append(request)
        if self.away:
            raise NotConnected(f"broker {broker} is away")
        try:
            async with asyncio.timeout(WATCH_S):
                await self.something[broker].wait()
        except TimeoutError:
            pass


@jumping
async def test_many_wait_as_one() -> None:
    brokers = Brokers()
    turns = await asyncio.gather(*(brokers.watches.turn((A, B), b"", INFO, 20.0) for _ in range(200)))
    assert turns == [None] * 200
    assert max(brokers.watched.values()) <= 20.0 / WATCH_S + 1
    await asyncio.sleep(WATCH_S)
    assert len(brokers.watches) == 0
    before = brokers.watched.copy()
    await asyncio.sleep(10 * WATCH_S)
    assert brokers.watched == before


@jumping
async def test_one_after_the_other_has_a_turn_until_nothing_is_found() -> None:
    brokers = Brokers()
    left, asks = 3, 0

    async def receive() -> bool:
        nonlocal left, asks
        while (turn := await brokers.watches.turn((A,), b"", INFO, 4.0)) is not None:
            asks += 1
            found, left = left > 0, max(0, left - 1)
            if left == 0:
                brokers.something["a"].clear()
            turn.end(found)
            if found:
                return True
        return False

    brokers.something["a"].set()
    assert sum(await asyncio.gather(*(receive() for _ in range(100)))) == 3
    assert asks == 4


@jumping
async def test_a_broker_that_says_so_in_vain_is_asked_less_and_less() -> None:
    """A message group is held, a filter passes everything over, others are faster."""
    brokers = Brokers()
    brokers.something["a"].set()
    asks = 0
    until_s = asyncio.get_running_loop().time() + 60.0
    while (left_s := until_s - asyncio.get_running_loop().time()) > 0:
        turn = await brokers.watches.turn((A,), b"", INFO, left_s)
        if turn is not None:
            asks += 1
            turn.end(False)
    assert asks < 60.0 / AGAIN_MAX_S + 10


@jumping
async def test_who_goes_leaves_the_turn_to_the_next() -> None:
    brokers = Brokers()
    first = asyncio.ensure_future(brokers.watches.turn((A, B), b"1", INFO, 4.0))
    second = asyncio.ensure_future(brokers.watches.turn((A, B), b"2", INFO, 4.0))
    await asyncio.sleep(0.1)
    brokers.something["b"].set()
    while brokers.watches._watched[B].waiters.keys() == brokers.watches._watched[A].waiters.keys():
        await asyncio.sleep(0)
    first.cancel()
    turn = await second
    assert turn is not None
    assert turn.broker == "b"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert brokers.clients == [b"1", b"1"]


@jumping
async def test_a_broker_that_is_away_is_watched_when_it_is_back() -> None:
    brokers = Brokers()
    brokers.away = True
    waiting = asyncio.ensure_future(brokers.watches.turn((A,), b"", INFO, 60.0))
    await asyncio.sleep(10)
    assert brokers.watched["a"] <= 15  # often at first, then once a second
    brokers.away = False
    brokers.something["a"].set()
    turn = await waiting
    assert turn is not None
    turn.end(True)
