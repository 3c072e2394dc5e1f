"""Which topics there are: a projection of the log's topic records.

A topic's *incarnation* is unique in this broker's log, so a topic that is deleted and created again shares nothing with
its former life: the queues of the old one are dead, whatever frames may still lie in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kourou.broker.machines.projection import decode_items, digest_of, encode_slices
from kourou.core.errors import AlreadyExists, LimitExceeded, TopicNotFound
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
            raise TopicNotFound(f"topic {name[:127]!r} does not exist here; create it with 'kourou topic create'")
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
        placement = tuple(sorted(placement, key=lambda p: p.broker))
        old = self._topics.get(name)
        if old is None:
            if len(self._topics) >= self._topics_max:
                raise LimitExceeded(f"there are {len(self._topics)} topics; the limit is {self._topics_max}")
            return [_record(name, kind, placement, self._next_incarnation, now_ms)]
        if old.type is not kind:
            raise AlreadyExists(f"topic {name} exists with type {old.type.value}, not {kind.value}")
        if old.placement == placement:
            return []
        before = {p.broker: p.queues for p in old.placement}
        after = {p.broker: p.queues for p in placement}
        for broker, queues in before.items():
            if after.get(broker, 0) < queues:
                raise AlreadyExists(
                    f"topic {name} exists with {queues} queues on {broker}, not {after.get(broker, 0)}; "
                    "queues can only be added"
                )
        return [_record(name, kind, placement, old.incarnation, old.created_ms)]

    def delete(self, name: str) -> list[Record]:
        return [{"t": "topic-", "name": name, "i": self.get(name).incarnation}]

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        self.version += 1
        name = record["name"]
        if record["t"] == "topic-":
            topic = self._topics.get(name)
            if topic is not None and topic.incarnation == record["i"]:
                del self._topics[name]
                del self._live[topic.incarnation]
            return
        self._put(record)

    def _put(self, record: Record) -> None:
        placement = tuple(Placement(broker, queues) for broker, queues in record["placement"])
        queues = sum(p.queues for p in placement if p.broker == self._broker)
        topic = Topic(record["name"], TopicType(record["type"]), placement, queues, record["i"], record["ms"])
        old = self._topics.get(topic.name)
        if old is not None:
            self._live.pop(old.incarnation, None)
        self._topics[topic.name] = topic
        self._live[topic.incarnation] = topic.name
        self._next_incarnation = max(self._next_incarnation, topic.incarnation + 1)

    # ---- projection

    def capture(self) -> list[Any]:
        head = {"next": self._next_incarnation, "version": self.version}
        return [head, *(_record(t.name, t.type, t.placement, t.incarnation, t.created_ms) for t in self.all())]

    def snapshot(self) -> Iterator[bytes]:
        return encode_slices(self.capture())

    def restore(self, data: bytes) -> None:
        items = decode_items(data)
        head = next(items)
        for record in items:
            self._put(record)
        self._next_incarnation, self.version = head["next"], head["version"]

    def digest(self) -> str:
        return digest_of(self.capture())


def _record(name: str, kind: TopicType, placement: tuple[Placement, ...], incarnation: int, created_ms: int) -> Record:
    return {
        "t": "topic",
        "name": name,
        "type": kind.value,
        "placement": [[p.broker, p.queues] for p in placement],
        "i": incarnation,
        "ms": created_ms,
    }
