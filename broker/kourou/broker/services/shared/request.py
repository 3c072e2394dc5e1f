"""What a member of a shared group asks for, and what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from dataclasses import dataclass

from kourou.broker.machines.topics import Topic
from kourou.broker.services.records import StoredMessage
from kourou.core.errors import KourouError
from kourou.core.filter import Filter


@dataclass(slots=True)
class ReceiveRequest:
    group: str
    topic: Topic
    client: str
    limit: int  # 0: nothing is taken, who asks wants to know when there may be something
    invisible_ms: int
    filter: Filter | None = None  # None: everything
    queue: int | None = None  # where to look first
    attempt_id: str = ""  # the same again, from the same member: its answer was lost, it gets the same messages
    renewed: bool = False  # the broker keeps the messages invisible while the client lives
    only: Set[int] | None = None  # nothing but these queues; None: all
    bytes_max: int = 8 * 1024 * 1024
    attempts_max: int = 16


@dataclass(slots=True)
class Delivery:
    message: StoredMessage
    topic: str
    queue: int
    handle: str
    attempt: int
    due_ms: int


Outcome = list[Delivery] | KourouError


@dataclass(slots=True, eq=False)
class Waiter:
    """A receive that is parked until there is something."""

    request: ReceiveRequest
    done: Callable[[Outcome], None]
    finished: bool = False
    timer: asyncio.TimerHandle | None = None  # ends it
    cancelled: bool = False

    def finish(self, outcome: Outcome) -> None:
        if not self.finished:
            self.end()
            self.done(outcome)

    def end(self) -> None:
        """Nothing comes any more; what it got is not kept until its time is over."""
        self.finished = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
