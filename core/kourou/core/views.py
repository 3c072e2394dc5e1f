"""What gateways are shown of topics, groups and routes, wherever the queue itself is."""

from __future__ import annotations

from dataclasses import dataclass

from kourou.core.retry import RetryPolicy
from kourou.core.route import Endpoint, TopicRoute, TopicType


@dataclass(frozen=True, slots=True)
class TopicView:
    """What is known of a topic without asking anybody."""

    name: str
    type: TopicType
    queues: int  # of this broker
    created_ms: int


@dataclass(frozen=True, slots=True)
class GroupView:
    name: str
    fifo: bool
    max_attempts: int
    retry: RetryPolicy


@dataclass(frozen=True, slots=True)
class RouteView:
    """A topic's route, and where the official API of each broker is reached; None: where the asker reached us."""

    route: TopicRoute
    endpoints: dict[str, Endpoint | None]


@dataclass(slots=True)
class Sent:
    """A message was stored."""

    queue: int
    offset: int
    transaction_id: str = ""
    recall_handle: str = ""


@dataclass(frozen=True, slots=True)
class Accumulation:
    """What a group has before it in one topic."""

    ready: int
    inflight: int
    oldest_ms: int | None  # store time of the oldest message that is not settled
