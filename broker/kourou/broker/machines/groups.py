"""Which consumer groups there are, and of what shape: a projection of the log's group records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kourou.broker.machines.projection import decode_items, digest_of, encode_slices
from kourou.core.errors import AlreadyExists, GroupNotFound, GroupShapeMismatch, LimitExceeded, TopicTypeMismatch
from kourou.core.retry import RetryPolicy
from kourou.core.route import GroupShape

Record = dict[str, Any]
GROUPS_MAX = 100_000
ATTEMPTS_DEFAULT = 16  # RocketMQ's retryMaxTimes
RETRY_DEFAULT = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    shape: GroupShape | None  # None until it is first used
    fifo: bool  # recorded; whether deliveries are ordered is the topic's matter
    max_attempts: int  # deliveries of a message before it is a dead letter; shared groups only
    created_ms: int
    retry: RetryPolicy = RETRY_DEFAULT
    bound: str = ""  # the lite topic that its members subscribe to parts of; "" for other groups
    exclusive: bool = False  # of a lite topic's part there is one subscriber at a time
    filters: tuple[tuple[str, str, str], ...] = ()  # (topic, kind, expression) that hold whatever members ask for


class GroupRegistry:
    def __init__(self, *, groups_max: int = GROUPS_MAX) -> None:
        self._groups: dict[str, Group] = {}
        self._groups_max = groups_max

    def find(self, name: str) -> Group | None:
        return self._groups.get(name)

    def get(self, name: str) -> Group:
        group = self._groups.get(name)
        if group is None:
            raise GroupNotFound(f"group {name[:120]!r} does not exist here; create it with 'kourou group create'")
        return group

    def all(self) -> list[Group]:
        return sorted(self._groups.values(), key=lambda group: group.name)

    def create(
        self,
        name: str,
        *,
        shape: GroupShape | None,
        fifo: bool,
        max_attempts: int,
        now_ms: int,
        retry: RetryPolicy | None = None,
    ) -> list[Record]:
        old = self._groups.get(name)
        if old is None:
            if len(self._groups) >= self._groups_max:
                raise LimitExceeded(f"there are {len(self._groups)} groups; the limit is {self._groups_max}")
            return [_record(Group(name, shape, fifo, max_attempts, now_ms, retry or RETRY_DEFAULT))]
        if shape is not None and old.shape is not None and shape is not old.shape:
            raise GroupShapeMismatch(f"group {name} has the shape {old.shape.value}, not {shape.value}")
        if retry is not None and retry != old.retry:
            raise AlreadyExists(f"group {name} exists with another retry policy; change it with 'kourou group update'")
        if (old.fifo, old.max_attempts) != (fifo, max_attempts):
            raise AlreadyExists(
                f"group {name} exists with fifo={old.fifo} and max_attempts={old.max_attempts}, "
                f"not fifo={fifo} and max_attempts={max_attempts}"
            )
        return [_record(replace(old, shape=shape))] if shape is not None and old.shape is None else []

    def use(self, name: str, shape: GroupShape, *, auto_create: bool, now_ms: int) -> list[Record]:
        """A member comes: its shape must be the group's, which is fixed by the first one."""
        old = self._groups.get(name)
        if old is None:
            if not auto_create:
                raise GroupNotFound(
                    f"group {name} does not exist and automatic creation is switched off; create it with "
                    "'kourou group create'"
                )
            return self.create(name, shape=shape, fifo=False, max_attempts=ATTEMPTS_DEFAULT, now_ms=now_ms)
        if old.shape is None:
            return [_record(replace(old, shape=shape))]
        if old.shape is not shape:
            raise GroupShapeMismatch(f"group {name} has the shape {old.shape.value}; it can't be used as {shape.value}")
        return []

    def update(
        self,
        name: str,
        *,
        fifo: bool | None = None,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
        exclusive: bool | None = None,
    ) -> list[Record]:
        """Change what is given of a group that exists."""
        old = self.get(name)
        new = replace(
            old,
            fifo=old.fifo if fifo is None else fifo,
            max_attempts=old.max_attempts if max_attempts is None else max_attempts,
            retry=old.retry if retry is None else retry,
            exclusive=old.exclusive if exclusive is None else exclusive,
        )
        return [_record(new)] if new != old else []

    def bind(self, name: str, topic: str) -> list[Record]:
        """A group begins to subscribe to parts of a lite topic; one that does so elsewhere is refused."""
        old = self.get(name)
        if old.bound and old.bound != topic:
            raise TopicTypeMismatch(f"group {name} is bound to lite topic {old.bound}, not {topic}")
        return [_record(replace(old, bound=topic))] if not old.bound else []

    def set_filter(self, name: str, topic: str, wanted: tuple[str, str] | None) -> list[Record]:
        """What a group gets of a topic, whatever its members ask for: (kind, expression). None: what they agree on."""
        old = self.get(name)
        filters = {place: rest for place, *rest in old.filters}
        if wanted is None:
            filters.pop(topic, None)
        else:
            filters[topic] = list(wanted)
        new = replace(old, filters=tuple((place, kind, text) for place, (kind, text) in sorted(filters.items())))
        return [_record(new)] if new != old else []

    def delete(self, name: str) -> list[Record]:
        self.get(name)
        return [{"t": "group-", "name": name}]

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        if record["t"] == "group-":
            self._groups.pop(record["name"], None)
        else:
            self._put(record)

    def _put(self, record: Record) -> None:
        shape = GroupShape(record["shape"]) if record["shape"] is not None else None
        self._groups[record["name"]] = Group(
            record["name"],
            shape,
            record["fifo"],
            record["max_attempts"],
            record["ms"],
            RetryPolicy.from_json(record.get("retry")),
            record.get("bound", ""),
            record.get("exclusive", False),
            tuple((topic, kind, text) for topic, kind, text in record.get("filters", ())),
        )

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        """Captured now (groups are immutable, so their references do), encoded as it is drawn from."""
        return encode_slices(map(_record, list(self._groups.values())))

    def restore(self, data: bytes) -> None:
        """Become what was captured, whatever was here before."""
        self._groups.clear()
        for record in decode_items(data):
            self._put(record)

    def digest(self) -> str:
        return digest_of(map(_record, self.all()))


def _record(group: Group) -> Record:
    record: Record = {
        "t": "group",
        "name": group.name,
        "shape": group.shape.value if group.shape is not None else None,
        "fifo": group.fifo,
        "max_attempts": group.max_attempts,
        "ms": group.created_ms,
    }
    if group.retry != RETRY_DEFAULT:
        record["retry"] = group.retry.to_json()
    if group.bound:
        record["bound"] = group.bound
    if group.exclusive:
        record["exclusive"] = True
    if group.filters:
        record["filters"] = [list(entry) for entry in group.filters]
    return record
