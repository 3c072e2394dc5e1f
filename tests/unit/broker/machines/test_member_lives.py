"""Stream members: several groups and topics, effects taken late, queues that come and go, names that return."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kourou.broker.machines.members import RELEASE_TIMEOUT_MS, SILENCE_MS, Assign, Expelled, Renewed, Revoke, StreamMembers
from kourou.core.assign import assign
from kourou.core.clock import ManualClock
from kourou.core.errors import BadRequest, Fenced
from tests.unit.broker.machines.test_members import placed

QUEUES = [(broker, number) for broker in "ab" for number in range(4)]


def join(
    members: StreamMembers, name: str, *, now_ms: int = 0, topic: str = "t", tags: tuple[str, ...] | None = None
) -> None:
    members.joined("g", topic, name, f"client-{name}", tags=tags, placement=placed(QUEUES), now_ms=now_ms)


def finish(members: StreamMembers, *, now_ms: int = 0) -> None:
    """Do all steps that are left."""
    while members.pending:
        members.step(now_ms)


def test_one_that_comes_back_is_told_its_queues_again() -> None:
    """Its new connection knows nothing of what the old one was given; commits of the old one are fenced."""
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    join(members, "m", now_ms=5)
    effects = members.take_effects()
    assert [(e.queue_id, e.generation) for e in effects if isinstance(e, Assign)] == [(q, (1, 2)) for q in range(4)]
    with pytest.raises(Fenced, match=r"client client-m has it in generation \(1, 2\)"):
        members.check_commit("m", 0, (1, 1))


def test_one_that_changes_its_topic_gives_back_the_old_one() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    join(members, "m", topic="u")
    assert members.owner("g", "t", 0) is None
    assert members.owner("g", "u", 0) == ("m", (1, 2))
    assert len(members.take_effects()) == 4  # what was never taken is not said


def test_a_generation_does_not_come_again_after_the_last_member_left() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    members.left("m", now_ms=0)
    join(members, "m")
    assert members.owner("g", "t", 0) == ("m", (1, 2))
    with pytest.raises(Fenced):
        members.check_commit("m", 0, (1, 1))


def test_nothing_is_kept_of_groups_that_are_gone() -> None:
    members = StreamMembers("a", 1)
    for number in range(50):
        members.joined(f"g{number}", f"t{number}", "m", "c", tags=None, placement=placed(QUEUES), now_ms=0)
        members.left("m", now_ms=0)
        members.queues_changed(f"t{number}", placed(QUEUES), now_ms=0)
    assert [members._shares, members._declared, members._groups, members._members] == [{}, {}, {}, {}]


def test_a_refused_join_changes_nothing() -> None:
    members = StreamMembers("a", 1)
    join(members, "m", tags=("x",))
    join(members, "n", topic="u")
    members.take_effects()
    with pytest.raises(BadRequest, match=r"tags x \(client client-m\); this consumer \(client client-n\) wants all tags"):
        join(members, "n")
    assert members.take_effects() == []
    assert members.owner("g", "u", 0) is not None


def test_several_that_are_silent_are_expelled_before_anything_is_assigned() -> None:
    """Else a queue would be given to one that is out a moment later, and be revoked in the same breath."""
    members = StreamMembers("a", 1)
    for name in "mnop":
        join(members, name)
    members.tick(RELEASE_TIMEOUT_MS)
    members.take_effects()
    for name in "mn":
        members.heard(name, now_ms=SILENCE_MS)
    members.tick(SILENCE_MS)
    effects = members.take_effects()
    assert [e.member for e in effects[:2] if isinstance(e, Expelled)] == ["o", "p"]
    assert not any(isinstance(e, Expelled) for e in effects[2:])
    assert {e.member for e in effects[2:]} <= {"m", "n"}


def test_an_undeclared_queue_is_taken_back() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    members.queues_changed("t", placed(QUEUES[:3]), now_ms=1)
    (revoke,) = members.take_effects()
    assert revoke == Revoke("m", 3, (1, 1), 1 + RELEASE_TIMEOUT_MS)
    assert members.deadline_ms() == 1 + RELEASE_TIMEOUT_MS
    members.tick(1 + RELEASE_TIMEOUT_MS)
    assert members.take_effects() == []
    assert members.owner("g", "t", 3) is None


def test_a_big_move_is_quick() -> None:
    """Goal: releases one by one don't look at all queues each. Method: 4,000 of 8,000 queues move; count visits by time
    is fragile, so only the result is checked, and the test would take a minute otherwise."""
    queues = [("a", number) for number in range(8_000)]
    members = StreamMembers("a", 1)
    for name in "mn":
        members.joined("g", "t", name, name, tags=None, placement=placed(queues), now_ms=0)
        finish(members)
        effects = members.take_effects()
    assert len(effects) == 4_000
    for effect in effects:
        assert isinstance(effect, Revoke)
        members.released("m", effect.queue_id, effect.generation, now_ms=1)
    assert len(members.take_effects()) == 4_000


def test_an_expulsion_that_was_not_said_does_not_hit_the_next_life() -> None:
    """Found by Lives: expelled, joined again under its name, and only then the effects were taken."""
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    members.tick(SILENCE_MS)
    join(members, "m", now_ms=SILENCE_MS)
    effects = members.take_effects()
    assert [type(effect) for effect in effects] == [Assign] * 4
    assert members.owner("g", "t", 0) == ("m", (1, 2))


def test_a_release_of_a_former_generation_is_said_too_late() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    members.queues_changed("t", placed([]), now_ms=0)
    members.tick(RELEASE_TIMEOUT_MS)  # taken by force
    members.queues_changed("t", placed(QUEUES), now_ms=RELEASE_TIMEOUT_MS)
    members.take_effects()
    members.queues_changed("t", placed([]), now_ms=RELEASE_TIMEOUT_MS)  # revoking the next generation
    members.released("m", 0, (1, 1), now_ms=RELEASE_TIMEOUT_MS)
    assert members.owner("g", "t", 0) == ("m", (1, 2))


def test_a_queue_declared_again_goes_on_with_its_generations() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    members.queues_changed("t", placed(QUEUES[:3]), now_ms=0)
    members.released("m", 3, (1, 1), now_ms=0)
    members.queues_changed("t", placed(QUEUES[:3]), now_ms=0)
    members.queues_changed("t", placed(QUEUES), now_ms=0)
    assert members.owner("g", "t", 3) == ("m", (1, 2))


def test_what_was_never_taken_moves_without_revoke() -> None:
    """Goal: effects taken together don't revoke what they assigned. Method: three join before anything is taken."""
    members = StreamMembers("a", 1)
    for name in "mno":
        join(members, name)
    effects = members.take_effects()
    assert all(isinstance(effect, Assign) for effect in effects)
    assert sorted(effect.queue_id for effect in effects if isinstance(effect, Assign)) == [0, 1, 2, 3]
    assert members.deadline_ms() == SILENCE_MS


def test_an_assignment_in_steps() -> None:
    """Effects come bit by bit, each queue's once; what comes and goes in between begins it anew."""
    members = StreamMembers("a", 1, steps_at_once=0)
    join(members, "m")
    assert members.take_effects() == []
    finish(members)
    first, *rest = members.take_effects(1), members.take_effects(2), members.take_effects()
    assert [effect.queue_id for effect in [*first, *rest[0], *rest[1]] if isinstance(effect, Assign)] == [0, 1, 2, 3]
    join(members, "n")
    members.step(0)
    members.left("m", now_ms=0)  # in the middle of it
    assert members.owner("g", "t", 0) is None
    with pytest.raises(Fenced, match="not a member"):
        members.check_commit("m", 0, (1, 1))
    assert members.take_effects() == []
    finish(members)
    assert members.take_effects() == [Assign("n", queue, (1, 2)) for queue in range(4)]
    assert not members.pending


def test_what_was_assigned_and_not_said_is_never_said_to_the_next_life() -> None:
    members = StreamMembers("a", 1, steps_at_once=0)
    join(members, "m")
    finish(members)
    join(members, "n")
    finish(members)
    join(members, "m")  # on another connection, before anything was taken
    finish(members)
    effects = members.take_effects()
    assert all(isinstance(effect, Assign) for effect in effects)
    assert sorted(effect.queue_id for effect in effects if isinstance(effect, Assign)) == [0, 1, 2, 3]


def test_a_queue_that_is_let_go_while_shares_are_computed_is_given_out_afterwards() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    members.queues_changed("t", {"a": 3}, now_ms=0)
    (revoke,) = members.take_effects()
    assert isinstance(revoke, Revoke)
    members._steps_at_once = 0
    members.queues_changed("t", {"a": 4}, now_ms=0)
    members.released("m", 3, revoke.generation, now_ms=0)
    assert members.owner("g", "t", 3) is None
    finish(members)
    assert members.take_effects() == [Assign("m", 3, (1, 2))]


def test_many_that_are_not_let_go_of_are_taken_in_steps() -> None:
    members = StreamMembers("a", 1)
    for name in "mn":
        members.joined("g", "t", name, name, tags=None, placement={"a": 2_000}, now_ms=0)
        finish(members)
        effects = members.take_effects()
    assert len(effects) == 1_000
    for name in "mn":
        members.heard(name, now_ms=RELEASE_TIMEOUT_MS)
    members.tick(RELEASE_TIMEOUT_MS)
    assert 0 < len(members.take_effects()) < 1_000
    assert members.pending
    finish(members, now_ms=RELEASE_TIMEOUT_MS)
    assert members.deadline_ms() == RELEASE_TIMEOUT_MS + SILENCE_MS
    assert sum(members.owner("g", "t", queue) == ("n", (1, 2)) for queue in range(2_000)) == 1_000


def test_a_new_generation_fences_what_was_read_before() -> None:
    """The owner stays; it is told, and only what it commits in the new generation counts."""
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    assert members.renew("g", "t", [0, 2, 9]) == [Renewed("m", 0, (1, 1), (1, 2)), Renewed("m", 2, (1, 1), (1, 2))]
    assert members.take_effects() == []
    for queue in (0, 2):
        with pytest.raises(Fenced, match=r"client client-m has it in generation \(1, 2\)"):
            members.check_commit("m", queue, (1, 1))
        members.check_commit("m", queue, (1, 2))
        assert members.reads("m", queue, (1, 2))
        assert not members.reads("m", queue, (1, 1))
    members.check_commit("m", 1, (1, 1))
    assert members.renew("h", "t", [0]) == members.renew("g", "u", [0]) == []
    members.left("m", now_ms=0)
    assert not members.reads("m", 0, (1, 2))
    join(members, "m")
    assert members.owner("g", "t", 0) == members.owner("g", "t", 1) == ("m", (1, 3))  # never one that was given out


def test_a_new_generation_of_a_queue_that_is_asked_back() -> None:
    """Its owner can let go by the generation that it knows, but commit nothing more; it is told nothing new."""
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    members.queues_changed("t", {"a": 3}, now_ms=0)
    (revoke,) = members.take_effects()
    assert members.renew("g", "t", [3]) == []
    with pytest.raises(Fenced):
        members.check_commit("m", 3, (1, 1))
    assert isinstance(revoke, Revoke)
    assert not members.reads("m", 3, (1, 2))
    members.released("m", 3, revoke.generation, now_ms=0)
    assert members.owner("g", "t", 3) is None


def test_a_new_generation_before_the_first_was_said() -> None:
    """Nobody has read anything: the Assign on its way is carried out with the new offset."""
    members = StreamMembers("a", 1)
    join(members, "m")
    assert members.renew("g", "t", [0]) == []
    assert members.take_effects() == [Assign("m", queue, (1, 1)) for queue in range(4)]
    members.check_commit("m", 0, (1, 1))


class Lives(RuleBasedStateMachine):
    """Any order of facts; ``delivering`` is what a service that carries out every effect would be delivering, ``fenced``
    what must never be committed any more."""

    names = st.sampled_from([f"m{number}" for number in range(6)])

    @initialize(steps_at_once=st.sampled_from([0, 1, 8]))
    def begin(self, steps_at_once: int) -> None:
        self.clock = ManualClock()
        self.members = StreamMembers("a", 1, steps_at_once=steps_at_once)
        self.fenced: set[tuple[str, str, int, tuple[int, int]]] = set()
        self.alive: dict[str, tuple[str, str]] = {}
        self.declared = {"t": QUEUES, "u": QUEUES[:2]}
        self.delivering: dict[tuple[str, str, int], tuple[str, tuple[int, int]]] = {}
        self.revoked: list[tuple[tuple[str, str], Revoke]] = []
        self.generations: dict[tuple[str, str, int], int] = {}

    @property
    def now_ms(self) -> int:
        return self.clock.monotonic_ms()

    @rule(name=names, group=st.sampled_from("gh"), topic=st.sampled_from("tu"))
    def joined(self, name: str, group: str, topic: str) -> None:
        if name in self.alive:  # effects are by member: a service keeps one subscription for a member id
            topic, group = self.alive[name][1], self.alive[name][0]
            self.forget(name)
        self.alive[name] = (group, topic)
        self.members.joined(group, topic, name, name, tags=None, placement=placed(self.declared[topic]), now_ms=self.now_ms)

    @rule(name=names)
    def left(self, name: str) -> None:
        self.members.left(name, now_ms=self.now_ms)
        self.forget(name)

    def forget(self, name: str) -> None:
        self.alive.pop(name, None)
        self.delivering = {place: owner for place, owner in self.delivering.items() if owner[0] != name}
        self.revoked = [entry for entry in self.revoked if entry[1].member != name]

    @rule(name=names)
    def heard(self, name: str) -> None:
        self.members.heard(name, now_ms=self.now_ms)

    @rule(topic=st.sampled_from("tu"), count=st.integers(0, 8))
    def queues_changed(self, topic: str, count: int) -> None:
        self.declared[topic] = QUEUES[:count]
        self.members.queues_changed(topic, placed(QUEUES[:count]), now_ms=self.now_ms)

    @rule(ms=st.sampled_from([0, 100, 1_000, RELEASE_TIMEOUT_MS, SILENCE_MS]))
    def time_passes(self, ms: int) -> None:
        self.clock.advance(ms)
        self.members.tick(self.now_ms)

    @precondition(lambda self: self.revoked)
    @rule(data=st.data())
    def released(self, data: st.DataObject) -> None:
        _, revoke = self.revoked.pop(data.draw(st.integers(0, len(self.revoked) - 1)))
        self.members.released(revoke.member, revoke.queue_id, revoke.generation, now_ms=self.now_ms)

    @rule()
    def step(self) -> None:
        self.members.step(self.now_ms)

    @rule(group=st.sampled_from("gh"), topic=st.sampled_from("tu"), queues=st.sets(st.integers(0, 4)))
    def renewed(self, group: str, topic: str, queues: set[int]) -> None:
        for queue in queues:
            if (group, topic, queue) in self.delivering:
                self.fenced.add((group, topic, queue, self.delivering[group, topic, queue][1]))
        for _, revoke in self.revoked:
            if self.alive.get(revoke.member) == (group, topic) and revoke.queue_id in queues:
                self.fenced.add((group, topic, revoke.queue_id, revoke.generation))
        for renewed in self.members.renew(group, topic, sorted(queues)):
            place = (group, topic, renewed.queue_id)
            assert self.delivering[place] == (renewed.member, renewed.former)
            assert renewed.generation > renewed.former
            self.delivering[place] = (renewed.member, renewed.generation)
            self.generations[place] = renewed.generation[1]
            assert self.members.reads(renewed.member, renewed.queue_id, renewed.generation)

    @invariant()
    def what_was_read_before_a_reset_is_never_committed(self) -> None:
        for group, topic, queue, generation in self.fenced:
            for name, place in self.alive.items():
                if place == (group, topic):
                    with pytest.raises(Fenced):
                        self.members.check_commit(name, queue, generation)

    @rule(limit=st.sampled_from([1, 3, None]))
    def carry_out(self, limit: int | None = None) -> None:
        for effect in self.members.take_effects(limit):
            if isinstance(effect, Expelled):
                self.forget(effect.member)
            elif effect.member not in self.alive:
                assert isinstance(effect, Revoke)  # it has left since; an Assign to one that is gone is never said
            else:
                group, topic = self.alive[effect.member]
                place = (group, topic, effect.queue_id)
                if isinstance(effect, Assign):
                    assert place not in self.delivering
                    assert effect.generation > (1, self.generations.get(place, 0))
                    self.generations[place] = effect.generation[1]
                    self.delivering[place] = (effect.member, effect.generation)
                elif self.delivering.get(place) == (effect.member, effect.generation):  # else of its former life
                    del self.delivering[place]
                    self.revoked.append(((group, topic), effect))

    @rule()
    def quiet(self) -> None:
        """When nothing happens but signs of life, every queue soon has the owner that the assignment names."""
        for _ in range(3):
            self.clock.advance(RELEASE_TIMEOUT_MS)
            for name in self.alive:
                self.members.heard(name, now_ms=self.now_ms)
            self.members.tick(self.now_ms)
            finish(self.members, now_ms=self.now_ms)
            self.carry_out()
        for group in "gh":
            for topic, declared in self.declared.items():
                names = [name for name, place in self.alive.items() if place == (group, topic)]
                wanted = {
                    queue: name
                    for name, share in assign(declared, names).items()
                    for broker, queue in share
                    if broker == "a"
                }
                found = {queue: self.members.owner(group, topic, queue) for queue in range(4)}
                assert {queue: owner[0] for queue, owner in found.items() if owner} == wanted
                for queue, name in wanted.items():
                    assert self.delivering[group, topic, queue] == found[queue]
                    self.members.check_commit(name, queue, self.delivering[group, topic, queue][1])

    @invariant()
    def whoever_delivers_may_commit(self) -> None:
        """A queue is delivered by its owner alone, unless what has changed was not carried out yet."""
        if not self.members._effects and not self.members.pending:
            for (group, topic, queue), owner in self.delivering.items():
                assert self.members.owner(group, topic, queue) == owner

    @invariant()
    def deadlines_are_ahead(self) -> None:
        deadline_ms = self.members.deadline_ms()
        assert (deadline_ms is None) == (not self.members._members)
        assert deadline_ms is None or deadline_ms > self.now_ms


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
