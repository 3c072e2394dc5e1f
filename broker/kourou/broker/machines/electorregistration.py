"""What a process tells its group at its start: who it is, and that it is not to be counted for what it may have lost."""

from __future__ import annotations

from dataclasses import dataclass

from kourou.broker.machines.election import Candidate, ElectionOptions
from kourou.broker.machines.electionrules import founded, without
from kourou.broker.machines.electionstate import GroupState, Replica
from kourou.broker.machines.electorview import ElectorView


@dataclass(frozen=True, slots=True)
class Registration:
    record: Replica
    state: GroupState | None  # None: it stays as it is
    doubt: str | None  # why this process does not belong to what etcd has; true only when the registration is committed


def registration(me: Candidate, view: ElectorView, options: ElectionOptions, *, may_found: bool) -> Registration | str:
    """A text: why not now."""
    reason = view.unreadable()
    if reason is not None:
        return reason
    record = Replica(me.storage, me.nonce, me.address)
    doubt = _doubt(me, view, options)
    if doubt is not None:
        return Registration(record, None, doubt)
    if view.state is not None:
        return Registration(record, _left(me, view, view.state), None)
    if not may_found or options.learner:
        return "the group is not in etcd yet; another member has to create it"
    return Registration(record, founded(me.replica, epoch=me.log.epoch, min_isr=options.min_isr, nonce=me.nonce), None)


def _left(me: Candidate, view: ElectorView, state: GroupState) -> GroupState | None:
    """The state without this replica, if it may lack something; None when that changes nothing.

    Another disk, one that does not know the last process that ran under this id, and one with half a copy count as empty.
    """
    old = view.replicas.get(me.replica)
    known = old is not None and old.storage == me.storage and (old.nonce in me.known or old.nonce == me.nonce)
    same = known and me.log.whole
    if same and not me.cold:
        return None
    left = without(state, me.replica, cold=(me.log.epoch, me.log.end) if same else None, nonce=me.nonce)
    return None if (left.sss, left.elr, left.cold) == (state.sss, state.elr, state.cold) else left


def _doubt(me: Candidate, view: ElectorView, options: ElectionOptions) -> str | None:
    """Does etcd know less than this log?"""
    state, log = view.state, me.log
    if state is not None and log.epoch > state.epoch:
        return f"etcd knows of epoch {state.epoch}, this log is of {log.epoch}: etcd's data is older, or another group's"
    if state is None and log.end > 0 and not options.found:
        return (
            f"etcd knows no broker group {view.keys.group}, but this log is not empty: etcd's data was lost, or this is the "
            f"group's first start with failover. Then start the member that has most with --failover-init"
        )
    if state is None and not log.whole:
        return (
            "this member was taking a copy of its master, and its log does not reach up to it: let another begin the group"
        )
    return None
