"""How a group's state may change, rule by rule; and what is not a state."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.broker.machines.election import ElectionOptions
from kourou.broker.machines.electionrules import changed, founded, is_free, right_of, taken_over, without
from kourou.broker.machines.electionstate import (
    GroupState,
    Hint,
    Lease,
    Operation,
    Replica,
    Unreadable,
    lease_of,
    operation_of,
    replica_of,
    state_of,
)
from kourou.core.errors import BadRequest


def state(
    sss: tuple[int, ...], elr: tuple[int, ...] = (), *, master: int | None = 0, min_isr: int = 2, **more: object
) -> GroupState:
    fields: dict[str, object] = {"epoch": 5, "cold": (), "lossy": (), "nonce": "n", **more}
    return GroupState(master=master, sss=sss, elr=elr, min_isr=min_isr, **fields)  # type: ignore[arg-type]


def test_a_takeover_keeps_the_others_and_removes_the_old_master() -> None:
    new = taken_over(state((0, 1, 2)), 1, min_isr=2, lossy=False, nonce="x")
    assert (new.epoch, new.master, new.sss, new.elr, new.nonce) == (6, 1, (1, 2), (), "x")


def test_the_old_master_stays_eligible_where_copies_are_short() -> None:
    """C does not move while the set is short, so it has everything below it still."""
    new = taken_over(state((0, 1)), 1, min_isr=2, lossy=False, nonce="x")
    assert (new.sss, new.elr) == ((1,), (0,))
    again = taken_over(new, 0, min_isr=2, lossy=False, nonce="y")
    assert (again.sss, again.elr) == ((0,), (1,))


def test_a_lower_min_isr_empties_the_eligible() -> None:
    """With it C moves from now on without those who are outside."""
    assert taken_over(state((0, 1)), 1, min_isr=1, lossy=False, nonce="x").elr == ()


def test_a_master_may_take_over_from_itself() -> None:
    assert taken_over(state((0, 1)), 0, min_isr=2, lossy=False, nonce="x").sss == (0, 1)


def test_a_lossy_takeover_begins_alone_and_is_remembered() -> None:
    new = taken_over(state((0, 1), lossy=(2,)), 2, min_isr=2, lossy=True, nonce="x")
    assert (new.sss, new.elr, new.lossy) == ((2,), (), (2, 6))


def test_who_leaves_a_set_below_min_isr_stays_eligible() -> None:
    assert changed(state((0, 1)), frozenset({0}), nonce="x").elr == (1,)
    assert changed(state((0, 1, 2)), frozenset({0, 1}), nonce="x").elr == ()


def test_the_eligible_go_when_the_set_is_whole_again() -> None:
    """From then on C moves, and they may lack something."""
    new = changed(state((0,), (1,)), frozenset({0, 2}), nonce="x")
    assert (new.sss, new.elr) == ((0, 2), ())


def test_a_cold_member_takes_itself_out_and_is_remembered() -> None:
    new = without(state((0, 1)), 0, cold=(5, 100), nonce="x")
    assert (new.master, new.sss, new.cold) == (None, (1,), ((0, 5, 100),))
    assert without(new, 1, cold=(5, 90), nonce="x").cold == ((0, 5, 100), (1, 5, 90))
    assert without(state((0, 1)), 2, cold=(5, 100), nonce="x").cold == ()  # it had nothing to lose


def test_a_wiped_member_is_nobody() -> None:
    new = without(state((0, 1), cold=((2, 5, 7),)), 2, cold=None, nonce="x")
    assert new.cold == ()


SETS = st.sets(st.integers(0, 4))


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from("tcw"), st.integers(0, 4), SETS), max_size=20))
def test_sets_never_overlap_and_survive_the_way_to_etcd(min_isr: int, steps: list[tuple[str, int, set[int]]]) -> None:
    """Any sequence of changes that the rules allow."""
    now = founded(0, epoch=0, min_isr=min_isr, nonce="x")
    for kind, replica, wanted in steps:
        before = now
        if kind == "t" and replica in (*now.sss, *now.elr):
            now = taken_over(now, replica, min_isr=min_isr, lossy=False, nonce="x")
        elif kind == "c" and now.master is not None:
            now = changed(now, frozenset(wanted | {now.master}), nonce="x")
        elif kind == "w":
            now = without(now, replica, cold=(now.epoch, 1), nonce="x")
        assert now.epoch >= before.epoch
        assert not set(now.sss) & set(now.elr)
        assert not now.elr or len(now.sss) < min_isr
        assert state_of(now.encode()) == now


# ---- who may


def test_members_of_the_set_come_first() -> None:
    live = dict.fromkeys((0, 1, 2))
    found = state((0, 1, 2))
    assert [right_of(r, found, live=live, op=None, unclean=False).rank for r in (1, 2)] == [0, 1]  # type: ignore[union-attr]
    assert right_of(0, found, live=live, op=None, unclean=False).rank == 2  # type: ignore[union-attr]
    assert right_of(3, found, live=live, op=None, unclean=False) is None


def test_the_eligible_wait_for_living_members_of_the_set() -> None:
    found = state((0, 1), (2,))
    waits = right_of(2, found, live=dict.fromkeys((1, 2)), op=None, unclean=False)
    alone = right_of(2, found, live=dict.fromkeys((2,)), op=None, unclean=False)
    assert waits is not None
    assert alone is not None
    assert waits.rank > alone.rank == 0


def test_only_the_best_of_the_cold_may_and_only_when_all_have_said_so() -> None:
    all_cold = state((), master=None, cold=((0, 5, 100), (1, 5, 90), (2, 4, 500)))
    rights = [right_of(r, all_cold, live={}, op=None, unclean=False) for r in (0, 1, 2)]
    assert [right is not None and right.lossy for right in rights] == [True, False, False]
    one_missing = state((2,), master=None, cold=((0, 5, 100), (1, 5, 90)))
    assert right_of(0, one_missing, live={}, op=None, unclean=False) is None


def test_others_only_by_explicit_choice() -> None:
    found = state((0, 1))
    chosen = right_of(2, found, live={}, op=Operation("elect", 2, "x"), unclean=False)
    assert chosen is not None
    assert chosen.lossy
    assert right_of(2, found, live={}, op=Operation("elect", 1, "x"), unclean=False) is None
    assert right_of(2, found, live={}, op=Operation("switchover", 2, "x"), unclean=False) is None
    unclean = right_of(2, found, live={}, op=None, unclean=True)
    assert unclean is not None
    assert unclean.lossy
    hints = {1: Hint(5, 900, True, "", {}), 2: Hint(5, 100, True, "", {}), 3: Hint(5, 950, False, "", {})}
    assert [right_of(r, found, live=hints, op=None, unclean=True).rank for r in (2, 3)] == [1, 2]  # type: ignore[union-attr]


def test_when_nobody_leads() -> None:
    held = Lease(5, 0, 3, "n")
    assert is_free(state((0, 1)), held, 1) is None
    assert is_free(state((0, 1)), held, 0) is not None  # its own
    assert is_free(state((0, 1)), Lease(5, 0, 3, "n", True), 1) is not None
    assert is_free(state((0, 1)), Lease(4, 0, 3, "n", True), 1) is None  # of an earlier term
    assert is_free(state((0,), master=None), None, 0) is not None
    assert is_free(state((0, 1)), None, 1) is None  # somebody has removed the key: time has to tell


# ---- values


def test_values_survive_the_way_to_etcd() -> None:
    lease = Lease(5, 0, 3, "n", True, 2)
    assert lease_of(lease.encode()) == lease
    replica = Replica("disk", "n", "h:1")
    assert replica_of(replica.encode()) == replica
    assert replica.incarnation == "disk.n"
    operation = Operation("switchover", 1, "n")
    assert operation_of(operation.encode()) == operation


GOOD = {"epoch": 1, "master": 0, "sss": [0, 1], "elr": [], "cold": [], "min_isr": 1, "lossy_epochs": [], "nonce": "n"}


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1}, {"epoch": "1"}, {"epoch": True}, {"sss": [1, 0]}, {"sss": [0, 0]}, {"sss": "01"}, {"elr": [1]},
        {"master": 5}, {"cold": [[1, 2]]}, {"cold": [1]}, {"nonce": None}, {"nonce": "x" * 301}, {"min_isr": 1.5},
    ],
)  # fmt: skip
def test_what_is_not_a_state_is_refused(change: dict[str, object]) -> None:
    state_of(json.dumps(GOOD).encode())
    with pytest.raises(Unreadable):
        state_of(json.dumps({**GOOD, **change}).encode())


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_rubbish_is_refused_in_words(data: bytes) -> None:
    for parse in (state_of, lease_of, replica_of, operation_of):
        with pytest.raises(Unreadable):
            parse(data)


def test_times_that_can_not_work_are_refused() -> None:
    ElectionOptions(lease_ms=3_000)
    with pytest.raises(BadRequest, match="too short"):
        ElectionOptions(lease_ms=2_000)
    ElectionOptions(lease_ms=2_000, renew_ms=300, leader_change_ms=700)
