"""One elector at a time, by hand: an etcd that is a dict, a clock that is a number."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from kourou.broker.machines.coordination import Picture, Put, Txn, Value
from kourou.broker.machines.election import (
    AskPledges,
    Candidate,
    Decided,
    Drain,
    ElectionOptions,
    Follow,
    Halt,
    Lead,
    Left,
    Look,
    Position,
    Resume,
    StepDown,
    StopFollowing,
    Transact,
    Wait,
)
from kourou.broker.machines.electionstate import GroupState, Keys, Lease, Operation, Replica, lease_of, state_of
from kourou.broker.machines.elector import Elector
from kourou.broker.machines.electorterm import Term
from tests.sim.coordination import Truth

KEYS = Keys("c", "g")
D = 3_000
E = TypeVar("E")


class One:
    """An elector with a truth. ``run`` answers what it asks, until it asks nothing more."""

    def __init__(self, replica: int, truth: Truth, *, options: ElectionOptions | None = None, **me: Any) -> None:
        self.now = 10_000
        self.truth = truth
        fields: dict[str, Any] = {"known": frozenset({f"old-{replica}"}), "cold": False, "log": Position(0, 0), **me}
        candidate = Candidate(replica, f"disk-{replica}", f"new-{replica}", address=f"h{replica}:1", **fields)
        self.elector = Elector(candidate, KEYS, options or ElectionOptions(min_isr=2), rng=random.Random(1))
        self.log = fields["log"]
        self.lose = 0  # answers of transactions that get lost; below zero: they are not even done
        self.deaf = False
        self.seen: list[Any] = []

    def run(self, ms: int = 0) -> None:
        end = self.now + ms
        while True:
            self.elector.tick(now_ms=self.now)
            self.drain()
            if self.now >= end:
                return
            self.now += 10

    def drain(self) -> None:
        while effects := self.elector.take_effects():
            for effect in effects:
                self.seen.append(effect)
                if isinstance(effect, Look):
                    picture = None if self.deaf else self.truth.read(KEYS.prefix)
                    self.elector.looked(effect.number, picture, now_ms=self.now)
                elif isinstance(effect, Transact):
                    self.transact(effect)
                elif isinstance(effect, StopFollowing):
                    self.elector.quiet(self.log, now_ms=self.now)

    def transact(self, effect: Transact) -> None:
        outcome = None
        if self.lose < 0:
            self.lose += 1
        elif not self.deaf:
            outcome = self.truth.transact(effect.txn)
            if self.lose > 0:
                self.lose -= 1
                outcome = None
        self.elector.done(effect.number, outcome, now_ms=self.now)

    def watch(self) -> None:
        self.elector.changed(tuple(self.truth.values.values()), now_ms=self.now)
        self.drain()

    def last(self, kind: type[E]) -> E:
        return [effect for effect in self.seen if isinstance(effect, kind)][-1]

    def count(self, kind: type) -> int:
        return sum(isinstance(effect, kind) for effect in self.seen)

    @property
    def phase(self) -> str:
        return self.elector.phase.value


def put(truth: Truth, *, state: GroupState | None = None, lease: Lease | None = None, op: Operation | None = None) -> None:
    writes = [(KEYS.state, state), (KEYS.lease, lease), (KEYS.op, op)]
    truth.transact(Txn((), tuple(Put(key, value.encode()) for key, value in writes if value is not None)))


def register(truth: Truth, *replicas: int) -> None:
    truth.transact(
        Txn((), tuple(Put(KEYS.replica(r), Replica(f"disk-{r}", f"old-{r}", f"h{r}:1").encode()) for r in replicas))
    )


def group(sss: tuple[int, ...], elr: tuple[int, ...] = (), *, master: int | None = 0, epoch: int = 5) -> GroupState:
    return GroupState(epoch, master, sss, elr, (), 2, (), "old")


def world(sss: tuple[int, ...] = (0, 1, 2), elr: tuple[int, ...] = (), *, master: int | None = 0) -> Truth:
    """Broker 0 leads epoch 5; its process is not there."""
    truth = Truth()
    put(truth, state=group(sss, elr, master=master), lease=Lease(5, 0, 9, "old-0"))
    register(truth, 0, 1, 2)
    return truth


def state(truth: Truth) -> GroupState:
    value = truth.values[KEYS.state].value
    assert value is not None
    return state_of(value)


def lease(truth: Truth) -> Lease:
    value = truth.values[KEYS.lease].value
    assert value is not None
    return lease_of(value)


def follower(replica: int = 1, truth: Truth | None = None, **more: Any) -> One:
    one = One(replica, truth or world(), **more)
    one.run()
    assert one.phase == "follower"
    return one


def master(**more: Any) -> One:
    """Broker 1, just elected."""
    one = follower(**more)
    one.elector.master_refuses(5, now_ms=one.now)
    one.run(50)
    assert one.phase == "master"
    return one


# ---- registration


def test_the_first_creates_the_group_and_leads() -> None:
    one = One(0, Truth())
    one.run(20)
    assert one.phase == "master"
    assert (one.last(Lead).epoch, one.last(Lead).sss) == (1, (0,))
    second = One(1, one.truth)
    second.run()
    assert second.phase == "follower"
    assert second.last(Follow).master == 0
    assert second.last(Follow).address == "h0:1"


def test_a_log_that_etcd_does_not_know_is_not_risked() -> None:
    """An etcd that lost its data, or is older than the log: nothing is done but said; only when a write was committed."""
    one = One(0, Truth(), log=Position(4, 100))
    one.run()
    assert "not empty" in one.last(Halt).reason
    older = One(1, world(), log=Position(6, 100))
    older.run()
    assert "older" in older.last(Halt).reason
    told = One(0, Truth(), log=Position(4, 100), options=ElectionOptions(found=True))
    told.run(20)
    assert told.last(Lead).epoch == 5


def rewritten(*, burnt: int) -> Truth:
    """An etcd that was put back from a backup of an earlier epoch, and has written something since."""
    truth = Truth()
    put(truth, state=group((0, 1, 2), epoch=4), lease=Lease(4, 0, 3, "old-0"))
    register(truth, 0, 1, 2)
    truth.transact(Txn((), (Put(KEYS.replica(1), Replica("disk-1", "new-1", "h1:1").encode()),)))
    for _ in range(burnt):
        truth.transact(Txn((), (Put("/elsewhere", b""),)))
    return truth


@pytest.mark.parametrize("burnt", [0, 1_000])
@pytest.mark.parametrize("led", [False, True])
def test_an_etcd_that_is_older_than_it_was(led: bool, burnt: int) -> None:
    """Restored under a running process, be its revision below what was seen or beyond: it stops, and leads no more."""
    truth = world()
    for _ in range(100):
        truth.transact(Txn((), (Put(KEYS.lease, Lease(5, 0, 9, "old-0").encode()),)))
    one = follower(truth=truth)
    if led:
        one.elector.master_refuses(5, now_ms=one.now)
        one.run(50)
        assert one.phase == "master"
    one.truth = rewritten(burnt=burnt)
    one.run(10_000)
    assert one.phase == "over"
    assert "older than it was" in one.last(Halt).reason
    assert not one.elector.leads(one.now)
    assert one.count(Lead) == int(led)


def test_an_old_picture_halts_nobody() -> None:
    truth = world()
    one = One(1, truth, log=Position(5, 100))
    stale = Truth()
    register(stale, 0)
    one.truth = stale
    one.elector.tick(now_ms=one.now)
    (look,) = one.elector.take_effects()
    assert isinstance(look, Look)
    one.truth = truth
    one.elector.looked(look.number, Picture(1, ()), now_ms=one.now)
    one.run()
    assert one.phase == "follower"


@pytest.mark.parametrize(
    ("me", "cold"),
    [
        ({"cold": True, "log": Position(5, 70)}, ((1, 5, 70),)),
        ({"known": frozenset({"somebody"})}, ()),  # the disk was put back from a backup
    ],
)
def test_who_may_lack_something_leaves_the_sets(me: dict[str, Any], cold: Any) -> None:
    one = One(1, world(), **me)
    one.run()
    assert (state(one.truth).sss, state(one.truth).cold) == ((0, 2), cold)


def test_an_empty_disk_under_an_old_id_leaves_the_sets() -> None:
    truth = world()
    truth.transact(Txn((), (Put(KEYS.replica(1), Replica("disk-other", "old-1", "h1:1").encode()),)))
    One(1, truth).run()
    assert state(truth).sss == (0, 2)


def test_who_has_kept_everything_stays() -> None:
    one = follower()
    assert state(one.truth).sss == (0, 1, 2)


def test_a_lost_answer_to_the_registration() -> None:
    one = One(1, world(), cold=True)
    one.lose = 1
    one.run(500)
    assert one.phase == "follower"
    assert state(one.truth).sss == (0, 2)


def test_a_second_process_with_the_same_id_ends_the_first() -> None:
    one = master()
    other = One(1, one.truth, known=frozenset({"new-1"}))
    other.elector.me = replace(other.elector.me, nonce="newer")
    other.run()
    one.run(600)
    assert one.phase == "over"
    assert one.count(StepDown) == 1
    assert "another process" in one.last(Halt).reason


# ---- taking over


def test_not_before_the_lease_was_seen_unchanged_for_all_of_it() -> None:
    one = follower()
    one.run(D - 100)
    assert one.phase == "follower"
    put(one.truth, lease=Lease(5, 0, 10, "old-0"))
    one.watch()
    one.run(D - 100)
    assert one.phase == "follower"
    one.run(200)
    assert one.phase == "master"
    assert (state(one.truth).epoch, state(one.truth).sss) == (6, (1, 2))


def test_an_old_revision_does_not_restart_the_watch() -> None:
    """Nor does a newer one that came late count for less."""
    one = follower()
    old = one.truth.values[KEYS.lease]
    put(one.truth, lease=Lease(5, 0, 10, "old-0"))
    one.watch()
    one.run(1_000)
    one.elector.changed((old,), now_ms=one.now)
    assert one.elector.view.lease is not None
    assert one.elector.view.lease.seq == 10
    one.run(D - 1_000 + 100)
    assert one.phase == "master"


def test_a_renewal_that_the_watch_did_not_show_is_seen_in_time() -> None:
    one = follower()
    for seq in range(10, 20):
        one.run(500)
        put(one.truth, lease=Lease(5, 0, seq, "old-0"))
    assert one.phase == "follower"
    assert one.count(StopFollowing) == 0


def test_at_once_when_the_process_is_known_to_be_gone() -> None:
    one = follower()
    one.elector.master_refuses(4, now_ms=one.now)  # of an earlier epoch: no evidence
    one.run(200)
    assert one.phase == "follower"
    one.elector.master_refuses(5, now_ms=one.now)
    one.run(20)
    assert one.phase == "master"


@pytest.mark.parametrize("options", [ElectionOptions(ack_all=False), ElectionOptions(refusals=False)])
def test_refusals_don_t_count_where_they_prove_nothing(options: ElectionOptions) -> None:
    one = follower(options=options)
    one.elector.master_refuses(5, now_ms=one.now)
    one.run(D - 500)
    assert one.phase == "follower"


def test_at_once_when_it_is_released() -> None:
    one = follower()
    put(one.truth, lease=Lease(5, 0, 10, "old-0", True, 1))
    one.watch()
    one.run(20)
    assert one.phase == "master"
    other = follower(2, world())
    put(other.truth, lease=Lease(5, 0, 10, "old-0", True, 1))
    other.watch()
    other.run(100)
    assert other.phase == "follower"  # the successor first
    other.run(200)
    assert other.phase == "master"


def test_who_led_last_may_again_at_once() -> None:
    one = One(0, world())
    one.run(20)
    assert one.phase == "master"
    assert state(one.truth).sss == (0, 1, 2)


@pytest.mark.parametrize(("sss", "elr", "may"), [((0, 2), (), False), ((0,), (1,), True), ((0, 2), (1,), True)])
def test_only_members_may(sss: tuple[int, ...], elr: tuple[int, ...], may: bool) -> None:
    one = follower(truth=world(sss, elr))
    one.run(3 * D)
    assert (one.phase == "master") == may


def test_learners_never() -> None:
    one = follower(options=ElectionOptions(learner=True))
    one.run(3 * D)
    assert one.phase == "follower"


def test_the_follower_stops_first_and_looks_again() -> None:
    """Between the decision and the transaction the lease is renewed: nothing happens."""
    one = follower()
    one.run(D - 20)
    put(one.truth, lease=Lease(5, 0, 11, "old-0"))  # not shown
    one.run(100)
    assert one.count(StopFollowing) == 0
    assert one.phase == "follower"


def test_others_were_faster() -> None:
    one = follower()

    def quiet(log: Position, *, now_ms: int) -> None:
        put(one.truth, state=replace(group((2,), (), master=2, epoch=6), min_isr=1), lease=Lease(6, 2, 0, "old-2"))
        original(log, now_ms=now_ms)

    original, one.elector.quiet = one.elector.quiet, quiet  # type: ignore[method-assign]
    one.elector.master_refuses(5, now_ms=one.now)
    one.run(100)
    assert one.phase == "follower"
    assert one.last(Follow).master == 2
    assert one.count(Lead) == 0


def test_a_lost_answer_to_a_takeover() -> None:
    """Done, and nobody said so: the next try finds its own lease, and the lease counts from the first one's sending."""
    one = follower()
    one.elector.master_refuses(5, now_ms=one.now)
    one.lose = 1
    one.run(300)
    assert one.phase == "master"
    assert state(one.truth).epoch == 6
    assert one.elector.term is not None
    assert one.elector.term.renewed_ms < one.now - 150
    assert one.count(Lead) == 1


def test_a_takeover_that_was_not_done_is_tried_again() -> None:
    one = follower()
    one.elector.master_refuses(5, now_ms=one.now)
    one.lose = -1
    one.run(300)
    assert one.phase == "master"
    assert state(one.truth).epoch == 6


def test_the_best_of_all_that_are_cold_leads_and_says_so() -> None:
    truth = world((1, 2), (), master=None)
    put(truth, state=replace(group((1, 2), master=None), cold=((0, 5, 10),)))
    two = One(2, truth, cold=True, log=Position(5, 90))
    two.run(2 * D)
    assert two.phase == "follower"  # 1 has not said yet what it has
    one = One(1, truth, cold=True, log=Position(5, 80))
    one.run(2 * D)
    assert one.phase == "follower"
    two.now = one.now
    two.run(2 * D)
    assert two.phase == "master"
    assert two.last(Lead).lossy
    assert (state(truth).lossy, state(truth).sss) == ((6,), (2,))


def test_an_operator_may_choose_anybody_but_not_from_under_a_master() -> None:
    one = follower(truth=world((0, 2)))
    put(one.truth, op=Operation("elect", 1, "x"))
    one.watch()
    one.run(D - 500)
    assert one.phase == "follower"
    one.run(1_000)
    assert one.phase == "master"
    assert state(one.truth).lossy == (6,)
    assert KEYS.op not in one.truth.values


def test_unclean_only_after_ten_leases() -> None:
    one = follower(truth=world((0, 2)), options=ElectionOptions(unclean=True))
    one.run(9 * D)
    assert one.phase == "follower"
    one.run(2 * D)
    assert one.phase == "master"


def test_an_unclean_one_waits_although_it_led_last() -> None:
    """It came back with an empty disk, and so is in no set: those who are in it have everything, and go first."""
    truth = world((0, 2))
    put(truth, lease=Lease(5, 1, 7, "before"))
    one = follower(truth=truth, options=ElectionOptions(unclean=True))
    one.run(2 * D)
    assert one.phase == "follower"


def test_what_can_not_be_read_is_not_acted_on() -> None:
    truth = world()
    truth.transact(Txn((), (Put(KEYS.state, b'{"epoch": "many"}'),)))
    one = One(1, truth)
    one.run(3 * D)
    assert one.phase == "looking"
    assert "can't be read" in one.last(Wait).reason


# ---- being master


def test_the_lease_is_renewed_and_counts_from_the_sending() -> None:
    one = master()
    began = one.now
    one.run(2_000)
    assert one.elector.leads(one.now)
    assert lease(one.truth).seq >= 3
    assert one.elector.deadline() - one.now <= D - 500
    assert one.elector.deadline() > began + D


def test_a_lost_answer_to_a_renewal_is_no_harm() -> None:
    one = master()
    for _ in range(5):
        one.lose = 1
        one.run(1_100)
    assert one.phase == "master"
    assert one.count(StepDown) == 0


def test_it_steps_down_by_its_own_clock() -> None:
    one = master()
    one.deaf = True
    deadline = one.elector.deadline()
    while one.now < deadline - 10:
        one.run(10)
    assert one.elector.leads(one.now)
    one.run(20)
    assert one.phase == "follower"
    assert one.count(StepDown) == 1
    assert not one.elector.leads(one.now)


def test_it_wakes_up_too_late() -> None:
    """SIGSTOP: the first question after it is answered with no."""
    one = master()
    one.now += D
    assert not one.elector.leads(one.now)
    one.elector.tick(now_ms=one.now)
    assert one.count(StepDown) == 0
    one.drain()
    assert one.count(StepDown) == 1


def test_another_master_in_etcd_ends_it_at_once() -> None:
    one = master()
    put(one.truth, state=replace(group((2,), master=2, epoch=7), min_isr=1), lease=Lease(7, 2, 0, "old-2"))
    one.run(600)
    assert one.count(StepDown) == 1
    assert one.last(Follow).master == 2


def test_a_higher_epoch_ends_it() -> None:
    one = master()
    one.elector.outdated(6, "a slave", now_ms=one.now)
    assert one.phase == "master"
    one.elector.outdated(7, "a slave", now_ms=one.now)
    one.drain()
    assert one.count(StepDown) == 1


def want(one: One, *members: int, incarnations: dict[int, str] | None = None) -> None:
    epoch = one.elector.term.epoch if one.elector.term is not None else 0
    one.elector.set_wanted(epoch, frozenset(members), incarnations or {}, now_ms=one.now)
    one.drain()


def test_the_set_shrinks_and_grows_by_compare_and_set() -> None:
    one = master()
    want(one, 1)
    assert (state(one.truth).sss, state(one.truth).elr) == ((1,), (2,))
    assert one.last(Decided).sss == (1,)
    want(one, 1, 2, incarnations={2: "disk-2.old-2"})
    assert (state(one.truth).sss, state(one.truth).elr) == ((1, 2), ())


def test_nobody_comes_in_under_another_incarnation() -> None:
    """It earned its place, and was started again since."""
    one = master()
    want(one, 1)
    want(one, 1, 2, incarnations={2: "disk-2.before"})
    assert state(one.truth).sss == (1,)
    assert one.last(Decided).sss == (1,)


def test_a_registration_between_is_found_out_by_the_transaction() -> None:
    one = master()
    want(one, 1)
    register(one.truth, 2)  # the same nonce, another revision: not shown
    want(one, 1, 2, incarnations={2: "disk-2.old-2"})
    one.run(20)
    assert state(one.truth).sss == (1, 2)


def test_a_change_without_an_answer_is_settled_before_anything_is_decided() -> None:
    one = master()
    decided = one.count(Decided)
    one.lose = 1
    want(one, 1)
    assert one.count(Decided) == decided
    want(one, 1, 2)  # it has come back meanwhile
    assert one.count(Decided) == decided
    one.run(600)
    assert one.last(Decided).sss == state(one.truth).sss


def test_a_change_that_may_be_done_late_is_outrun() -> None:
    """Its answer never comes and it is not done yet: any write over the same revision settles that it never will be."""
    one = master()
    one.lose = -1
    want(one, 1)
    late = one.last(Transact).txn
    want(one, 1, 2)
    one.run(600)
    assert one.last(Decided).sss == (1, 2)
    assert not one.truth.transact(late).succeeded


def test_a_member_that_left_by_itself_is_told() -> None:
    one = master()
    put(one.truth, state=replace(state(one.truth), sss=(1,), cold=((2, 6, 1),)))
    one.watch()
    assert one.last(Decided).sss == (1,)


# ---- handing over


def test_a_switchover() -> None:
    one = master()
    put(one.truth, op=Operation("switchover", 2, "x"))
    one.watch()
    one.run(10)
    assert one.last(Drain).to == 2
    one.elector.drained(True, now_ms=one.now)
    one.drain()
    assert one.count(StepDown) == 1
    assert (lease(one.truth).released, lease(one.truth).to) == (True, 2)
    assert KEYS.op not in one.truth.values


@pytest.mark.parametrize("lost", [1, -1])
def test_a_release_without_an_answer_is_tried_again(lost: int) -> None:
    one = master()
    one.lose = lost
    one.elector.leave(now_ms=one.now)
    one.drain()
    one.elector.drained(True, now_ms=one.now)
    one.run(400)
    assert lease(one.truth).released
    assert one.count(Left) == 1
    one.run(2 * D)
    assert one.phase == "follower"  # it is leaving


@pytest.mark.parametrize("lost", [-1, -1_000])
def test_one_that_leaves_while_it_releases_waits_for_that(lost: int) -> None:
    """A disk fails: the lease is given back, and the process ends at once. Without an answer it ends with the lease."""
    one = master()
    one.lose = lost
    one.elector.faulty("its disk fails", now_ms=one.now)
    one.elector.leave(now_ms=one.now)
    one.drain()
    assert (one.phase, one.count(Left)) == ("releasing", 0)
    one.run(400 if lost == -1 else D)
    assert lease(one.truth).released == (lost == -1)
    assert one.count(Left) == 1


@pytest.mark.parametrize("lost", [1, -1])
def test_one_that_leaves_while_it_takes_over_gives_the_lease_back(lost: int) -> None:
    """The answer is lost; whether it leads is known only when the next try has one. It never serves."""
    one = follower()
    one.elector.master_refuses(5, now_ms=one.now)
    one.lose = lost
    one.run(100)
    one.elector.leave(now_ms=one.now)
    one.drain()
    assert (one.phase, one.count(Left)) == ("taking", 0)
    one.run(400)
    assert (state(one.truth).epoch, state(one.truth).master) == (6, 1)
    assert (lease(one.truth).epoch, lease(one.truth).released) == (6, True)
    assert one.count(Lead) == 0
    assert one.count(Left) == 1
    one.run(2 * D)
    assert one.phase == "follower"


def test_one_that_becomes_faulty_while_it_takes_over_does_not_lead() -> None:
    one = follower()
    one.elector.master_refuses(5, now_ms=one.now)
    one.lose = 1
    one.run(100)
    one.elector.faulty("its log is damaged", now_ms=one.now)
    one.run(2 * D)
    assert lease(one.truth).released
    assert (one.phase, one.count(Lead), one.count(Left)) == ("follower", 0, 0)


def test_one_that_leaves_while_others_are_faster_has_nothing_to_give_back() -> None:
    one = follower()
    one.elector.master_refuses(5, now_ms=one.now)
    one.lose = -1
    one.run(100)
    one.elector.leave(now_ms=one.now)
    one.drain()
    assert (one.phase, one.count(Left)) == ("taking", 0)
    put(one.truth, state=group((0, 1, 2), master=2, epoch=6), lease=Lease(6, 2, 0, "old-2"))
    one.run(400)
    assert one.count(Left) == 1
    assert one.phase == "follower"
    assert lease(one.truth) == Lease(6, 2, 0, "old-2")


def test_a_release_that_comes_too_late_leaves_the_successor_s_lease_alone() -> None:
    """It was done, nobody said so, and the successor has taken over meanwhile."""
    one = master()
    one.lose = 1
    one.elector.leave(now_ms=one.now)
    one.drain()
    one.elector.drained(True, now_ms=one.now)
    one.drain()
    assert lease(one.truth).released
    put(one.truth, state=group((2,), master=2, epoch=7), lease=Lease(7, 2, 0, "old-2"))
    one.watch()
    one.run(1_000)
    assert lease(one.truth) == Lease(7, 2, 0, "old-2")
    assert one.count(Left) == 1


def test_a_successor_that_does_not_catch_up() -> None:
    one = master()
    put(one.truth, op=Operation("switchover", 2, "x"))
    one.watch()
    one.run(10)
    one.elector.drained(False, now_ms=one.now)
    one.drain()
    assert one.count(Resume) == 1
    assert one.phase == "master"
    assert KEYS.op not in one.truth.values


def test_a_member_that_is_not_in_sync_is_refused() -> None:
    one = master()
    want(one, 1)
    put(one.truth, op=Operation("switchover", 2, "x"))
    one.watch()
    one.run(10)
    assert one.count(Drain) == 0
    assert KEYS.op not in one.truth.values


def test_a_wish_to_elect_is_not_kept_while_there_is_a_master() -> None:
    """Left in etcd it would make that member master, with a loss, at any later time without one."""
    one = master()
    put(one.truth, op=Operation("elect", 2, "x"))
    one.watch()
    one.run(10)
    assert one.phase == "master"
    assert KEYS.op not in one.truth.values


def test_a_faulty_master_releases_and_never_tries_again() -> None:
    one = master()
    one.elector.faulty("fsync failed", now_ms=one.now)
    one.run(3 * D)
    assert lease(one.truth).released
    assert one.phase == "follower"
    assert one.count(Lead) == 1


def test_one_with_a_damaged_log_leads_again_when_it_is_mended() -> None:
    one = master()
    one.elector.damaged("its log is damaged", now_ms=one.now)
    one.run(3 * D)
    assert lease(one.truth).released
    assert (one.phase, one.count(Lead)) == ("follower", 1)
    one.elector.mended()
    one.run(3 * D)
    assert (one.phase, one.count(Lead)) == ("master", 2)


def test_one_whose_disk_has_failed_does_not_lead_for_a_mended_log() -> None:
    one = master()
    one.elector.damaged("its log is damaged", now_ms=one.now)
    one.elector.faulty("fsync failed", now_ms=one.now)
    one.elector.mended()
    one.run(3 * D)
    assert (one.phase, one.count(Lead)) == ("follower", 1)


# ---- pledges


def test_with_all_pledges_the_master_goes_on_without_etcd() -> None:
    one = master()
    want(one, 1, 2)
    one.deaf = True
    deadline = one.elector.deadline()
    while one.now < deadline + 2 * D:
        asked = one.count(AskPledges)
        one.run(10)
        if one.count(AskPledges) > asked:
            assert one.last(AskPledges).replicas == (2,)
            one.elector.pledged(6, 2, asked_ms=one.now)
    assert one.phase == "master"
    one.run(D)  # the pledges end
    assert one.count(StepDown) == 1


def test_a_renewal_that_etcd_carries_out_late_takes_no_pledge_away() -> None:
    """etcd was frozen, and does what waited first: the lease there is seconds old. The pledges are not."""
    options = ElectionOptions()
    term = Term(5, seq=0, lease_mod=10, tries={0: 0}, options=options)
    seqs = [term.sending(now_ms) for now_ms in range(500, 4_500, 500)]
    for replica in (1, 2):
        term.pledged(replica, asked_ms=4_000)
    until = term.deadline_ms(frozenset({1, 2}))
    assert until == 4_000 + options.lease_ms - options.margin_ms
    term.committed(seqs[1], 11)
    assert term.lease_deadline_ms == 1_000 + options.lease_ms - options.margin_ms
    assert term.deadline_ms(frozenset({1, 2})) == until
    assert term.deadline_ms(frozenset({1, 2, 3})) == term.lease_deadline_ms  # 3 has pledged nothing


def test_one_pledge_of_two_is_none() -> None:
    one = follower(truth=world((0, 1, 2, 3)))
    one.elector.master_refuses(5, now_ms=one.now)
    one.run(50)
    one.deaf = True
    one.run(1_500)
    one.elector.pledged(6, 2, asked_ms=one.now)
    one.run(1_500)
    assert one.count(StepDown) == 1


def test_who_pledges_waits_and_only_the_blind_pledge() -> None:
    one = follower()
    assert not one.elector.asked_to_pledge(5, now_ms=one.now)
    one.run(1_500)
    one.deaf = True
    one.run(1_500)
    assert not one.elector.asked_to_pledge(4, now_ms=one.now)
    assert one.elector.asked_to_pledge(5, now_ms=one.now)
    pledged = one.now
    one.deaf = False
    one.run(D - 100)
    assert one.phase == "follower"
    one.run(200)
    assert one.phase == "master"
    assert one.now - pledged >= D


def test_nobody_pledges_with_unclean_election() -> None:
    one = follower(options=ElectionOptions(unclean=True))
    one.deaf = True
    one.run(1_500)
    assert not one.elector.asked_to_pledge(5, now_ms=one.now)


# ---- what is read


def test_keys_that_are_gone_and_keys_of_others() -> None:
    one = follower()
    view = one.elector.view
    view.event(Value("/mq/c/g/other/state", b"rubbish", 10_000), now_ms=one.now)
    view.event(Value(KEYS.prefix + "replica/none", b"rubbish", 10_000), now_ms=one.now)
    assert view.state is not None
    view.event(Value(KEYS.lease, None, 10_000), now_ms=one.now)
    assert view.lease is None
    assert view.mod(KEYS.lease) == 0
    view.picture(one.truth.read(KEYS.prefix), now_ms=one.now)
    assert view.lease is None  # the picture is older
