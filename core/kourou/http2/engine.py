"""What the connections of one server share: the service, its bounds, the counters, the deadlines, the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from kourou.http2.call import Service
from kourou.http2.deadlines import Deadlines
from kourou.http2.inflow import Unanswered
from kourou.http2.limits import Http2Limits

if TYPE_CHECKING:
    from kourou.http2.calls import ServerCall

OnError = Callable[[str, BaseException], None]


class Engine:
    """``on_error`` is told of what handlers raise: the path of the call, and the exception."""

    def __init__(
        self,
        service: Service,
        *,
        limits: Http2Limits,
        on_error: OnError,
        arm: Callable[[float], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.limits = limits
        self.on_error = on_error
        self.now = now
        self.deadlines: Deadlines[ServerCall] = Deadlines(arm)
        self.unanswered = Unanswered()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.calls_started = 0
        self.calls_failed = 0
        """Ended with a status other than OK, cancelled by the client, or past their deadline."""
        self.faults = 0
        """Connections ended because the peer broke the protocol or a bound."""

    def spawn(self, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """A task of a call, which cancels it; kept here until it has ended, since the loop itself doesn't."""
        coroutine = awaitable if asyncio.iscoroutine(awaitable) else _await(awaitable)
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def expire(self) -> None:
        """End the calls whose deadline has passed."""
        for call in self.deadlines.expired(self.now()):
            call.expire()


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
