"""Calls that meet a broker group between two masters: tried again until the next one answers, while the caller waits.

Only what says that nothing was done is tried again, so nothing is done twice by it. A call whose answer was lost is the
caller's to repeat.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kourou.core.backoff import Backoff
from kourou.core.errors import Busy, NotConnected, NotEnoughReplicas, NotMaster, ShuttingDown

Answer = TypeVar("Answer")

BETWEEN_MASTERS = (NotConnected, NotMaster, NotEnoughReplicas, ShuttingDown, Busy)
PATIENCE_S = 10.0  # a lease, and what comes after it; then the caller is told
SPARED_S = 0.1  # of the caller's time, for an answer that says why
FIRST_MS = 5
MOST_MS = 100


async def patiently(attempt: Callable[[], Awaitable[Answer]], *, left_s: float | None) -> Answer:
    """``left_s``: how long the caller waits. Raises what the last attempt did."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + (PATIENCE_S if left_s is None else min(PATIENCE_S, left_s - SPARED_S))
    backoff: Backoff | None = None  # most calls need none, and a Random of its own takes its time
    while True:
        try:
            return await attempt()
        except BETWEEN_MASTERS:
            backoff = backoff or Backoff(random.Random(), first_ms=FIRST_MS, most_ms=MOST_MS)
            pause_s = backoff.next_ms() / 1000
            if loop.time() + pause_s > until_s:
                raise
            await asyncio.sleep(pause_s)
