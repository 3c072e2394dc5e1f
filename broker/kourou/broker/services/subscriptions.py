"""Stream and broadcast subscriptions: joins members to groups, turns assignments into deliveries, takes commits.

The rules of ownership are in ``machines.members``; this file feeds it facts and carries out its effects. A queue's start
is the committed offset, else the subscription's START, which is then committed at once: a consumer that begins at
"latest" and dies before its first commit does not skip what came meanwhile.

A subscription may have 100,000 queues, so effects are carried out in steps of about a millisecond, between which the loop
does other work (``apply_effects``). Each effect is carried out as soon as it is taken: what changes between two steps
changes what the machine says next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from kourou.broker.machines.members import Assign, Effect, Expelled, Renewed, Revoke, StreamMembers
from kourou.broker.machines.topics import Topic
from kourou.broker.services.delivery import Cursor, DeliveryService, Generation, Outlet, Subscription
from kourou.broker.services.journal import Journal
from kourou.broker.services.positions import PositionService, Start, chosen
from kourou.broker.services.state import BrokerState
from kourou.core.clock import Clock
from kourou.core.errors import (
    BadRequest,
    Fenced,
    KourouError,
    LimitExceeded,
    OffsetOutOfRange,
    SubscriptionNotFound,
    TooManyRequests,
)
from kourou.core.frame import tag_hash
from kourou.core.route import GroupShape
from kourou.runtime.gc_tame import collect_young

SUBSCRIPTIONS_PER_CONNECTION_MAX = 1_024
TAGS_MAX = 256
CREDIT_MAX = 256 * 1024 * 1024
STEP_S = 0.001  # effects are carried out for so long, then it is the turn of others
PORTION = 100  # effects that are carried out together: less than a millisecond's work
REVOKED_APART = 16  # queues of one member that are asked back one by one, so that a busy one does not hold up the others
COLLECT_EVERY = 1_000  # queues that are assigned: some ten objects each
RESET_PORTION = 200  # queues whose offsets are set by one record


class Subscriber(Outlet, Protocol):
    """The connection of a subscriber, as far as assignments need it."""

    client_id: str
    remote: str

    @property
    def heard_at(self) -> float: ...

    def assigned(self, subscription: int, cursors: Sequence[Cursor]) -> None: ...

    def revoked(
        self,
        subscription: int,
        queues: Sequence[tuple[int, Generation]],
        deadline_ms: int,
        released: Callable[[], None],
    ) -> None:
        """Ask for queues back; ``released`` is called when the client has let go. Deadline 0: already taken."""
        ...


@dataclass(slots=True, eq=False)
class _Entry:
    subscription: Subscription
    subscriber: Subscriber
    start: Start
    heard_at: float
    tags: list[str] | None
    spread: int = 0  # broadcast: queues below it have been assigned


class SubscriptionService:
    def __init__(
        self,
        state: BrokerState,
        journal: Journal,
        delivery: DeliveryService,
        positions: PositionService,
        members: StreamMembers,
        *,
        clock: Clock,
    ) -> None:
        self._state = state
        self._journal = journal
        self._delivery = delivery
        self._positions = positions
        self._members = members
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._sessions = count(1)
        self._entries: dict[int, _Entry] = {}
        self._by_member: dict[str, _Entry] = {}  # by the machine's member id
        self._by_subscriber: dict[Subscriber, set[int]] = {}
        self._spreading: deque[_Entry] = deque()  # broadcast consumers that have queues to be assigned
        self._working = False  # the next step is under way, or will come by itself
        self._assigned = 0  # since the young objects were collected

    # ---- subscribing

    async def subscribe(
        self,
        subscriber: Subscriber,
        *,
        group: str,
        topic: str,
        mode: str,
        member: str,
        start: Start,
        tags: list[str] | None,
        credit: int,
        auto_create: bool,
        may_leave: bool = False,
    ) -> Callable[[Callable[[int], None]], None]:
        """Check and prepare; the returned function joins. It calls its argument with the subscription's number before
        anything is assigned or delivered, so that the client hears of them in that order."""
        known = self._state.topics.get(topic)
        if len(self._by_subscriber.get(subscriber, ())) >= SUBSCRIPTIONS_PER_CONNECTION_MAX:
            raise TooManyRequests(f"the connection has {SUBSCRIPTIONS_PER_CONNECTION_MAX} subscriptions; that is the limit")
        if not 0 <= credit <= CREDIT_MAX:
            raise BadRequest(f"field 'credit' is {credit}; from 0 to {CREDIT_MAX} is allowed")
        if tags is not None and not tags:
            raise BadRequest("field 'tags' is an empty list; leave it out to get everything")
        await self._journal.write(
            self._state.groups.use(group, GroupShape.STREAM, auto_create=auto_create, now_ms=self._clock.wall_ms())
        )
        if subscriber.closed:
            raise SubscriptionNotFound("the connection has ended")
        self._check_twin(group, topic, member, mode)

        def begin(answer: Callable[[int], None]) -> None:
            self._begin(subscriber, known, group, mode, member, start, tags, credit, may_leave, answer)

        return begin

    def _check_twin(self, group: str, topic: str, member: str, mode: str) -> None:
        twin = self._by_member.get(_member_id(group, topic, member, mode))
        if twin is not None:  # the same consumer on a new connection: the old one has not been noticed to be dead
            self.unsubscribe(twin.subscription.number, reason="subscribed again on another connection")

    def _begin(
        self,
        subscriber: Subscriber,
        topic: Topic,
        group: str,
        mode: str,
        member: str,
        start: Start,
        tags: list[str] | None,
        credit: int,
        may_leave: bool,
        answer: Callable[[int], None],
    ) -> None:
        number = next(self._numbers)
        hashes = frozenset(map(tag_hash, tags)) if tags else None
        subscription = Subscription(number, group, topic.name, mode, member, hashes, subscriber, credit)
        subscription.may_leave = may_leave
        entry = _Entry(subscription, subscriber, start, subscriber.heard_at, tags)
        if mode == "stream":
            self._members.joined(
                group,
                topic.name,
                _member_id(group, topic.name, member, mode),
                subscriber.client_id,
                tags=tuple(sorted(set(tags))) if tags else None,
                placement=_placement(self._state.topics.get(topic.name)),
                now_ms=self._clock.monotonic_ms(),
            )
        self._entries[number] = entry
        self._by_member[_member_id(group, topic.name, member, mode)] = entry
        self._by_subscriber.setdefault(subscriber, set()).add(number)
        answer(number)
        if mode == "broadcast":
            self._spreading.append(entry)
        self.apply_effects()

    def unsubscribe(self, number: int, *, reason: str = "") -> None:
        entry = self._entries.pop(number, None)
        if entry is None:
            raise SubscriptionNotFound(f"there is no subscription {number}")
        subscription = entry.subscription
        self._delivery.close(subscription)
        self._by_subscriber.get(entry.subscriber, set()).discard(number)
        member = _member_id(subscription.group, subscription.topic, subscription.member, subscription.mode)
        if self._by_member.get(member) is entry:
            del self._by_member[member]
        if reason and not entry.subscriber.closed:
            entry.subscriber.revoked(number, [], 0, lambda: None)
        if subscription.mode == "stream":
            self._members.left(member, now_ms=self._clock.monotonic_ms())
            self.apply_effects()

    def closed(self, subscriber: Subscriber) -> None:
        """The connection has ended: its queues move at once."""
        for number in list(self._by_subscriber.pop(subscriber, ())):
            if number in self._entries:
                self.unsubscribe(number)

    def get(self, subscriber: Subscriber, number: int) -> Subscription:
        entry = self._entries.get(number)
        if entry is None or entry.subscriber is not subscriber:
            raise SubscriptionNotFound(f"there is no subscription {number} on this connection")
        return entry.subscription

    def of(self, subscriber: Subscriber) -> list[Subscription]:
        return [self._entries[number].subscription for number in self._by_subscriber.get(subscriber, ())]

    # ---- what members do

    def commit(
        self,
        subscriber: Subscriber,
        number: int,
        entries: Iterable[tuple[int, Generation, int]],
        done: Callable[[list[int], KourouError | None], None],
    ) -> None:
        """Commit (queue, generation, next offset) of each; ``done`` gets the queues that were fenced off."""
        subscription = self.get(subscriber, number)
        topic = self._state.topics.get(subscription.topic)
        member = _member_id(subscription.group, subscription.topic, subscription.member, subscription.mode)
        fenced: list[int] = []
        accepted: list[tuple[int, int]] = []
        for queue, generation, offset in entries:
            _, high = self._bounds(topic, queue)
            if offset > high:
                raise OffsetOutOfRange(f"offset {offset} of queue {queue} can't be committed; the queue ends at {high}")
            if subscription.mode == "broadcast":
                accepted.append((queue, offset))
                continue
            try:
                self._members.check_commit(member, queue, generation)
            except Fenced:
                fenced.append(queue)
            else:
                accepted.append((queue, offset))
        records = self._commit_records(subscription, topic, accepted)
        if not records:
            done(fenced, None)
            return
        (record,) = records
        self._journal.submit_record(record, lambda failure: done(fenced, failure))

    def _bounds(self, topic: Topic, queue: int) -> tuple[int, int]:
        if queue >= topic.queues:
            raise BadRequest(f"topic {topic.name} has {topic.queues} queues on this broker, not queue {queue}")
        return self._positions.bounds(topic.incarnation << 32 | queue)

    def _commit_records(
        self, subscription: Subscription, topic: Topic, accepted: list[tuple[int, int]]
    ) -> list[dict[str, object]]:
        offsets = self._state.offsets
        if subscription.mode == "broadcast":
            client = self._entries[subscription.number].subscriber.client_id
            return offsets.commit_broadcast(subscription.group, client, topic.incarnation, accepted)
        return offsets.commit(subscription.group, topic.incarnation, accepted)

    def seek(
        self,
        subscriber: Subscriber,
        number: int,
        queue: int,
        start: Start,
        answer: Callable[[int, int], None],
        *,
        stay: bool = False,
    ) -> None:
        """Deliver a queue from somewhere else; ``answer`` gets (session, offset) of what comes from now on. ``stay``: from
        here, not from a slave."""
        subscription = self.get(subscriber, number)
        old = subscription.cursors.get(queue)
        if old is None:
            raise Fenced(f"queue {queue} is not assigned to this subscription")
        cursor = Cursor(
            subscription,
            old.key,
            queue,
            old.generation,
            next(self._sessions),
            self._positions.resolve(old.key, start),
            paused=old.paused,
            stays=stay,
        )
        answer(cursor.session, cursor.offset)
        self._delivery.start(subscription, cursor, at_end=False)

    async def reset(
        self, group: str, topic: str, queues: Iterable[int] | None, start: Start
    ) -> list[tuple[int, int | None, int]]:
        """Set a group's committed offsets; (queue, from, to) of each. Whoever reads these queues goes on from there, and
        what it has read before can't be committed any more.

        In portions, each with a record of its own: when one fails the queues before it have been reset, and those behind it
        have not. It can be repeated.
        """
        self._state.groups.get(group)
        wanted = chosen(self._state.topics.get(topic), queues)
        moves: list[tuple[int, int | None, int]] = []
        for first in range(0, len(wanted), RESET_PORTION):
            some = wanted[first : first + RESET_PORTION]
            fenced = self._fence(group, topic, some)  # nothing may happen between this and the append
            try:
                moves += await self._positions.reset(group, topic, some, start)
            finally:
                self.moved(fenced)
            await asyncio.sleep(0)
        return moves

    def _fence(self, group: str, topic: str, queues: Iterable[int]) -> list[Renewed]:
        """Give the queues a new generation under their owners, and tell these that the old one is over. ``moved`` must
        follow."""
        renewed = self._members.renew(group, topic, queues)
        ended: dict[_Entry, list[tuple[int, Generation]]] = {}
        for queue in renewed:
            entry = self._by_member[queue.member]
            self._delivery.hold(entry.subscription, queue.queue_id)
            ended.setdefault(entry, []).append((queue.queue_id, queue.former))
        for entry, former in ended.items():
            entry.subscriber.revoked(entry.subscription.number, former, 0, _nothing)
        return renewed

    def moved(self, renewed: Iterable[Renewed]) -> None:
        """The offsets of fenced queues were set, or could not be set: their owners go on from what is committed now.

        Not those who meanwhile left, were asked to let go, or were fenced once more: their queues have a new owner, who
        begins there too, or are somebody else's to go on with.
        """
        again: dict[_Entry, list[tuple[int, Generation]]] = {}
        for queue in renewed:
            entry = self._by_member.get(queue.member)
            if entry is not None and self._members.reads(queue.member, queue.queue_id, queue.generation):
                again.setdefault(entry, []).append((queue.queue_id, queue.generation))
        for entry, queues in again.items():
            self._assign(entry, queues)

    def topic_changed(self, topic: str) -> None:
        """Queues were added, or the topic was deleted."""
        found = self._state.topics.find(topic)
        if found is None:
            for number in [n for n, e in self._entries.items() if e.subscription.topic == topic]:
                self.unsubscribe(number, reason=f"topic {topic} was deleted")
            return
        self._members.queues_changed(topic, _placement(found), now_ms=self._clock.monotonic_ms())
        self._spreading += [
            e for e in self._entries.values() if e.subscription.topic == topic and e.subscription.mode == "broadcast"
        ]
        self.apply_effects()

    def members_of(self, group: str) -> list[tuple[Subscription, Subscriber]]:
        return [(e.subscription, e.subscriber) for e in self._entries.values() if e.subscription.group == group]

    def tags_of(self, number: int) -> list[str] | None:
        return self._entries[number].tags

    @property
    def count(self) -> int:
        return len(self._entries)

    # ---- the machine's effects

    def tick(self) -> None:
        """Called a few times a second: signs of life in, expirations out."""
        now_ms = self._clock.monotonic_ms()
        for entry in self._entries.values():
            if entry.subscriber.heard_at != entry.heard_at and entry.subscription.mode == "stream":
                entry.heard_at = entry.subscriber.heard_at
                subscription = entry.subscription
                self._members.heard(
                    _member_id(subscription.group, subscription.topic, subscription.member, "stream"), now_ms=now_ms
                )
        self._members.tick(now_ms)
        self.apply_effects()

    def apply_effects(self) -> None:
        """Do what the machine says: now what takes a millisecond (that is all, but for very big topics), the rest bit by
        bit, behind whatever else wants to be done."""
        if not self._working:
            self._work()

    def _work(self) -> None:
        self._working = True
        until = self._loop.time() + STEP_S
        try:
            while self._step():
                if self._loop.time() >= until:
                    self._loop.call_soon(self._work)
                    return
        except BaseException:
            self._working = False  # a bug; the next tick goes on behind it
            raise
        self._working = False

    def _step(self) -> bool:
        """A portion of what is to be done; False when there is nothing."""
        effects = self._members.take_effects(PORTION)
        if effects:
            self._carry_out(effects)
        elif self._members.pending:
            self._members.step(self._clock.monotonic_ms())
        elif self._spreading:
            self._spread(self._spreading[0])
        else:
            return False
        return True

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        assigned: dict[_Entry, list[tuple[int, Generation]]] = {}
        revoked: dict[_Entry, list[Revoke]] = {}
        for effect in effects:
            entry = self._by_member.get(effect.member)
            if entry is None:
                continue
            if isinstance(effect, Assign):
                assigned.setdefault(entry, []).append((effect.queue_id, effect.generation))
            elif isinstance(effect, Revoke):
                revoked.setdefault(entry, []).append(effect)
            elif isinstance(effect, Expelled):
                self.unsubscribe(entry.subscription.number, reason=effect.reason)
        for entry, asked in revoked.items():
            if entry.subscription.number in self._entries:
                for some in [asked] if len(asked) > REVOKED_APART else [[revoke] for revoke in asked]:
                    self._revoke(entry, some)
        for entry, queues in assigned.items():
            if entry.subscription.number in self._entries:
                self._assign(entry, queues)

    def _spread(self, entry: _Entry) -> None:
        """Assign some of the queues that a broadcast consumer does not have yet."""
        subscription = entry.subscription
        topic = self._state.topics.find(subscription.topic)
        if topic is None or subscription.number not in self._entries or entry.spread >= topic.queues:
            self._spreading.popleft()
            return
        first, entry.spread = entry.spread, min(entry.spread + PORTION, topic.queues)
        self._assign(entry, [(queue, (0, 0)) for queue in range(first, entry.spread)])

    def _revoke(self, entry: _Entry, asked: Sequence[Revoke]) -> None:
        for revoke in asked:
            self._delivery.stop(entry.subscription, revoke.queue_id)

        def released() -> None:
            now_ms = self._clock.monotonic_ms()
            for revoke in asked:
                self._members.released(revoke.member, revoke.queue_id, revoke.generation, now_ms=now_ms)
            self._loop.call_soon(self.apply_effects)

        wait_ms = max(1, asked[0].deadline_ms - self._clock.monotonic_ms())
        queues = [(revoke.queue_id, revoke.generation) for revoke in asked]
        entry.subscriber.revoked(entry.subscription.number, queues, wait_ms, released)

    def _assign(self, entry: _Entry, queues: list[tuple[int, Generation]]) -> None:
        subscription = entry.subscription
        topic = self._state.topics.find(subscription.topic)
        if topic is None:
            return
        client = entry.subscriber.client_id if subscription.mode == "broadcast" else None
        cursors: list[tuple[Cursor, bool]] = []
        fresh: list[tuple[int, int]] = []
        for queue, generation in queues:
            key = topic.incarnation << 32 | queue
            offset = self._positions.committed(subscription.group, client, topic.incarnation, queue)
            if offset is None:
                offset = self._positions.resolve(key, entry.start)
                if entry.start != "earliest":
                    fresh.append((queue, offset))
            low, high = self._positions.bounds(key)
            former = subscription.cursors.get(queue)
            paused = former.paused if former is not None else False
            offset = max(low, min(offset, high))
            cursor = Cursor(subscription, key, queue, generation, next(self._sessions), offset, paused=paused)
            cursors.append((cursor, offset == high))
        try:
            records = self._commit_records(subscription, topic, fresh)
        except LimitExceeded:
            records = []  # then it is resolved anew by the next owner; a commit will be refused and say so
        for record in records:
            self._journal.submit_record(record, _nothing)
        entry.subscriber.assigned(subscription.number, [cursor for cursor, _ in cursors])
        for cursor, at_end in cursors:
            self._delivery.start(subscription, cursor, at_end=at_end)
        self._assigned += len(cursors)
        if self._assigned >= COLLECT_EVERY:
            self._assigned = 0
            collect_young()


def _placement(topic: Topic) -> dict[str, int]:
    return {place.broker: place.queues for place in topic.placement}


def _nothing(*_: object) -> None:
    """Nobody waits for it."""


def _member_id(group: str, topic: str, member: str, mode: str) -> str:
    """One member a subscription: a consumer of two topics is two members, so that each topic is shared on its own."""
    return f"{mode}\n{group}\n{topic}\n{member}"
