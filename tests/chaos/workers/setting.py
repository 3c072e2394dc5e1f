"""What native workers share: where to write, whom to ask, when to stop; and how one of them goes on after errors."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from kourou.client import KourouError, OutcomeUnknown
from kourou.core.errors import FlushFailed, InternalError
from tests.chaos.journal import Journal, words
from tests.chaos.workers.plan import Plan

AGAIN_S = 0.5


@dataclass(slots=True)
class Setting:
    servers: str
    plan: Plan
    journal: Journal
    rate: float
    seed: int
    no_more: asyncio.Event = field(default_factory=asyncio.Event)  # producers end, consumers only drain
    over: asyncio.Event = field(default_factory=asyncio.Event)  # consumers end
    waited_for: set[str] = field(default_factory=set)  # workers without a success so far
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def rng(self, who: str) -> random.Random:
        return random.Random(f"{self.seed}-{who}")

    def succeeded(self, who: str) -> None:
        self.waited_for.discard(who)
        if not self.waited_for:
            self.ready.set()

    async def forever(self, who: str, work: Callable[[], Awaitable[None]], *, until: asyncio.Event) -> None:
        """Errors are outcomes: begin again, until it is time to end."""
        while not until.is_set():
            try:
                await work()
            except (KourouError, OSError, TimeoutError) as error:
                complain(who, error)
            except Exception as error:  # a bug, of the worker or the client: the checker says so
                self.journal.note("broken", who=who, error=words(error))
                complain(who, error)
            else:
                continue
            await came(until, AGAIN_S)


def is_unknown(error: KourouError) -> bool:
    """May what failed have taken effect?"""
    return isinstance(error, OutcomeUnknown | FlushFailed | InternalError)


def complain(who: str, error: BaseException) -> None:
    print(f"{who}: {words(error)}", file=sys.stderr, flush=True)


async def came(event: asyncio.Event, seconds: float) -> bool:
    """Wait; true when the event came first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
