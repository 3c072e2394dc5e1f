"""Which of several servers is taken: the first one that answers. One that says nothing costs the others little time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from kourou.core.errors import KourouError, NotConnected
from kourou.transport.connection import Connection

STAGGER_S = 0.3  # after which the next server is tried, too
SILENCE = {"ping_s": 1.0, "silent_s": 2.5}  # of a server that another one can stand in for: dead within about 3 s

Dial = Callable[[], Coroutine[Any, Any, Connection]]
Spawn = Callable[[Coroutine[Any, Any, Connection]], "asyncio.Task[Connection]"]


async def first_of(dials: Sequence[Dial], *, spawn: Spawn) -> Connection:
    """The first connection that is made. Each attempt begins when the one before has failed, or is slow; those that are not
    needed any more are given up. Raises NotConnected, naming why each has failed."""
    waiting, running = list(dials), set[asyncio.Task[Connection]]()
    failures: list[str] = []
    try:
        while waiting or running:
            if waiting:
                running.add(spawn(waiting.pop(0)()))
            done, running = await asyncio.wait(
                running, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            made: list[Connection] = []
            for task in done:
                try:
                    made.append(task.result())
                except KourouError as failure:
                    failures.append(str(failure))
            for connection in made[1:]:
                connection.close()
            if made:
                return made[0]
    finally:
        for task in running:
            task.add_done_callback(_close)
            task.cancel()
    raise NotConnected("; ".join(failures))


def _close(task: asyncio.Task[Connection]) -> None:
    """It was made all the same."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
