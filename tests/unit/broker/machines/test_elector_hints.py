"""What members say of themselves decides about order: the longer log first, the slow last. And masters that can't go on."""

from __future__ import annotations

import pytest

from kourou.broker.machines.coordination import Put, Txn
from kourou.broker.machines.election import Drain, Follow, Note, Resume, StepDown
from kourou.broker.machines.electionrules import right_of, successor_of
from kourou.broker.machines.electionstate import Hint, Lease, Unreadable, hint_of
from kourou.broker.machines.electorreadiness import SLOW_MS
from tests.sim.coordination import Truth
from tests.unit.broker.machines.test_elector import KEYS, D, One, follower, group, lease, master, put, world


def hint(end: int, *, epoch: int = 5, able: bool = True) -> Hint:
    return Hint(epoch, end, able, "follower", {"connections": 1.0})


def say(truth: Truth, **hints: Hint) -> None:
    """``m1=…``: member 1."""
    truth.transact(Txn((), tuple(Put(KEYS.live(int(name[1:])), said.encode()) for name, said in hints.items())))


def ranks(*replicas: int, live: dict[int, Hint | None]) -> list[int]:
    rights = [right_of(r, group((0, 1, 2, 3)), live=live, op=None, unclean=False) for r in replicas]
    return [right.rank for right in rights if right is not None]


def test_the_longest_log_of_the_latest_epoch_is_first() -> None:
    live: dict[int, Hint | None] = {1: hint(10), 2: hint(30), 3: hint(99, epoch=4)}
    assert ranks(1, 2, 3, live=live) == [1, 0, 2]
    live = {1: hint(30), 2: hint(30), 3: hint(30)}
    assert ranks(1, 2, 3, live=live) == [0, 1, 2]
    live = {1: hint(90, able=False), 2: hint(30), 3: None}  # 3 says nothing
    assert ranks(1, 2, 3, live=live) == [1, 0, 2]


def test_a_master_hands_over_to_the_best() -> None:
    found = group((0, 1, 2, 3))
    assert successor_of(0, found, live={1: hint(10), 2: hint(30), 3: hint(20), 7: hint(99)}) == 2
    assert successor_of(0, found, live={1: hint(10, able=False), 2: None, 0: hint(99)}) is None


def test_a_hint_is_read_strictly_and_a_broken_one_still_says_that_somebody_is_there() -> None:
    assert hint_of(hint(7).encode()) == hint(7)
    for broken in (
        b"",
        b"[]",
        b'{"epoch": -1, "end": 0, "phase": "x", "load": {}}',
        b'{"epoch": 1, "end": 0, "phase": "x"}',
    ):
        with pytest.raises(Unreadable):
            hint_of(broken)
    truth = world()
    truth.transact(Txn((), (Put(KEYS.live(2), b"{"),)))
    one = follower(truth=truth)
    assert one.elector.view.live(one.now) == {2: None}


def test_candidates_wait_for_the_longer_log() -> None:
    """Both know that the master is gone: 2, which has more, needs not wait, and 1 does."""
    truth = world()
    say(truth, m1=hint(10), m2=hint(20))
    two = follower(2, truth)
    one = follower(1, truth)
    now = one.now
    one.elector.master_refuses(5, now_ms=now)
    two.elector.master_refuses(5, now_ms=now)
    assert one.elector.deadline_ms(now) == now + 20
    assert two.elector.deadline_ms(now) == now


# ---- slow


def leading(**hints: Hint) -> One:
    one = master()
    say(one.truth, **hints)
    one.watch()
    return one


def test_a_slow_master_hands_over_to_who_may_do_better() -> None:
    """Whatever that one lacks still; and it is the last to campaign for a while."""
    one = leading(m0=hint(10), m2=hint(30))
    one.truth.transact(Txn((), (Put(KEYS.state, group((1, 2), master=1, epoch=6).encode()),)))  # 0 is not in sync
    one.watch()
    assert one.elector.able(one.now) is False  # it is the master
    one.elector.slow("its disk", now_ms=one.now)
    one.drain()
    assert one.last(Drain).to == 2
    one.elector.drained(False, now_ms=one.now)
    one.run()
    assert one.count(Resume) == 0
    assert lease(one.truth).released
    assert lease(one.truth).to == 2
    assert one.phase == "follower"
    assert not one.elector.able(one.now)
    one.run(SLOW_MS)
    assert one.elector.able(one.now) or one.phase == "master"


@pytest.mark.parametrize("hints", [{}, {"m2": hint(30, able=False)}, {"m0": hint(30)}])
def test_a_slow_master_is_better_than_none(hints: dict[str, Hint]) -> None:
    one = leading(**hints)
    one.elector.slow("its disk", now_ms=one.now)
    one.run(100)
    assert one.phase == "master"
    assert one.count(Drain) == 0
    assert one.last(Note).event == "slow"
    notes = one.count(Note)
    one.elector.slow("its disk, still", now_ms=one.now)
    one.run(100)
    assert one.count(Note) == notes


def test_a_master_that_is_slow_all_the_time_hands_over_when_somebody_comes() -> None:
    one = leading()
    one.elector.slow("its disk", now_ms=one.now)
    one.run(100)
    say(one.truth, m2=hint(30))
    one.watch()
    one.elector.slow("its disk, still", now_ms=one.now)
    one.drain()
    assert one.last(Drain).to == 2


def test_a_slow_follower_leads_when_nobody_else_does() -> None:
    one = follower()
    one.elector.slow("its loop", now_ms=one.now)
    one.elector.master_refuses(5, now_ms=one.now)
    one.run(500)
    assert one.phase == "follower"
    one.run(1_000)
    assert one.phase == "master"


def test_a_slow_follower_that_was_named_leads_at_once() -> None:
    one = follower(2)
    one.elector.slow("its loop", now_ms=one.now)
    put(one.truth, lease=Lease(5, 0, 10, "old-0", True, 2))
    one.watch()
    one.run(200)
    assert one.phase == "master"


def test_a_master_that_nobody_follows_gives_the_lease_to_who_has_everything() -> None:
    """Eligible is enough; but it must have been heard of lately."""
    one = leading(m0=hint(30))
    one.truth.transact(Txn((), (Put(KEYS.state, group((1,), elr=(0, 2), master=1, epoch=6).encode()),)))
    one.watch()
    one.run(2 * D)
    assert not one.elector.alone(now_ms=one.now)  # what is known of 0 is old, of 2 there is nothing
    assert one.phase == "master"
    say(one.truth, m0=hint(31))
    one.watch()
    assert one.elector.alone(now_ms=one.now)
    one.run(20)
    assert (lease(one.truth).released, lease(one.truth).to) == (True, 0)
    assert one.phase == "follower"
    assert not one.elector.alone(now_ms=one.now)
    one.run(D)
    assert one.phase == "master"  # 0 did not come


# ---- cut off


def test_who_was_cut_off_steps_down_although_its_lease_may_hold() -> None:
    """The lease is its own still: it may campaign at once, and begins another epoch."""
    one = master()
    epoch = lease(one.truth).epoch
    one.elector.held_up(now_ms=one.now)
    one.drain()
    assert "held up" in one.last(StepDown).reason
    assert not one.elector.leads(one.now)
    one.run(50)
    assert (one.phase, lease(one.truth).epoch) == ("master", epoch + 1)
    other = follower(2, world())
    other.elector.held_up(now_ms=other.now)
    other.run(D // 2)
    assert other.phase == "follower"
    assert other.last(Follow).master == 0
