"""Defining topics and groups, and telling about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from kourou.broker.machines.groups import Group
from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Journal
from kourou.broker.services.positions import PositionService
from kourou.broker.services.state import BrokerState
from kourou.broker.services.subscriptions import SubscriptionService
from kourou.core.clock import Clock
from kourou.core.errors import GroupShapeMismatch, NotSupported
from kourou.core.retry import RetryPolicy
from kourou.core.route import GroupShape, Placement, TopicType

LITE_SHOWN = 1_000  # queues of a lite topic that a group's description lists


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
        self.shared_members: Callable[[str], Mapping[tuple[str, int], tuple[str, str]]] = lambda group: {}
        self._listeners: list[Callable[[], None]] = []
        self._changed_listeners: list[Callable[[str], None]] = []
        self._topic_listeners: list[Callable[[str], None]] = []
        self._group_listeners: list[Callable[[str], None]] = []

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

    def describe_topic(self, name: str) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """The topic, and its queues one after the other: there may be very many."""
        topic = self._state.topics.get(name)
        return {**topic_json(topic), "incarnation": topic.incarnation}, self._topic_queues(topic)

    def _topic_queues(self, topic: Topic) -> Iterator[dict[str, Any]]:
        for queue in range(topic.queues):
            low, high = self._positions.bounds(topic.incarnation << 32 | queue)
            yield {"queue": queue, "min": low, "max": high}

    async def create_group(
        self,
        name: str,
        shape: GroupShape | None,
        *,
        fifo: bool,
        max_attempts: int,
        automatic: bool,
        retry: RetryPolicy | None = None,
    ) -> bool:
        if automatic and not self._auto_create:
            raise NotSupported(f"group {name} does not exist and automatic creation is switched off; create it first")
        records = self._state.groups.create(
            name, shape=shape, fifo=fifo, max_attempts=max_attempts, now_ms=self._clock.wall_ms(), retry=retry
        )
        await self._journal.write(records)
        return bool(records)

    async def update_group(
        self,
        name: str,
        *,
        fifo: bool | None,
        max_attempts: int | None,
        retry: RetryPolicy | None,
        exclusive: bool | None,
    ) -> bool:
        """Change what is given; whether anything was different."""
        records = self._state.groups.update(name, fifo=fifo, max_attempts=max_attempts, retry=retry, exclusive=exclusive)
        await self._journal.write(records)
        if records:
            self._group_changed(name)
        return bool(records)

    async def set_filter(self, name: str, topic: str, wanted: tuple[str, str] | None) -> bool:
        """What a group's members get of a topic, whatever they ask for; None: what they agree on."""
        self._state.topics.get(topic)
        if self._state.groups.get(name).shape is GroupShape.STREAM:
            raise GroupShapeMismatch(f"group {name} has the shape stream: each of its consumers says itself what it wants")
        records = self._state.groups.set_filter(name, topic, wanted)
        await self._journal.write(records)
        if records:
            self._group_changed(name)
        return bool(records)

    def on_group_changed(self, listener: Callable[[str], None]) -> None:
        """Call back after each confirmed change of a group, told which it was."""
        self._changed_listeners.append(listener)

    def _group_changed(self, name: str) -> None:
        for told in self._changed_listeners:
            told(name)

    async def delete_group(self, name: str) -> bool:
        if self._state.groups.find(name) is None:
            return False
        for subscription, _ in self._subscriptions.members_of(name):
            self._subscriptions.unsubscribe(subscription.number, reason=f"group {name} was deleted")
        await self._journal.write(self._state.groups.delete(name))
        for told in self._group_listeners:
            told(name)
        return True

    def on_group_deleted(self, listener: Callable[[str], None]) -> None:
        """Call back after a group was deleted."""
        self._group_listeners.append(listener)

    def groups(self) -> list[dict[str, Any]]:
        return [group_json(group) for group in self._state.groups.all()]

    def describe_group(self, name: str) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """The group with its members, and the queues it reads one after the other."""
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
        if group.shape is GroupShape.SHARED:
            return {**group_json(group), "members": self._shared_members(name)}, self._shared_queues(name)
        incarnations = {topic.incarnation: topic for topic in self._state.topics.all()}
        topics |= {incarnations[i].name for i in self._state.offsets.topics_of(name) if i in incarnations}
        return {**group_json(group), "members": members}, self._group_queues(name, sorted(topics))

    def _group_queues(self, name: str, topics: list[str]) -> Iterator[dict[str, Any]]:
        for topic_name in topics:
            topic = self._state.topics.find(topic_name)
            if topic is None:
                continue
            for queue in range(topic.queues):
                low, high = self._positions.bounds(topic.incarnation << 32 | queue)
                committed = self._state.offsets.committed(name, topic.incarnation, queue)
                yield {
                    "topic": topic_name,
                    "queue": queue,
                    "min": low,
                    "max": high,
                    "committed": committed,
                    "lag": high - max(low, committed if committed is not None else low),
                }

    def _shared_members(self, name: str) -> list[dict[str, Any]]:
        incarnations = {topic.incarnation: topic.name for topic in self._state.topics.all()}
        return [
            {
                "member": client,
                "client": client,
                "remote": "",
                "topic": incarnations.get(incarnation, ""),
                "mode": "shared",
                "tags": None if wanted == ("tag", "*") else [wanted[1]],
                "queues": [],
            }
            for (client, incarnation), wanted in sorted(self.shared_members(name).items())
        ]

    def _shared_queues(self, name: str) -> Iterator[dict[str, Any]]:
        """Of each queue what is ready (never handed out), in flight, and waits for its message group; of lite topics, of
        which there may be a million, some."""
        for topic in self._state.topics.all():
            ledgers = self._state.shared.of(name, topic.incarnation)
            shown = LITE_SHOWN if topic.type is TopicType.LITE else None
            for queue, ledger in sorted(islice(ledgers.items(), shown)):
                low, high = self._positions.bounds(topic.incarnation << 32 | queue)
                ready = high - max(low, ledger.next) + len(ledger.parked)
                yield {
                    "topic": topic.name,
                    "queue": queue,
                    "min": low,
                    "max": high,
                    "committed": ledger.floor,
                    "ready": ready,
                    "inflight": len(ledger.open),
                    "lag": ready + len(ledger.open),
                }


def topic_json(topic: Topic) -> dict[str, Any]:
    return {
        "topic": topic.name,
        "type": topic.type.value,
        "placement": [[p.broker, p.queues] for p in topic.placement],
        "created_ms": topic.created_ms,
    }


def group_json(group: Group) -> dict[str, Any]:
    value: dict[str, Any] = {
        "group": group.name,
        "shape": group.shape.value if group.shape is not None else None,
        "fifo": group.fifo,
        "max_attempts": group.max_attempts,
        "retry": group.retry.to_json(),
        "created_ms": group.created_ms,
    }
    if group.filters:
        value["filters"] = [{"topic": topic, "kind": kind, "expression": text} for topic, kind, text in group.filters]
    return value
