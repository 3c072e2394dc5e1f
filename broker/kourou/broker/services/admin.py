"""Defining topics and groups, and telling about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kourou.broker.machines.groups import Group
from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Journal
from kourou.broker.services.positions import PositionService
from kourou.broker.services.state import BrokerState
from kourou.broker.services.subscriptions import SubscriptionService
from kourou.core.clock import Clock
from kourou.core.errors import NotSupported
from kourou.core.route import GroupShape, Placement, TopicType


class AdminService:
    def __init__(
        self,
        state: BrokerState,
        journal: Journal,
        positions: PositionService,
        subscriptions: SubscriptionService,
        *,
        clock: Clock,
        auto_create: bool,
    ) -> None:
        self._state = state
        self._journal = journal
        self._positions = positions
        self._subscriptions = subscriptions
        self._clock = clock
        self._auto_create = auto_create
        self._listeners: list[Callable[[], None]] = []
        self._topic_listeners: list[Callable[[str], None]] = []

    def on_topics_changed(self, listener: Callable[[], None]) -> None:
        """Call back after each confirmed change of a definition: nameservers must hear of it."""
        self._listeners.append(listener)

    async def create_topic(
        self, name: str, kind: TopicType, placement: tuple[Placement, ...], *, automatic: bool
    ) -> tuple[bool, Topic]:
        """Define a topic; (whether anything was new, the topic). Idempotent; AlreadyExists tells what differs."""
        if automatic and not self._auto_create:
            raise NotSupported(f"topic {name} does not exist and automatic creation is switched off; create it first")
        records = self._state.topics.create(name, kind, placement, now_ms=self._clock.wall_ms())
        await self._journal.write(records)
        if records:
            self.topic_changed(name)
        return bool(records), self._state.topics.get(name)

    async def delete_topic(self, name: str) -> bool:
        topic = self._state.topics.find(name)
        if topic is None:
            return False
        await self._journal.write(self._state.topics.delete(name))
        self.topic_changed(name)
        return True

    def on_topic_changed(self, listener: Callable[[str], None]) -> None:
        """The same, told which topic it was."""
        self._topic_listeners.append(listener)

    def topic_changed(self, topic: str) -> None:
        """A definition was changed and confirmed."""
        self._subscriptions.topic_changed(topic)
        for told in self._topic_listeners:
            told(topic)
        for listener in self._listeners:
            listener()

    def topics(self) -> list[dict[str, Any]]:
        return [topic_json(topic) for topic in self._state.topics.all()]

    def describe_topic(self, name: str) -> dict[str, Any]:
        topic = self._state.topics.get(name)
        queues = []
        for queue in range(topic.queues):
            low, high = self._positions.bounds(topic.incarnation << 32 | queue)
            queues.append({"queue": queue, "min": low, "max": high})
        return {**topic_json(topic), "incarnation": topic.incarnation, "queues": queues}

    async def create_group(
        self, name: str, shape: GroupShape | None, *, fifo: bool, max_attempts: int, automatic: bool
    ) -> bool:
        if automatic and not self._auto_create:
            raise NotSupported(f"group {name} does not exist and automatic creation is switched off; create it first")
        records = self._state.groups.create(
            name, shape=shape, fifo=fifo, max_attempts=max_attempts, now_ms=self._clock.wall_ms()
        )
        await self._journal.write(records)
        return bool(records)

    async def delete_group(self, name: str) -> bool:
        if self._state.groups.find(name) is None:
            return False
        for subscription, _ in self._subscriptions.members_of(name):
            self._subscriptions.unsubscribe(subscription.number, reason=f"group {name} was deleted")
        await self._journal.write(self._state.groups.delete(name))
        return True

    def groups(self) -> list[dict[str, Any]]:
        return [group_json(group) for group in self._state.groups.all()]

    def describe_group(self, name: str) -> dict[str, Any]:
        group = self._state.groups.get(name)
        members = []
        topics: set[str] = set()
        for subscription, subscriber in self._subscriptions.members_of(name):
            topics.add(subscription.topic)
            members.append(
                {
                    "member": subscription.member,
                    "client": subscriber.client_id,
                    "remote": subscriber.remote,
                    "topic": subscription.topic,
                    "mode": subscription.mode,
                    "tags": self._subscriptions.tags_of(subscription.number),
                    "queues": sorted(subscription.cursors),
                }
            )
        incarnations = {topic.incarnation: topic for topic in self._state.topics.all()}
        topics |= {incarnations[i].name for i in self._state.offsets.topics_of(name) if i in incarnations}
        queues = []
        for topic_name in sorted(topics):
            topic = self._state.topics.find(topic_name)
            if topic is None:
                continue
            for queue in range(topic.queues):
                low, high = self._positions.bounds(topic.incarnation << 32 | queue)
                committed = self._state.offsets.committed(name, topic.incarnation, queue)
                queues.append(
                    {
                        "topic": topic_name,
                        "queue": queue,
                        "min": low,
                        "max": high,
                        "committed": committed,
                        "lag": high - max(low, committed if committed is not None else low),
                    }
                )
        return {**group_json(group), "members": members, "queues": queues}


def topic_json(topic: Topic) -> dict[str, Any]:
    return {
        "topic": topic.name,
        "type": topic.type.value,
        "placement": [[p.broker, p.queues] for p in topic.placement],
        "created_ms": topic.created_ms,
    }


def group_json(group: Group) -> dict[str, Any]:
    return {
        "group": group.name,
        "shape": group.shape.value if group.shape is not None else None,
        "fifo": group.fifo,
        "max_attempts": group.max_attempts,
        "created_ms": group.created_ms,
    }
