"""Periodic jobs with an owner: each runs by itself, never beside itself; a bug in one ends the process, loudly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from kourou.core.errors import InternalError, KourouError


class Periodic:
    """A set of named jobs, started together and stopped together."""

    def __init__(self, log: Any, *, on_bug: Callable[[str], None]) -> None:
        self._log = log
        self._on_bug = on_bug
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, interval_s: float, name: str, job: Callable[[], Awaitable[None] | None]) -> None:
        """Call ``job`` again and again, ``interval_s`` after it has ended. An expected error is logged and survived."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(interval_s, name, job), name=name))

    async def _run(self, interval_s: float, name: str, job: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                pending = job()
                if pending is not None:
                    await pending
            except InternalError as failure:
                self._crashed(name, failure)
                return
            except KourouError as failure:
                self._log.warning("job_failed", job=name, reason=str(failure))
            except Exception as failure:  # the root of a task: logged, and the owner decides
                self._crashed(name, failure)
                return

    def _crashed(self, name: str, failure: Exception) -> None:
        self._log.error("job_crashed", job=name, exc_info=failure)
        self._on_bug(f"{name}: {failure!r}")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


class LoopLag:
    """How long the event loop was held: the lateness of a timer that should fire every ``PERIOD_S``."""

    PERIOD_S = 0.005
    BOUNDS_MS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1_000)

    def __init__(self) -> None:
        self.buckets = [0] * (len(self.BOUNDS_MS) + 1)
        self.max_ms = 0.0
        self.sum_ms = 0.0
        self._loop = asyncio.get_running_loop()
        self._due = time.perf_counter() + self.PERIOD_S  # uvloop's own clock has a resolution of a millisecond
        self._timer = self._loop.call_later(self.PERIOD_S, self._fire)

    def _fire(self) -> None:
        now = time.perf_counter()
        late_ms = max(0.0, (now - self._due) * 1000)
        self.sum_ms += late_ms
        if late_ms > self.max_ms:
            self.max_ms = late_ms
        number = 0
        for bound in self.BOUNDS_MS:
            if late_ms <= bound:
                break
            number += 1
        self.buckets[number] += 1
        self._due = now + self.PERIOD_S
        self._timer = self._loop.call_later(self.PERIOD_S, self._fire)

    def stop(self) -> None:
        self._timer.cancel()
