"""How a group's state may change, and who may take over: pure functions, so that each rule can be read and tested alone.

SSS, the sync state set: the master confirms a frame only when every member has it, and only while the set has at least
min_isr members. ELR, the eligible replicas: they left the set when it was below min_isr; since C stood still from then
on, they have everything below it as well. Only members of either may become master. Both change by compare-and-set alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kourou.broker.machines.electionstate import LOSSY_MAX, GroupState, Hint, Lease, Operation


def founded(replica: int, *, epoch: int, min_isr: int, nonce: str) -> GroupState:
    """A group that is new to etcd, around its first member."""
    return GroupState(epoch, None, (replica,), (), (), min_isr, (), nonce)


def taken_over(state: GroupState, replica: int, *, min_isr: int, lossy: bool, nonce: str) -> GroupState:
    """The old master leaves the set, the others stay: they have everything below C, and count as copies.

    ``lossy``: the new master lacks something; nobody else has more right than it to be in either set.
    """
    epoch = state.epoch + 1
    if lossy:
        lossy_epochs = (*state.lossy, epoch)[-LOSSY_MAX:]
        return GroupState(epoch, replica, (replica,), (), (), min_isr, lossy_epochs, nonce)
    sss = (set(state.sss) - {state.master}) | {replica}
    elr = set(state.elr)
    if state.master is not None and state.master in state.sss:
        elr.add(state.master)
    return _sets(replace(state, epoch=epoch, master=replica, cold=(), min_isr=min_isr, nonce=nonce), sss, elr)


def changed(state: GroupState, sss: frozenset[int], *, nonce: str) -> GroupState:
    """The master's change of its set. Who leaves it when it is below min_isr stays eligible."""
    assert state.master in sss
    elr = set(state.elr) | (set(state.sss) - sss)
    cold = tuple(item for item in state.cold if item[0] not in sss)
    return _sets(replace(state, cold=cold, nonce=nonce), set(sss), elr)


def without(state: GroupState, replica: int, *, cold: tuple[int, int] | None, nonce: str) -> GroupState:
    """A member that does not have what it had takes itself out. ``cold``: epoch and end of what is left of its log."""
    entries = {item[0]: item for item in state.cold}
    was_in = entries.pop(replica, None) is not None or replica in state.sss or replica in state.elr
    if cold is not None and was_in:
        entries[replica] = (replica, *cold)
    return replace(
        state,
        master=None if state.master == replica else state.master,
        sss=tuple(r for r in state.sss if r != replica),
        elr=tuple(r for r in state.elr if r != replica),
        cold=tuple(sorted(entries.values())),
        nonce=nonce,
    )


def _sets(state: GroupState, sss: set[int], elr: set[int]) -> GroupState:
    elr = set() if len(sss) >= state.min_isr else elr - sss  # C moves from here on: who is outside may lack something
    return replace(state, sss=tuple(sorted(sss)), elr=tuple(sorted(elr)))


@dataclass(frozen=True, slots=True)
class Right:
    """Why a replica may take over, as far as its data is concerned, and how many have a better right."""

    reason: str
    rank: int
    lossy: bool = False


Live = Mapping[int, Hint | None]


def right_of(replica: int, state: GroupState, *, live: Live, op: Operation | None, unclean: bool) -> Right | None:
    """``live``: who seems to be there, with what log; hints that decide about order, never about right."""
    if replica in state.sss:
        rivals = [r for r in state.sss if r != state.master and r != replica and r in live]
        before = rivals if replica == state.master else [r for r in rivals if _is_before(r, replica, live)]
        return Right("in the sync state set", len(before))
    if replica in state.elr:
        waits = any(r in live for r in state.sss if r != state.master)
        rivals = [r for r in state.elr if r != replica and r in live]
        return Right("eligible", sum(_is_before(r, replica, live) for r in rivals) + (50 if waits else 0))
    if not state.sss and not state.elr and state.cold:
        best = max(state.cold, key=lambda item: (item[1], item[2], -item[0]))
        if best[0] == replica:
            return Right("all members lost their page cache; this one has most", 0, True)
    if op is not None and op.kind == "elect" and op.to == replica:
        return Right("an operator chose it", 0, True)
    if unclean:
        return Right("unclean election is on", sum(_is_before(r, replica, live) for r in live if r != replica), True)
    return None


def _is_before(one: int, other: int, live: Live) -> bool:
    """The longer log first, as far as both have said how long it is: less of what clients don't know the outcome of is
    cut away, and less has to be copied."""
    hint, others = live.get(one), live.get(other)
    if hint is not None and others is not None:
        mine, theirs = (hint.able, hint.epoch, hint.end), (others.able, others.epoch, others.end)
        if mine != theirs:
            return mine > theirs
    return one < other


def successor_of(replica: int, state: GroupState, *, live: Live, eligible: bool = False) -> int | None:
    """To whom a master hands over best; nobody, when nobody else in the set (or ``eligible``) seems to be there and able."""
    best: int | None = None
    for other in (*state.sss, *state.elr) if eligible else state.sss:
        hint = live.get(other)
        if other != replica and hint is not None and hint.able and (best is None or _is_before(other, best, live)):
            best = other
    return best


def is_free(state: GroupState, lease: Lease | None, replica: int) -> str | None:
    """Why nobody leads, as far as etcd shows: said by the master itself, or known to the replica, not guessed by time."""
    if lease is None:
        return "nobody has led yet" if state.master is None else None
    if lease.epoch != state.epoch:
        return None
    if lease.released:
        return "the master has released it"
    if lease.replica == replica:
        return "this replica led last"
    return None
