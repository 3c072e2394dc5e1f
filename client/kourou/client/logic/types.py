"""Which messages a topic takes. Pure; the broker checks the same, this says it before anything is sent."""

from __future__ import annotations

from typing import Protocol

from kourou.core.errors import TopicTypeMismatch
from kourou.core.route import TopicRoute, TopicType


class Typed(Protocol):
    """What of a message decides about the topics that take it."""

    @property
    def message_group(self) -> str | None: ...

    @property
    def delay(self) -> object: ...

    @property
    def deliver_at(self) -> object: ...

    @property
    def priority(self) -> int | None: ...

    @property
    def lite_topic(self) -> str | None: ...


NEEDS = {
    TopicType.FIFO: "a message_group",
    TopicType.DELAY: "a delay or deliver_at",
    TopicType.PRIORITY: "a priority",
    TopicType.LITE: "a lite_topic",
}


def check_route(route: TopicRoute, message: Typed | None) -> None:
    """Raises TopicTypeMismatch."""
    kind = route.type
    if kind is TopicType.TRANSACTION:
        raise TopicTypeMismatch(
            f"topic {route.topic} has type transaction: send in 'async with producer.transaction({route.topic!r})'"
        )
    given = _types(message) if message is not None else ()
    for other in given:
        if other is not kind:
            raise TopicTypeMismatch(
                f"topic {route.topic} has type {kind.value}: {NEEDS[other]} needs a topic of type {other.value}"
            )
    if kind is not TopicType.NORMAL and not given:
        raise TopicTypeMismatch(f"topic {route.topic} has type {kind.value}: every message needs {NEEDS[kind]}")


def _types(message: Typed) -> list[TopicType]:
    given = []
    if message.message_group is not None:
        given.append(TopicType.FIFO)
    if message.delay is not None or message.deliver_at is not None:
        given.append(TopicType.DELAY)
    if message.priority is not None:
        given.append(TopicType.PRIORITY)
    if message.lite_topic is not None:
        given.append(TopicType.LITE)
    return given
