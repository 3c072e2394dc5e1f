"""Waiting for an index that was found damaged and is being made anew: a reader need not know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from kourou.core.errors import Busy

PATIENCE_S = 5.0  # a large segment takes a second or two; then the asker is told to come again
POLL_S = 0.05

Result = TypeVar("Result")


async def when_mended(look: Callable[[], Result]) -> Result:
    """What ``look`` finds in the store's indexes. Raises Busy when that takes too long, DamagedLog when it is hopeless."""
    deadline: float | None = None
    while True:
        try:
            return look()
        except Busy:
            now = asyncio.get_running_loop().time()
            if deadline is None:
                deadline = now + PATIENCE_S
            elif now >= deadline:
                raise
        await asyncio.sleep(POLL_S)
