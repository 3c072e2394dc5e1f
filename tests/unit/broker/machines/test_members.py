"""Who owns which queue: random joins, departures, silence and slow releases; the rules hold at every step."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.broker.machines.members import RELEASE_TIMEOUT_MS, SILENCE_MS, Assign, Expelled, Revoke, StreamMembers
from kourou.core.assign import assign
from kourou.core.errors import BadRequest, Fenced

QUEUES = [("a", queue) for queue in range(6)] + [("b", queue) for queue in range(3)]


def placed(queues: list[tuple[str, int]]) -> dict[str, int]:
    """How many each broker has; they are numbered from 0."""
    return dict(Counter(broker for broker, _ in queues))


def join(members: StreamMembers, name: str, *, now_ms: int = 0, tags: tuple[str, ...] | None = None) -> None:
    members.joined("g", "t", name, f"client-{name}", tags=tags, placement=placed(QUEUES), now_ms=now_ms)


def test_a_lone_member_gets_everything_of_this_broker() -> None:
    members = StreamMembers("a", 3)
    join(members, "m")
    effects = members.take_effects()
    assert sorted((e.queue_id, e.generation) for e in effects if isinstance(e, Assign)) == [(q, (3, 1)) for q in range(6)]


def test_a_queue_is_given_on_only_when_it_was_let_go() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    members.take_effects()
    join(members, "n", now_ms=10)
    revoked = members.take_effects()
    assert revoked
    assert all(isinstance(effect, Revoke) and effect.member == "m" for effect in revoked)
    first, *rest = [effect for effect in revoked if isinstance(effect, Revoke)]
    members.check_commit("m", first.queue_id, first.generation)  # it may still commit what it has finished
    members.released("m", first.queue_id, first.generation, now_ms=20)
    assert members.take_effects() == [Assign("n", first.queue_id, (1, 2))]
    with pytest.raises(Fenced, match="no longer"):
        members.check_commit("m", first.queue_id, first.generation)
    members.tick(10 + RELEASE_TIMEOUT_MS)
    assert {e.queue_id for e in members.take_effects() if isinstance(e, Assign)} == {e.queue_id for e in rest}


def test_the_silent_are_expelled_and_the_dead_are_replaced_at_once() -> None:
    members = StreamMembers("a", 1)
    join(members, "m")
    join(members, "n")
    members.tick(RELEASE_TIMEOUT_MS)
    members.take_effects()
    members.heard("n", now_ms=SILENCE_MS - 1)
    assert members.deadline_ms() == SILENCE_MS
    members.tick(SILENCE_MS)
    expelled, *assigned = members.take_effects()
    assert isinstance(expelled, Expelled)
    assert expelled.member == "m"
    assert assigned
    assert all(isinstance(effect, Assign) and effect.member == "n" for effect in assigned)
    members.left("n", now_ms=SILENCE_MS)
    assert members.owner("g", "t", 0) is None


def test_members_must_agree_on_tags() -> None:
    members = StreamMembers("a", 1)
    join(members, "m", tags=("x",))
    with pytest.raises(BadRequest, match=r"tags x \(client client-m\).*all tags"):
        join(members, "n")
    join(members, "n", tags=("x",))


@pytest.mark.parametrize("seed", range(40))
def test_random_lives(seed: int) -> None:
    """Never two owners of a generation, never an Assign while another owner has it; after quiet, all queues are owned as
    the assignment says."""
    rng = random.Random(seed)
    members = StreamMembers("a", 1)
    now_ms = 0
    alive: set[str] = set()
    owner: dict[int, str] = {}
    generations: dict[int, int] = {}
    asked: list[Revoke] = []

    def carry_out() -> None:
        for effect in members.take_effects():
            if isinstance(effect, Assign):
                assert effect.generation[1] > generations.get(effect.queue_id, 0)
                generations[effect.queue_id] = effect.generation[1]
                owner[effect.queue_id] = effect.member
                assert effect.member in alive
            elif isinstance(effect, Revoke):
                assert owner[effect.queue_id] == effect.member
                asked.append(effect)
            else:
                alive.discard(effect.member)

    for _ in range(150):
        now_ms += rng.randrange(2_000)
        for name in alive:
            if rng.random() < 0.9:
                members.heard(name, now_ms=now_ms)
        name = f"m{rng.randrange(5)}"
        match rng.randrange(4):
            case 0 if name not in alive:
                alive.add(name)
                join(members, name, now_ms=now_ms)
            case 1 if name in alive:
                alive.discard(name)
                members.left(name, now_ms=now_ms)
            case 2 if asked:
                effect = asked.pop(rng.randrange(len(asked)))
                members.released(effect.member, effect.queue_id, effect.generation, now_ms=now_ms)
            case _:
                members.tick(now_ms)
        carry_out()
    for _ in range(10):
        now_ms += RELEASE_TIMEOUT_MS
        for name in alive:
            members.heard(name, now_ms=now_ms)
        members.tick(now_ms)
        carry_out()
    wanted = {queue: name for name, share in assign(QUEUES, alive).items() for broker, queue in share if broker == "a"}
    assert {queue: found[0] for queue in range(6) if (found := members.owner("g", "t", queue))} == wanted


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=12))
def test_assignment_is_even_stable_and_moves_little(queue_count: int, names: set[str]) -> None:
    queues = [(f"b{i % 3}", i // 3) for i in range(queue_count)]
    shares = assign(queues, names)
    assert sorted(q for share in shares.values() for q in share) == sorted(queues)
    sizes = [len(share) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1
    assert shares == assign(list(reversed(queues)), sorted(names, reverse=True))
    grown = assign(queues, names | {"newcomer"})
    before = {queue: name for name, share in shares.items() for queue in share}
    moved = sum(before[queue] != name for name, share in grown.items() for queue in share)
    assert moved <= len(grown["newcomer"]) + queue_count // 2 + 2
