"""Who reads which queue of a stream group on this broker.

Each broker computes the assignment of a topic's queues over the whole cluster from the members that it sees, and acts on
its own queues only: members join every broker of a topic, so brokers agree without talking to one another.

A queue of this broker is in one of three states:

    free                     nobody reads it
      -> owned               its new owner gets Assign with a generation one higher
    owned(member)            the assignment names this member
      -> revoking            it names another: the owner gets Revoke
      -> free                the owner left, or was silent for too long
    revoking(member)         the owner may finish and commit
      -> owned(next)         it let go, left, or release_timeout_ms have passed

Not in the table: owned -> owned(other) without revoking. Even when both are alive it could hand a message that is being
processed to the next owner. The generation (epoch of the broker, number) fences commits: one of a former owner is refused.
A member that is silent for silence_ms is expelled; only a closed connection is quicker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kourou.core.assign import assign
from kourou.core.errors import BadRequest, Fenced

Generation = tuple[int, int]
GroupTopic = tuple[str, str]

SILENCE_MS = 10_000
RELEASE_TIMEOUT_MS = 3_000


@dataclass(slots=True)
class Assign:
    """Start to deliver. Nobody else is being delivered this queue when it is given out."""

    member: str
    queue_id: int
    generation: Generation


@dataclass(slots=True)
class Revoke:
    """Ask for the queue back; deliver nothing more of it."""

    member: str
    queue_id: int
    generation: Generation
    deadline_ms: int


@dataclass(slots=True)
class Expelled:
    """The member is out; its queues have been moved."""

    member: str
    reason: str


Effect = Assign | Revoke | Expelled


@dataclass(slots=True)
class _Member:
    name: str
    group: str
    topic: str
    client_id: str
    tags: tuple[str, ...] | None
    heard_ms: int


@dataclass(slots=True)
class _Queue:
    owner: str | None = None
    number: int = 0  # second part of the generation
    revoke_deadline_ms: int | None = None  # while revoking


class StreamMembers:
    """``tick`` must be called at the latest when ``deadline_ms`` says so."""

    def __init__(
        self,
        broker: str,
        epoch: int,
        *,
        silence_ms: int = SILENCE_MS,
        release_timeout_ms: int = RELEASE_TIMEOUT_MS,
    ) -> None:
        self._broker = broker
        self._epoch = epoch
        self._silence_ms = silence_ms
        self._release_timeout_ms = release_timeout_ms
        self._members: dict[str, _Member] = {}
        self._shares: dict[GroupTopic, dict[str, _Member]] = {}
        self._declared: dict[str, list[tuple[str, int]]] = {}  # topic -> queues of the whole cluster
        self._queues: dict[GroupTopic, dict[int, _Queue]] = {}
        self._wanted: dict[GroupTopic, dict[int, str]] = {}
        self._effects: list[Effect] = []

    # ---- facts

    def joined(
        self,
        group: str,
        topic: str,
        member: str,
        client_id: str,
        *,
        tags: tuple[str, ...] | None,
        queues: Iterable[tuple[str, int]],
        now_ms: int,
    ) -> None:
        """A consumer subscribed. Raises BadRequest when its tags differ from those of the group's other members."""
        share = self._shares.get((group, topic), {})
        for other in share.values():
            if other.tags != tags and other.name != member:
                raise BadRequest(
                    f"group {group} reads topic {topic} with {_told(other.tags)} (client {other.client_id}); "
                    f"this consumer wants {_told(tags)}: all members of a group must agree"
                )
        self._shares.setdefault((group, topic), share)[member] = self._members[member] = _Member(
            member, group, topic, client_id, tags, now_ms
        )
        self._declared[topic] = list(queues)
        self._rebalance((group, topic), now_ms)

    def left(self, member: str, *, now_ms: int) -> None:
        """It unsubscribed or its connection closed: its queues are free at once."""
        known = self._members.pop(member, None)
        if known is None:
            return
        place = (known.group, known.topic)
        del self._shares[place][member]
        for queue in self._queues.get(place, {}).values():
            if queue.owner == member:
                queue.owner = queue.revoke_deadline_ms = None
        self._rebalance(place, now_ms)
        if not self._shares[place]:
            del self._shares[place]

    def heard(self, member: str, *, now_ms: int) -> None:
        known = self._members.get(member)
        if known is not None:
            known.heard_ms = max(known.heard_ms, now_ms)

    def released(self, member: str, queue_id: int, generation: Generation, *, now_ms: int) -> None:
        """The owner let go of a queue that was revoked. Of an older generation: said too late, ignored."""
        known = self._members.get(member)
        if known is None:
            return
        place = (known.group, known.topic)
        queue = self._queues[place].get(queue_id)
        if queue is None or queue.owner != member or generation != (self._epoch, queue.number):
            return
        if queue.revoke_deadline_ms is not None:
            queue.owner = queue.revoke_deadline_ms = None
            self._fill(place)

    def queues_changed(self, topic: str, queues: Iterable[tuple[str, int]], *, now_ms: int) -> None:
        self._declared[topic] = list(queues)
        for place in [place for place in self._shares if place[1] == topic]:
            self._rebalance(place, now_ms)

    def tick(self, now_ms: int) -> None:
        """Expel the silent, take queues from those who don't let go."""
        for member in list(self._members.values()):
            if now_ms - member.heard_ms >= self._silence_ms:
                self._effects.append(Expelled(member.name, f"silent for {self._silence_ms} ms"))
                self.left(member.name, now_ms=now_ms)
        for place, queues in self._queues.items():
            late = False
            for queue in queues.values():
                if queue.revoke_deadline_ms is not None and queue.revoke_deadline_ms <= now_ms:
                    queue.owner = queue.revoke_deadline_ms = None
                    late = True
            if late:
                self._fill(place)

    # ---- questions

    def deadline_ms(self) -> int | None:
        times = [member.heard_ms + self._silence_ms for member in self._members.values()]
        for queues in self._queues.values():
            times += [queue.revoke_deadline_ms for queue in queues.values() if queue.revoke_deadline_ms is not None]
        return min(times, default=None)

    def owner(self, group: str, topic: str, queue_id: int) -> tuple[str, Generation] | None:
        queue = self._queues.get((group, topic), {}).get(queue_id)
        return (queue.owner, (self._epoch, queue.number)) if queue is not None and queue.owner is not None else None

    def check_commit(self, member: str, queue_id: int, generation: Generation) -> None:
        """Raises Fenced unless the member owns the queue in that generation (revoking still counts)."""
        known = self._members.get(member)
        owner = self.owner(known.group, known.topic, queue_id) if known is not None else None
        if owner != (member, generation):
            raise Fenced(
                f"queue {queue_id} is no longer this consumer's: generation {generation} was followed by "
                f"{owner[1] if owner else 'nobody yet'}"
            )

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    # ---- rules

    def _rebalance(self, place: GroupTopic, now_ms: int) -> None:
        members = self._shares.get(place, {})
        declared = self._declared.get(place[1], [])
        wanted = {
            queue_id: name
            for name, share in assign(declared, members).items()
            for broker, queue_id in share
            if broker == self._broker
        }
        self._wanted[place] = wanted
        queues = self._queues.setdefault(place, {})
        for broker, queue_id in declared:
            if broker == self._broker:
                queues.setdefault(queue_id, _Queue())
        for queue_id, queue in queues.items():
            if queue.owner is None or queue.revoke_deadline_ms is not None or queue.owner == wanted.get(queue_id):
                continue
            queue.revoke_deadline_ms = now_ms + self._release_timeout_ms
            self._effects.append(Revoke(queue.owner, queue_id, (self._epoch, queue.number), queue.revoke_deadline_ms))
        self._fill(place)

    def _fill(self, place: GroupTopic) -> None:
        """Give free queues to those who should have them."""
        wanted = self._wanted.get(place, {})
        for queue_id, queue in self._queues[place].items():
            name = wanted.get(queue_id)
            if queue.owner is None and name is not None and name in self._members:
                queue.owner = name
                queue.number += 1
                self._effects.append(Assign(name, queue_id, (self._epoch, queue.number)))


def _told(tags: tuple[str, ...] | None) -> str:
    return "tags " + ", ".join(tags) if tags else "all tags"
