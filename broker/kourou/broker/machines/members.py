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
processed to the next owner. Nor revoking -> owned(same): when the assignment names the old owner again it has been told
to let go already; it gets the queue back once it did.

The generation (epoch of the broker, number) fences commits: one of a former owner is refused. A queue's number rises with
each hand-over; it is remembered as long as the group has members of the topic here, and no queue starts below what was
forgotten. A member that is silent for silence_ms is expelled; only a closed connection is quicker.

A queue whose Assign nobody has taken yet is simply given to somebody else, without Revoke: its delivery never began. So
effects that are taken together never revoke a queue after they assigned it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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
    number: int  # second part of the generation
    owner: str | None = None
    revoke_deadline_ms: int | None = None  # while revoking
    untaken: int | None = None  # the owner's Assign, by its place among the effects, while nobody has taken it


@dataclass(slots=True)
class _Share:
    """A group's members of one topic, and the topic's queues on this broker."""

    place: GroupTopic
    members: dict[str, _Member] = field(default_factory=dict)
    queues: dict[int, _Queue] = field(default_factory=dict)
    wanted: dict[int, str] = field(default_factory=dict)  # queue -> member, by the assignment
    revoking: set[int] = field(default_factory=set)


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
        self._shares: dict[GroupTopic, _Share] = {}
        self._declared: dict[str, list[tuple[str, int]]] = {}  # topic -> queues of the whole cluster
        self._groups: dict[str, set[str]] = {}  # topic -> groups that have members of it
        self._number_floor = 0  # no generation number up to this one is given out to a queue that is new here
        self._effects: dict[int, Effect] = {}  # by serial
        self._serial = 0

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
        """A consumer subscribed. Raises BadRequest when its tags differ from those of the group's other members.

        One that is a member already has come back and knows nothing of its queues: it leaves first. Of one that was expelled
        and comes back before that was said, it is not said any more: it would be taken for the new life's end.
        """
        share = self._shares.get((group, topic))
        for other in share.members.values() if share is not None else ():
            if other.tags != tags and other.name != member:
                raise BadRequest(
                    f"group {group} reads topic {topic} with {_told(other.tags)} (client {other.client_id}); "
                    f"this consumer (client {client_id}) wants {_told(tags)}: all members of a group must agree"
                )
        self.left(member, now_ms=now_ms)
        for serial, effect in list(self._effects.items()):
            if isinstance(effect, Expelled) and effect.member == member:
                del self._effects[serial]
        share = self._shares.get((group, topic))
        if share is None:
            share = self._shares[group, topic] = _Share((group, topic))
            self._groups.setdefault(topic, set()).add(group)
        share.members[member] = self._members[member] = _Member(member, group, topic, client_id, tags, now_ms)
        self._declared[topic] = list(queues)
        self._rebalance(share, now_ms)

    def left(self, member: str, *, now_ms: int) -> None:
        """It unsubscribed or its connection closed: its queues are free at once."""
        share = self._remove(member)
        if share is not None:
            self._settle(share, now_ms)

    def heard(self, member: str, *, now_ms: int) -> None:
        known = self._members.get(member)
        if known is not None:
            known.heard_ms = max(known.heard_ms, now_ms)

    def released(self, member: str, queue_id: int, generation: Generation, *, now_ms: int) -> None:
        """The owner let go of a queue that was revoked. Of an older generation: said too late, ignored."""
        known = self._members.get(member)
        if known is None:
            return
        share = self._shares[known.group, known.topic]
        queue = share.queues.get(queue_id)
        if queue is None or queue.owner != member or generation != (self._epoch, queue.number):
            return
        if queue.revoke_deadline_ms is not None:
            self._free(share, queue_id)
            self._fill(share, queue_id)

    def queues_changed(self, topic: str, queues: Iterable[tuple[str, int]], *, now_ms: int) -> None:
        groups = self._groups.get(topic)
        if groups is None:
            return  # whoever joins brings the queues
        self._declared[topic] = list(queues)
        for group in sorted(groups):
            self._rebalance(self._shares[group, topic], now_ms)

    def tick(self, now_ms: int) -> None:
        """Expel the silent, take queues from those who don't let go."""
        silent = [m for m in self._members.values() if now_ms - m.heard_ms >= self._silence_ms]
        for member in silent:
            self._say(Expelled(member.name, f"silent for {now_ms - member.heard_ms} ms; {self._silence_ms} are allowed"))
            self._remove(member.name)
        for place in dict.fromkeys((member.group, member.topic) for member in silent):
            self._settle(self._shares[place], now_ms)
        for share in self._shares.values():
            for queue_id in sorted(share.revoking):
                deadline_ms = share.queues[queue_id].revoke_deadline_ms
                assert deadline_ms is not None, queue_id
                if deadline_ms <= now_ms:
                    self._free(share, queue_id)
                    self._fill(share, queue_id)

    # ---- questions

    def deadline_ms(self) -> int | None:
        times = [member.heard_ms + self._silence_ms for member in self._members.values()]
        for share in self._shares.values():
            for queue_id in share.revoking:
                deadline_ms = share.queues[queue_id].revoke_deadline_ms
                assert deadline_ms is not None, queue_id
                times.append(deadline_ms)
        return min(times, default=None)

    def owner(self, group: str, topic: str, queue_id: int) -> tuple[str, Generation] | None:
        share = self._shares.get((group, topic))
        queue = share.queues.get(queue_id) if share is not None else None
        return (queue.owner, (self._epoch, queue.number)) if queue is not None and queue.owner is not None else None

    def check_commit(self, member: str, queue_id: int, generation: Generation) -> None:
        """Raises Fenced unless the member owns the queue in that generation (revoking still counts)."""
        known = self._members.get(member)
        if known is None:
            raise Fenced(f"queue {queue_id} is no longer this consumer's: it is not a member any more; subscribe again")
        owner = self.owner(known.group, known.topic, queue_id)
        if owner is None:
            raise Fenced(f"queue {queue_id} is no longer this consumer's: generation {generation} ended, nobody has it now")
        if owner != (member, generation):
            name, newer = owner
            raise Fenced(
                f"queue {queue_id} is no longer this consumer's in generation {generation}: client "
                f"{self._members[name].client_id} has it in generation {newer}"
            )

    def take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, {}
        for effect in effects.values():
            if isinstance(effect, Assign):
                known = self._members[effect.member]
                self._shares[known.group, known.topic].queues[effect.queue_id].untaken = None
        return list(effects.values())

    # ---- rules

    def _say(self, effect: Effect) -> int:
        self._serial += 1
        self._effects[self._serial] = effect
        return self._serial

    def _remove(self, member: str) -> _Share | None:
        """Take a member out and free its queues; ``_settle`` must follow."""
        known = self._members.pop(member, None)
        if known is None:
            return None
        share = self._shares[known.group, known.topic]
        del share.members[member]
        for queue_id, queue in share.queues.items():
            if queue.owner == member:
                self._free(share, queue_id)
        return share

    def _settle(self, share: _Share, now_ms: int) -> None:
        """Members have gone: give their queues to the others, or forget the share with the last one."""
        if share.members:
            self._rebalance(share, now_ms)
            return
        group, topic = share.place
        self._number_floor = max([self._number_floor, *(queue.number for queue in share.queues.values())])
        del self._shares[share.place]
        self._groups[topic].discard(group)
        if not self._groups[topic]:
            del self._groups[topic], self._declared[topic]

    def _rebalance(self, share: _Share, now_ms: int) -> None:
        declared = self._declared[share.place[1]]
        here = {queue_id for broker, queue_id in declared if broker == self._broker}
        share.wanted = {
            queue_id: name
            for name, queues in assign(declared, share.members).items()
            for broker, queue_id in queues
            if broker == self._broker
        }
        for queue_id in sorted(here - share.queues.keys()):
            share.queues[queue_id] = _Queue(self._number_floor)
        for queue_id, queue in list(share.queues.items()):
            if queue.owner is not None and queue.revoke_deadline_ms is None and queue.owner != share.wanted.get(queue_id):
                if queue.untaken is not None:
                    self._free(share, queue_id)
                else:
                    self._revoke(share, queue_id, now_ms)
            self._fill(share, queue_id)
        for queue_id in share.queues.keys() - here:
            if share.queues[queue_id].owner is None:
                self._number_floor = max(self._number_floor, share.queues.pop(queue_id).number)

    def _revoke(self, share: _Share, queue_id: int, now_ms: int) -> None:
        queue = share.queues[queue_id]
        assert queue.owner is not None, queue_id
        queue.revoke_deadline_ms = now_ms + self._release_timeout_ms
        share.revoking.add(queue_id)
        self._say(Revoke(queue.owner, queue_id, (self._epoch, queue.number), queue.revoke_deadline_ms))

    def _free(self, share: _Share, queue_id: int) -> None:
        queue = share.queues[queue_id]
        if queue.untaken is not None:
            del self._effects[queue.untaken]
        queue.owner = queue.revoke_deadline_ms = queue.untaken = None
        share.revoking.discard(queue_id)

    def _fill(self, share: _Share, queue_id: int) -> None:
        """Give a free queue to the one who should have it."""
        queue, name = share.queues[queue_id], share.wanted.get(queue_id)
        if queue.owner is None and name is not None:
            assert name in share.members, name
            queue.owner = name
            queue.number += 1
            queue.untaken = self._say(Assign(name, queue_id, (self._epoch, queue.number)))


def _told(tags: tuple[str, ...] | None) -> str:
    return "tags " + ", ".join(tags) if tags else "all tags"
