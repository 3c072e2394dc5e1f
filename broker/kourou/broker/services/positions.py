"""Where readers start and what is committed: START values, offset queries, resets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Journal
from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Store
from kourou.core import fields
from kourou.core.errors import BadRequest, QueueNotFound

CONFIRMED_S = 1.0  # while a group is short of members it never is, and operators want to see something

Start = str | tuple[str, int]  # "earliest", "latest", ("time", ms) or ("offset", n)


@dataclass(slots=True)
class QueuePosition:
    queue: int
    min_offset: int
    max_offset: int
    committed: int | None
    at_time: int | None


def parse_start(value: Mapping[str, Any], name: str, default: str | None = None) -> Start:
    """``"earliest"``, ``"latest"``, ``{"time": ms}`` or ``{"offset": n}``; BadRequest names what is wrong."""
    found = value.get(name, default)
    if found in ("earliest", "latest"):
        return str(found)
    if isinstance(found, dict) and len(found) == 1 and next(iter(found)) in ("time", "offset"):
        kind = next(iter(found))
        return kind, fields.number(found, kind)
    raise BadRequest(f'field {name!r} must be "earliest", "latest", {{"time": ms}} or {{"offset": n}}')


class PositionService:
    def __init__(self, store: Store, state: BrokerState, journal: Journal) -> None:
        self._store = store
        self._state = state
        self._journal = journal

    def resolve(self, key: int, start: Start) -> int:
        """The queue offset that a START stands for now, within what the queue holds."""
        low, high = self._store.queue_bounds(key)
        if isinstance(start, str):
            return low if start == "earliest" else high
        kind, number = start
        if kind == "time":
            number = self._store.offset_at_time(key, int(number))
        return max(low, min(int(number), high))

    def bounds(self, key: int) -> tuple[int, int]:
        """(lowest offset held, offset of the next message) of a queue."""
        return self._store.queue_bounds(key)

    def positions(
        self, topic: str, queues: Iterable[int] | None, *, group: str | None, client: str | None, time_ms: int | None
    ) -> Iterator[QueuePosition]:
        """What is asked for is checked at once, the positions are found one after the other."""
        known = self._state.topics.get(topic)
        return (self._position(known, queue, group, client, time_ms) for queue in chosen(known, queues))

    def _position(
        self, topic: Topic, queue: int, group: str | None, client: str | None, time_ms: int | None
    ) -> QueuePosition:
        key = topic.incarnation << 32 | queue
        low, high = self._store.queue_bounds(key)
        return QueuePosition(
            queue,
            low,
            high,
            self.committed(group, client, topic.incarnation, queue) if group is not None else None,
            self._store.offset_at_time(key, time_ms) if time_ms is not None else None,
        )

    async def is_confirmed(self) -> bool:
        """Will what is committed by now stay so, whoever is the master next?"""
        return await self._journal.is_confirmed(within_s=CONFIRMED_S)

    def committed(self, group: str, client: str | None, incarnation: int, queue: int) -> int | None:
        offsets = self._state.offsets
        if client is not None:
            return offsets.broadcast_committed(group, client, incarnation, queue)
        return offsets.committed(group, incarnation, queue)

    async def reset(
        self, group: str, topic: str, queues: Iterable[int] | None, start: Start
    ) -> list[tuple[int, int | None, int]]:
        """Set a group's committed offsets; (queue, from, to) of each.

        The caller has fenced the members that are reading, and moves them: what they have committed up to here comes before
        the reset, and there is no await up to the append.
        """
        self._journal.settle()
        self._journal.check_open()
        self._state.groups.get(group)
        known = self._state.topics.get(topic)
        moves: list[tuple[int, int | None, int]] = []
        for queue in chosen(known, queues):
            target = self.resolve(known.incarnation << 32 | queue, start)
            moves.append((queue, self.committed(group, None, known.incarnation, queue), target))
        await self._journal.write(
            self._state.offsets.reset(group, known.incarnation, [(queue, target) for queue, _, target in moves])
        )
        return moves


def chosen(topic: Topic, queues: Iterable[int] | None) -> list[int]:
    """The queues asked for, all of this broker when none are named; raises QueueNotFound."""
    if queues is None:
        return list(range(topic.queues))
    wanted = list(queues)
    if wanted and not (min(wanted) >= 0 and max(wanted) < topic.queues):
        wrong = next(queue for queue in wanted if not 0 <= queue < topic.queues)
        raise QueueNotFound(f"topic {topic.name} has {topic.queues} queues on this broker, not queue {wrong}")
    return wanted
