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

When the group's offsets are set anew (``renew``) the number rises too, under the same owner: what it has read and not
committed by then is no longer wanted, and a commit of it that is under way must not undo the reset. A queue that is being
revoked keeps its Revoke, which names the generation that the owner knows; the owner can let go by that, but not commit.

A queue whose Assign nobody has taken yet is simply given to somebody else, without Revoke: its delivery never began. So
effects that are taken together never revoke a queue after they assigned it.

A topic may have 100,000 queues, so that nothing that looks at all of them is done in one go. A fact changes the membership
at once and leaves the rest to steps: compute the assignment, then go through the queues and change what has to be changed.
A fact does the first of these steps itself (all there are for the usual topic); while ``pending``, ``step`` is to be called.
Another fact begins them anew. What holds in between:

    a member that has gone owns nothing, whether or not its queues have been visited since
    a queue without an owner stays free while the assignment is being computed; it is given out by the steps that follow
    an owner whom the new assignment will not name keeps its queue until it is visited
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from kourou.core.assign import BLOCK, assigning, blocks_of
from kourou.core.errors import BadRequest, Fenced

Generation = tuple[int, int]
GroupTopic = tuple[str, str]

SILENCE_MS = 10_000
RELEASE_TIMEOUT_MS = 3_000
STEPS_AT_ONCE = 8  # by a fact: a topic of 500 queues is done with
QUEUES_PER_STEP = 128


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
class Renewed:
    """The owner's generation of a queue is over, and it does not know yet; it may go on in the new one."""

    member: str
    queue_id: int
    former: Generation
    generation: Generation


@dataclass(slots=True, eq=False)
class _Member:
    name: str
    group: str
    topic: str
    client_id: str
    tags: tuple[str, ...] | None
    heard_ms: int
    gone: bool = False


@dataclass(slots=True)
class _Queue:
    number: int  # second part of the generation
    owner: _Member | None = None  # free if it has gone
    revoke_deadline_ms: int | None = None  # while revoking
    asked: int = 0  # the number that Revoke named
    untaken: int | None = None  # the owner's Assign, by its place among the effects, while nobody has taken it


@dataclass(slots=True)
class _Share:
    """A group's members of one topic, and the topic's queues on this broker."""

    place: GroupTopic
    members: dict[str, _Member] = field(default_factory=dict)
    queues: dict[int, _Queue] = field(default_factory=dict)
    top: int = 0  # no queue has this id or a higher one
    highest: int = 0  # number that any of the queues has had
    wanted: list[_Member] = field(default_factory=list)  # by queue, as assigned; empty while that is being computed
    revoking: dict[int, None] = field(default_factory=dict)  # the one that was asked for first comes first
    steps: Generator[None, None, None] | None = None  # what is left to do


class StreamMembers:
    """``tick`` must be called at the latest when ``deadline_ms`` says so, ``step`` while it is ``pending``."""

    def __init__(
        self,
        broker: str,
        epoch: int,
        *,
        silence_ms: int = SILENCE_MS,
        release_timeout_ms: int = RELEASE_TIMEOUT_MS,
        steps_at_once: int = STEPS_AT_ONCE,
    ) -> None:
        self._broker = broker
        self._epoch = epoch
        self._silence_ms = silence_ms
        self._release_timeout_ms = release_timeout_ms
        self._steps_at_once = steps_at_once
        self._members: dict[str, _Member] = {}
        self._shares: dict[GroupTopic, _Share] = {}
        self._declared: dict[str, dict[str, int]] = {}  # topic -> number of queues of each broker
        self._groups: dict[str, set[str]] = {}  # topic -> groups that have members of it
        self._number_floor = 0  # no generation number up to this one is given out to a queue that is new here
        self._unfinished: dict[GroupTopic, None] = {}  # shares that have steps left
        self._overdue = False  # the last look found more queues to be taken by force than it took
        self._effects: dict[int, tuple[Effect, _Member]] = {}  # by serial
        self._serial = 0
        self._now_ms = 0

    # ---- facts

    def joined(
        self,
        group: str,
        topic: str,
        member: str,
        client_id: str,
        *,
        tags: tuple[str, ...] | None,
        placement: Mapping[str, int],
        now_ms: int,
    ) -> None:
        """A consumer subscribed; ``placement`` is the number of queues of each broker.

        Raises BadRequest when its tags differ from those of the group's other members.

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
        for serial, (effect, _) in list(self._effects.items()):
            if isinstance(effect, Expelled) and effect.member == member:
                del self._effects[serial]
        share = self._shares.get((group, topic))
        if share is None:
            share = self._shares[group, topic] = _Share((group, topic))
            self._groups.setdefault(topic, set()).add(group)
        share.members[member] = self._members[member] = _Member(member, group, topic, client_id, tags, now_ms)
        self._declared[topic] = dict(placement)
        self._rebalance(share)

    def left(self, member: str, *, now_ms: int) -> None:
        """It unsubscribed or its connection closed: its queues are free at once."""
        self._now_ms = now_ms
        share = self._remove(member)
        if share is not None:
            self._settle(share)

    def heard(self, member: str, *, now_ms: int) -> None:
        known = self._members.get(member)
        if known is not None:
            known.heard_ms = max(known.heard_ms, now_ms)

    def released(self, member: str, queue_id: int, generation: Generation, *, now_ms: int) -> None:
        """The owner let go of a queue that was revoked. Of an older generation: said too late, ignored."""
        self._now_ms = now_ms
        known = self._members.get(member)
        if known is None:
            return
        share = self._shares[known.group, known.topic]
        queue = share.queues.get(queue_id)
        if queue is None or queue.owner is not known or queue.revoke_deadline_ms is None:
            return
        if generation == (self._epoch, queue.asked):
            self._free(share, queue_id)
            self._fill(share, queue_id)

    def queues_changed(self, topic: str, placement: Mapping[str, int], *, now_ms: int) -> None:
        groups = self._groups.get(topic)
        if groups is None:
            return  # whoever joins brings the queues
        self._now_ms = now_ms
        self._declared[topic] = dict(placement)
        for group in sorted(groups):
            self._rebalance(self._shares[group, topic])

    def renew(self, group: str, topic: str, queue_ids: Iterable[int]) -> list[Renewed]:
        """The group's offsets of these queues are about to be set: from now on what was read before can't be committed.

        What is returned must be said to the owners, in the order: the former generation is over; then, when the offsets
        have been set, go on from there, if ``reads`` still says so. Nothing is to be said of queues that are free, that are
        being revoked, or whose Assign is on its way: it will be carried out with the new offset.
        """
        share = self._shares.get((group, topic))
        renewed: list[Renewed] = []
        for queue_id in queue_ids if share is not None else ():
            assert share is not None
            queue = share.queues.get(queue_id)
            if queue is None or queue.owner is None or queue.owner.gone or queue.untaken is not None:
                continue
            former = (self._epoch, queue.number)
            self._count_up(share, queue)
            if queue.revoke_deadline_ms is None:
                renewed.append(Renewed(queue.owner.name, queue_id, former, (self._epoch, queue.number)))
        return renewed

    def tick(self, now_ms: int) -> None:
        """Expel the silent, take queues from those who don't let go."""
        self._now_ms = now_ms
        silent = [m for m in self._members.values() if now_ms - m.heard_ms >= self._silence_ms]
        for member in silent:
            self._say(
                Expelled(member.name, f"silent for {now_ms - member.heard_ms} ms; {self._silence_ms} are allowed"), member
            )
            self._remove(member.name)
        for place in dict.fromkeys((member.group, member.topic) for member in silent):
            self._settle(self._shares[place])
        self._take_overdue()

    @property
    def pending(self) -> bool:
        """There are steps to be done."""
        return bool(self._unfinished) or self._overdue

    def step(self, now_ms: int) -> None:
        """Do a little of what is pending, half a millisecond of it at most."""
        self._now_ms = now_ms
        if self._overdue:
            self._take_overdue()
        elif self._unfinished:
            self._advance(self._shares[next(iter(self._unfinished))])

    # ---- questions

    def deadline_ms(self) -> int | None:
        times = [member.heard_ms + self._silence_ms for member in self._members.values()]
        for share in self._shares.values():
            times += [_deadline_ms(share, queue_id) for queue_id in islice(share.revoking, 1)]
        return min(times, default=None)

    def owner(self, group: str, topic: str, queue_id: int) -> tuple[str, Generation] | None:
        share = self._shares.get((group, topic))
        queue = share.queues.get(queue_id) if share is not None else None
        if queue is None or queue.owner is None or queue.owner.gone:
            return None
        return queue.owner.name, (self._epoch, queue.number)

    def reads(self, member: str, queue_id: int, generation: Generation) -> bool:
        """The member owns the queue in that generation, and has not been asked to let go."""
        known = self._members.get(member)
        queue = self._shares[known.group, known.topic].queues.get(queue_id) if known is not None else None
        return (
            queue is not None
            and queue.owner is known
            and queue.revoke_deadline_ms is None
            and generation == (self._epoch, queue.number)
        )

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

    def take_effects(self, limit: int | None = None) -> list[Effect]:
        """What is to be done, in this order; at most ``limit`` of it."""
        taken: list[Effect] = []
        for serial in list(islice(self._effects, limit)):
            effect, member = self._effects.pop(serial)
            if isinstance(effect, Expelled):
                taken.append(effect)
            elif not member.gone:  # else its queues have been given to others, or will be
                taken.append(effect)
                if isinstance(effect, Assign):
                    self._shares[member.group, member.topic].queues[effect.queue_id].untaken = None
        return taken

    # ---- rules

    def _say(self, effect: Effect, member: _Member) -> int:
        self._serial += 1
        self._effects[self._serial] = (effect, member)
        return self._serial

    def _remove(self, member: str) -> _Share | None:
        """Take a member out, which frees its queues; ``_settle`` must follow."""
        known = self._members.pop(member, None)
        if known is None:
            return None
        known.gone = True
        share = self._shares[known.group, known.topic]
        del share.members[member]
        return share

    def _settle(self, share: _Share) -> None:
        """Members have gone: give their queues to the others, or forget the share with the last one."""
        if share.members:
            self._rebalance(share)
            return
        group, topic = share.place
        self._number_floor = max(self._number_floor, share.highest)
        del self._shares[share.place]
        self._unfinished.pop(share.place, None)
        self._groups[topic].discard(group)
        if not self._groups[topic]:
            del self._groups[topic], self._declared[topic]

    def _rebalance(self, share: _Share) -> None:
        """Begin (anew) to give the queues to those who should have them now."""
        share.steps = self._steps(share)
        share.wanted = []
        self._unfinished[share.place] = None
        for _ in range(self._steps_at_once):
            if not self._advance(share):
                return

    def _advance(self, share: _Share) -> bool:
        """One step; False when there are no more."""
        assert share.steps is not None
        for _ in share.steps:
            return True
        share.steps = None
        del self._unfinished[share.place]
        return False

    def _steps(self, share: _Share) -> Generator[None, None, None]:
        """Facts that change what it depends on begin it anew, so in here nothing of that changes."""
        placement = self._declared[share.place[1]]
        names = sorted(share.members)
        wanted: list[_Member] = []
        people = [share.members[name] for name in names]
        for block in (yield from assigning(blocks_of(placement), names)):
            if block.broker == self._broker:
                wanted += [people[owner] for owner in block.owners]
                if len(wanted) % (16 * BLOCK) == 0:
                    yield
        share.wanted = wanted
        share.top = max(share.top, len(wanted))
        for first in range(0, share.top, QUEUES_PER_STEP):
            if first:
                yield
            for queue_id in range(first, min(first + QUEUES_PER_STEP, share.top)):
                self._visit(share, queue_id)
        share.top = max(share.queues, default=-1) + 1 if share.top > len(wanted) else share.top

    def _visit(self, share: _Share, queue_id: int) -> None:
        """Do what the assignment says of one queue."""
        declared = queue_id < len(share.wanted)
        queue = share.queues.get(queue_id)
        if queue is None:
            if not declared:
                return
            queue = share.queues[queue_id] = _Queue(self._number_floor)
        owner = queue.owner
        if owner is not None and owner.gone:
            self._free(share, queue_id)
        elif owner is not None and queue.revoke_deadline_ms is None and not (declared and owner is share.wanted[queue_id]):
            if queue.untaken is not None:
                self._free(share, queue_id)
            else:
                self._revoke(share, queue_id)
        self._fill(share, queue_id)
        if not declared and queue.owner is None:
            self._number_floor = max(self._number_floor, share.queues.pop(queue_id).number)

    def _take_overdue(self) -> None:
        """Take queues from those who were asked and did not let go in time; some are left for the next step if many are."""
        left = QUEUES_PER_STEP
        for share in self._shares.values():
            while share.revoking:
                queue_id = next(iter(share.revoking))
                if _deadline_ms(share, queue_id) > self._now_ms:
                    break
                if left == 0:
                    self._overdue = True
                    return
                left -= 1
                self._free(share, queue_id)
                self._fill(share, queue_id)
        self._overdue = False

    def _count_up(self, share: _Share, queue: _Queue) -> None:
        queue.number += 1
        share.highest = max(share.highest, queue.number)

    def _revoke(self, share: _Share, queue_id: int) -> None:
        queue = share.queues[queue_id]
        assert queue.owner is not None, queue_id
        queue.revoke_deadline_ms = self._now_ms + self._release_timeout_ms
        queue.asked = queue.number
        share.revoking[queue_id] = None
        self._say(Revoke(queue.owner.name, queue_id, (self._epoch, queue.number), queue.revoke_deadline_ms), queue.owner)

    def _free(self, share: _Share, queue_id: int) -> None:
        queue = share.queues[queue_id]
        if queue.untaken is not None:
            self._effects.pop(queue.untaken, None)
        queue.owner = queue.revoke_deadline_ms = queue.untaken = None
        share.revoking.pop(queue_id, None)

    def _fill(self, share: _Share, queue_id: int) -> None:
        """Give a free queue to the one who should have it, if that is known."""
        queue = share.queues[queue_id]
        if queue.owner is None and queue_id < len(share.wanted):
            owner = share.wanted[queue_id]
            assert not owner.gone, owner.name
            queue.owner = owner
            self._count_up(share, queue)
            queue.untaken = self._say(Assign(owner.name, queue_id, (self._epoch, queue.number)), owner)


def _deadline_ms(share: _Share, queue_id: int) -> int:
    deadline_ms = share.queues[queue_id].revoke_deadline_ms
    assert deadline_ms is not None, queue_id
    return deadline_ms


def _told(tags: tuple[str, ...] | None) -> str:
    return "tags " + ", ".join(tags) if tags else "all tags"
