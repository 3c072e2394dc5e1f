"""Which topics there are: a projection of the log's topic records.

A topic's *incarnation* is unique in this broker's log, so a topic that is deleted and created again shares nothing with
its former life: the queues of the old one are dead, whatever frames may still lie in the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from kourou.broker.machines.projection import decode_items, digest_of, encode_slices
from kourou.core.errors import AlreadyExists, BadRequest, LimitExceeded, TopicNotFound
from kourou.core.limits import QUEUES_PER_TOPIC_MAX
from kourou.core.route import Placement, TopicType

Record = dict[str, Any]
TOPICS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    type: TopicType
    placement: tuple[Placement, ...]  # of the whole cluster, sorted by broker
    queues: int  # of this broker
    incarnation: int
    created_ms: int


class TopicRegistry:
    """``create`` and ``delete`` decide and return records; ``replay`` alone changes anything."""

    def __init__(self, broker: str, *, topics_max: int = TOPICS_MAX) -> None:
        self._broker = broker
        self._topics_max = topics_max
        self._topics: dict[str, Topic] = {}
        self._live: dict[int, str] = {}
        self._next_incarnation = 1
        self.version = 0  # rises with each change

    def find(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def get(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise TopicNotFound(
                f"topic {name[:127]!r} does not exist here; create it with 'kourou topic create', or let brokers create "
                "topics (auto_create)"
            )
        return topic

    def all(self) -> list[Topic]:
        return sorted(self._topics.values(), key=lambda topic: topic.name)

    def is_live(self, incarnation: int) -> bool:
        return incarnation in self._live

    def named(self, incarnation: int) -> str | None:
        return self._live.get(incarnation)

    def cluster_queues(self, name: str) -> list[tuple[str, int]]:
        """(broker, queue id) of every declared queue of a topic."""
        return [(p.broker, queue) for p in self.get(name).placement for queue in range(p.queues)]

    def create(self, name: str, kind: TopicType, placement: tuple[Placement, ...], *, now_ms: int) -> list[Record]:
        """Nothing to do when the topic is there already; queues may be added; anything else is AlreadyExists."""
        placement = _checked(name, placement)
        old = self._topics.get(name)
        if old is None:
            if len(self._topics) >= self._topics_max:
                raise LimitExceeded(f"there are {len(self._topics)} topics; the limit is {self._topics_max}")
            return [_record(Topic(name, kind, placement, 0, self._next_incarnation, now_ms))]
        if old.type is not kind:
            raise AlreadyExists(f"topic {name} exists with type {old.type.value}, not {kind.value}")
        return self._grow(old, placement)

    def set_placement(self, name: str, placement: tuple[Placement, ...]) -> list[Record]:
        """Add queues or brokers to a topic that exists; AlreadyExists where queues would go away."""
        return self._grow(self.get(name), _checked(name, placement))

    @staticmethod
    def _grow(old: Topic, placement: tuple[Placement, ...]) -> list[Record]:
        if old.placement == placement:
            return []
        after = {p.broker: p.queues for p in placement}
        for broker, queues in ((p.broker, p.queues) for p in old.placement):
            if after.get(broker, 0) < queues:
                raise AlreadyExists(
                    f"topic {old.name} exists with {queues} queues on {broker}, not {after.get(broker, 0)}; "
                    "queues can only be added"
                )
        return [_record(replace(old, placement=placement))]

    def delete(self, name: str) -> list[Record]:
        return [{"t": "topic-", "name": name, "i": self.get(name).incarnation}]

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        """Apply a record; one that is replayed again changes nothing."""
        if record["t"] == "topic-":
            topic = self._topics.get(record["name"])
            if topic is not None and topic.incarnation == record["i"]:
                del self._topics[topic.name]
                del self._live[topic.incarnation]
                self.version += 1
        elif self._put(record):
            self.version += 1

    def _put(self, record: Record) -> bool:
        placement = tuple(Placement(broker, queues) for broker, queues in record["placement"])
        queues = sum(p.queues for p in placement if p.broker == self._broker)
        topic = Topic(record["name"], TopicType(record["type"]), placement, queues, record["i"], record["ms"])
        old = self._topics.get(topic.name)
        if old == topic:
            return False
        if old is not None:
            self._live.pop(old.incarnation, None)
        self._topics[topic.name] = topic
        self._live[topic.incarnation] = topic.name
        self._next_incarnation = max(self._next_incarnation, topic.incarnation + 1)
        return True

    # ---- projection

    def _items(self, topics: Iterable[Topic]) -> Iterator[Any]:
        """Nothing of the registry is read once the first item is out but what was handed in."""
        head = {"next": self._next_incarnation, "version": self.version}
        return chain([head], map(_record, topics))

    def snapshot(self) -> Iterator[bytes]:
        """Captured now (topics are immutable, so their references do), encoded as it is drawn from."""
        return encode_slices(self._items(list(self._topics.values())))

    def restore(self, data: bytes) -> None:
        """Become what was captured, whatever was here before."""
        self._topics.clear()
        self._live.clear()
        items = decode_items(data)
        head = next(items)
        for record in items:
            self._put(record)
        self._next_incarnation, self.version = head["next"], head["version"]

    def digest(self) -> str:
        return digest_of(self._items(self.all()))


def _checked(name: str, placement: tuple[Placement, ...]) -> tuple[Placement, ...]:
    """The placement in its stable order: brokers by name."""
    brokers = [p.broker for p in placement]
    if len(set(brokers)) < len(brokers):
        raise BadRequest(f"placement of topic {name} names a broker twice: {', '.join(sorted(brokers))}")
    if any(p.queues < 0 for p in placement):
        raise BadRequest(f"placement of topic {name} has a negative number of queues")
    total = sum(p.queues for p in placement)
    if total > QUEUES_PER_TOPIC_MAX:
        raise LimitExceeded(f"topic {name} would have {total} queues; the limit is {QUEUES_PER_TOPIC_MAX}")
    return tuple(sorted(placement, key=lambda p: p.broker))


def _record(topic: Topic) -> Record:
    return {
        "t": "topic",
        "name": topic.name,
        "type": topic.type.value,
        "placement": [[p.broker, p.queues] for p in topic.placement],
        "i": topic.incarnation,
        "ms": topic.created_ms,
    }
