"""What the official API needs of a message queue, wherever that is: in this process, or reached over the data plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kourou.core.errors import KourouError
from kourou.core.filter import Filter
from kourou.core.outgoing import OutgoingMessage
from kourou.core.views import GroupView, RouteView, Sent, TopicView

__all__ = ["Delivered", "GroupView", "Messaging", "RouteView", "Sent", "Stored", "TopicView"]


class Stored(Protocol):
    """A message as it lies in the log."""

    @property
    def block(self) -> bytes: ...

    @property
    def body(self) -> bytes: ...

    @property
    def born_ms(self) -> int: ...

    @property
    def store_ms(self) -> int: ...

    @property
    def queue_offset(self) -> int: ...

    @property
    def native_id(self) -> str: ...


class Delivered(Protocol):
    """One delivery to a shared group."""

    @property
    def message(self) -> Stored: ...

    @property
    def queue(self) -> int: ...

    @property
    def handle(self) -> str: ...

    @property
    def attempt(self) -> int: ...


Parked = Any  # a receive that waits; only for giving it back to ``cancel``


class Messaging(Protocol):
    broker: str

    async def route(self, topic: str) -> RouteView:
        """Raises TopicNotFound; creates the topic where that is allowed."""
        ...

    def topic(self, name: str) -> TopicView:
        """A topic of this broker. Raises TopicNotFound."""
        ...

    async def group(self, name: str) -> GroupView:
        """A group that official clients may use, made where that is allowed. Raises GroupNotFound, GroupShapeMismatch."""
        ...

    def known_group(self, name: str) -> GroupView | None: ...

    def send(self, message: OutgoingMessage, done: Callable[[Sent | KourouError], None]) -> None:
        """Store one message. ``done`` is called exactly once."""
        ...

    def receive(
        self,
        group: GroupView,
        topic: str,
        *,
        queue: int | None,
        client: str,
        limit: int,
        invisible_ms: int,
        wait_ms: int,
        wanted: Filter | None,
        attempt_id: str,
        renewed: bool,
        done: Callable[[Any], None],  # gets a sequence of Delivered, or a KourouError
    ) -> Parked:
        """``limit`` 0: nothing is taken, and it is answered when there may be something."""
        ...

    def cancel(self, parked: Parked) -> None: ...

    def ack(
        self, group: str, handles: Sequence[str], done: Callable[[list[KourouError | None]], None], topic: str | None = None
    ) -> None:
        """Settle deliveries. Where the topic is said the handles must be of it; the same below."""
        ...

    def change_invisible(
        self, group: str, handle: str, invisible_ms: int, *, uncounted: bool, done: Callable[[str | KourouError], None],
        topic: str | None = None,
    ) -> None: ...  # fmt: skip

    async def forward(self, group: str, handle: str, reason: str, topic: str | None = None) -> None:
        """Move a delivered message to the dead letters."""
        ...

    async def sync_lite(
        self,
        group: str,
        topic: str,
        client: str,
        names: Sequence[str],
        *,
        action: str,  # add, remove, replace, clear
        start: tuple[str, int] | None,  # min, max, offset, tail or time, and a number; None: where the group was
    ) -> None:
        """Change which parts of a lite topic a client subscribes to. Raises LimitExceeded beyond its quota."""
        ...

    async def end_transaction(self, topic: str, transaction_id: str, *, commit: bool) -> None: ...

    async def recall(self, topic: str, handle: str) -> str:
        """Take a delayed message back; its id."""
        ...

    def client_gone(self, client: str) -> None:
        """Let go of what the broker kept invisible for a client."""
        ...

    async def pull(
        self, topic: str, queue: int, offset: int, *, limit: int, wait_ms: int, wanted: Filter | None
    ) -> tuple[Sequence[Stored], int]:
        """(messages from an offset on, the offset to go on from). Raises OffsetOutOfRange."""
        ...

    async def commit_offset(self, group: str, topic: str, queue: int, offset: int) -> None: ...

    def committed_offset(self, group: str, topic: str, queue: int) -> int | None: ...

    def offset_at(self, topic: str, queue: int, *, time_ms: int | None, end: bool) -> int: ...
