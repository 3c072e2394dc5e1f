"""Lite topics: giving out their queues, who subscribes to which, and letting go of those that nobody has used for long.

Subscriptions are soft state: clients repeat the whole of theirs every half minute, and those that are silent for three
minutes are let go of.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kourou.broker.machines.lite import BASE
from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Journal
from kourou.broker.services.positions import PositionService
from kourou.broker.services.shared.service import SharedService
from kourou.broker.services.state import BrokerState
from kourou.core.clock import Clock
from kourou.core.errors import KourouError, LimitExceeded
from kourou.core.route import TopicType

QUOTA = 2_000  # lite topics that a client may subscribe to
QUOTA_SLACK = 300
SUBSCRIPTIONS_MAX = 1_000_000  # on this broker
SILENT_MS = 180_000
EXPIRY_A_TURN = 2_000  # looked at before others get their turn


@dataclass(slots=True, eq=False)
class LiteSubscriber:
    client: str
    group: str
    topic: str
    incarnation: int
    names: set[str] = field(default_factory=set)
    queues: set[int] = field(default_factory=set)  # of those that have had a message
    heard_ms: int = 0


class LiteService:
    def __init__(
        self,
        state: BrokerState,
        journal: Journal,
        shared: SharedService,
        positions: PositionService,
        *,
        clock: Clock,
        expire_ms: int,
    ) -> None:
        self._state = state
        self._journal = journal
        self._shared = shared
        self._positions = positions
        self._clock = clock
        self._expire_ms = expire_ms  # of a lite topic without a new message; 0: never
        self._subscribers: dict[tuple[str, str, int], LiteSubscriber] = {}  # client, group, incarnation
        self._by_name: dict[tuple[int, str], set[LiteSubscriber]] = {}
        self._count = 0
        self._used_s: dict[int, array[int]] = {}  # last message of each queue, seconds after the start; by incarnation
        self._started_ms = clock.monotonic_ms()
        self.on_evicted: Callable[[str, str], None] = lambda client, name: None  # client, lite topic

    # ---- sending

    def queue_for(self, topic: Topic, name: str) -> int:
        """The queue of a lite topic, made if need be; its record comes before its first message."""
        number = self._state.lite.number(topic.incarnation, name)
        if number is None:
            self._journal.check_open()
            self._journal.submit_before(self._state.lite.add(topic.incarnation, name), lambda failure: None)
            number = self._state.lite.number(topic.incarnation, name)
            assert number is not None
            for subscriber in self._by_name.get((topic.incarnation, name), ()):
                subscriber.queues.add(number)
        self._used(topic.incarnation, number)
        return number

    def _used(self, incarnation: int, number: int) -> None:
        used = self._used_s.setdefault(incarnation, array("I"))
        at = number - BASE
        if at >= len(used):
            used.frombytes(bytes(used.itemsize * (at + 1024 - len(used))))
        used[at] = (self._clock.monotonic_ms() - self._started_ms) // 1000

    # ---- subscriptions

    def subscriber(self, client: str, group: str, topic: Topic) -> LiteSubscriber:
        place = client, group, topic.incarnation
        found = self._subscribers.get(place)
        if found is None:
            found = self._subscribers[place] = LiteSubscriber(client, group, topic.name, topic.incarnation)
        found.heard_ms = self._clock.monotonic_ms()
        return found

    def queues_of(self, client: str, group: str, topic: Topic) -> set[int]:
        """What a client may receive; the set changes as its subscriptions do."""
        return self.subscriber(client, group, topic).queues

    def add(self, client: str, group: str, topic: Topic, names: Iterable[str], *, exclusive: bool) -> list[str]:
        """Subscribe to more; the names that were new. Raises LimitExceeded, and nothing has changed then."""
        subscriber = self.subscriber(client, group, topic)
        new = [name for name in dict.fromkeys(names) if name not in subscriber.names]
        if len(subscriber.names) + len(new) > QUOTA + QUOTA_SLACK:
            raise LimitExceeded(
                f"client {client[:80]!r} would subscribe to more than {QUOTA} lite topics; that is its quota"
            )
        if self._count + len(new) > SUBSCRIPTIONS_MAX:
            raise LimitExceeded(f"there are {self._count} lite subscriptions here; the limit is {SUBSCRIPTIONS_MAX}")
        for name in new:
            members = self._by_name.setdefault((topic.incarnation, name), set())
            if exclusive:
                for other in [other for other in members if other.group == group]:
                    self._leave(other, name)
                    self.on_evicted(other.client, name)
                members = self._by_name.setdefault((topic.incarnation, name), set())
            members.add(subscriber)
            subscriber.names.add(name)
            self._count += 1
            number = self._state.lite.number(topic.incarnation, name)
            if number is not None:
                subscriber.queues.add(number)
        self._shared.look_again(group, topic, subscriber.queues)
        return new

    def remove(self, client: str, group: str, topic: Topic, names: Iterable[str]) -> None:
        subscriber = self.subscriber(client, group, topic)
        for name in list(names):
            self._leave(subscriber, name)

    def replace(self, client: str, group: str, topic: Topic, names: Iterable[str], *, exclusive: bool) -> list[str]:
        """The whole of what a client wants."""
        wanted = set(names)
        subscriber = self.subscriber(client, group, topic)
        for name in subscriber.names - wanted:
            self._leave(subscriber, name)
        return self.add(client, group, topic, wanted, exclusive=exclusive)

    def _leave(self, subscriber: LiteSubscriber, name: str) -> None:
        if name not in subscriber.names:
            return
        subscriber.names.discard(name)
        self._count -= 1
        place = subscriber.incarnation, name
        members = self._by_name[place]
        members.discard(subscriber)
        if not members:
            del self._by_name[place]
        number = self._state.lite.number(subscriber.incarnation, name)
        if number is not None:
            subscriber.queues.discard(number)

    def left(self, client: str) -> None:
        """A client has gone."""
        for place, subscriber in list(self._subscribers.items()):
            if subscriber.client == client:
                for name in list(subscriber.names):
                    self._leave(subscriber, name)
                del self._subscribers[place]

    async def start_at(self, group: str, topic: Topic, names: Iterable[str], place: tuple[str, int]) -> None:
        """Where a group begins with lite topics: ("min"|"max"|"offset"|"tail"|"time", number)."""
        kind, number = place
        entries: list[tuple[int, int]] = []
        for name in names:
            queue = self._state.lite.number(topic.incarnation, name)
            if queue is None:
                continue
            key = topic.incarnation << 32 | queue
            low, high = self._positions.bounds(key)
            if kind == "time":
                wanted = self._positions.resolve(key, ("time", number))
            else:
                wanted = {"min": low, "max": high, "offset": number, "tail": high - number}[kind]
            entries.append((queue, max(low, min(wanted, high))))
        if entries:
            await self._shared.reset(group, topic.incarnation, entries)

    # ---- time

    async def expire(self) -> None:
        """Let go of silent subscribers, and of lite topics without a message for long; called now and then."""
        now_ms = self._clock.monotonic_ms()
        for place, subscriber in list(self._subscribers.items()):
            if now_ms - subscriber.heard_ms > SILENT_MS:
                for name in list(subscriber.names):
                    self._leave(subscriber, name)
                del self._subscribers[place]
        for incarnation in [each for each in self._used_s if not self._state.topics.is_live(each)]:
            del self._used_s[incarnation]
        if not self._expire_ms or now_ms - self._started_ms < self._expire_ms:
            return
        try:
            for topic in self._state.topics.all():
                if topic.type is TopicType.LITE:
                    await self._expire_topic(topic.incarnation)
        except KourouError:
            return  # the disk is full, say; another time

    async def _expire_topic(self, incarnation: int) -> None:
        """Portion by portion: what is decided of one is in the log before others get their turn."""
        first = 0
        while self._state.topics.is_live(incarnation):
            some = self._state.lite.portion(incarnation, first, EXPIRY_A_TURN)
            if some is None:
                return
            used, by_name = self._used_s.get(incarnation, ()), self._by_name
            age_s = (self._clock.monotonic_ms() - self._started_ms - self._expire_ms) / 1000
            old = [
                BASE + at
                for at, name in enumerate(some, first)
                if name is not None and (at >= len(used) or used[at] < age_s) and (incarnation, name) not in by_name
            ]
            first += len(some)
            if old:
                await self._journal.write([{"t": "lite-", "i": incarnation, "e": old}])
            await asyncio.sleep(0)  # what is confirmed at once is not waited for
