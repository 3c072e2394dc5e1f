"""What the view says of this replica: whom it follows, whether it holds a lease, whose a state is. Pure questions."""

from __future__ import annotations

from kourou.broker.machines.election import Candidate, Follow, Wait
from kourou.broker.machines.electorterm import Term
from kourou.broker.machines.electorview import ElectorView


def role_of(me: Candidate, view: ElectorView) -> Follow | Wait:
    """Of a replica that does not lead."""
    state, lease = view.state, view.lease
    broken = view.unreadable()
    if broken is not None or state is None:
        return Wait(broken or "the group is not in etcd")
    master = state.master
    record = None if master is None else view.replicas.get(master)
    if master is None or record is None or master == me.replica or (lease is not None and lease.released):
        return Wait(f"there is no master; the last epoch is {state.epoch}")
    return Follow(state.epoch, master, record.address, state.lossy)


def is_registered(me: Candidate, view: ElectorView) -> bool:
    """As this process, and not as another under the same id."""
    mine = view.replicas.get(me.replica)
    return mine is not None and mine.nonce == me.nonce


def displaced(me: Candidate, view: ElectorView) -> str:
    """Why this process, which had registered, is no longer the one that etcd knows."""
    who = f"broker {me.replica} of group {view.keys.group}"
    if me.replica in view.replicas:
        return f"another process has registered as {who}"
    return (
        f"etcd does not know {who} any more: its data was lost, or the group's keys were deleted. "
        f"Start the member that has most with --failover-init, then the others"
    )


def leads_in(me: Candidate, view: ElectorView, epoch: int) -> bool:
    """Did this very process take over in this epoch?"""
    state, lease = view.state, view.lease
    led = state is not None and (state.epoch, state.master) == (epoch, me.replica)
    return led and lease is not None and (lease.epoch, lease.nonce) == (epoch, me.nonce)


def holds(me: Candidate, view: ElectorView, term: Term) -> bool:
    """Is the lease in etcd this term's, and not released?"""
    state, lease = view.state, view.lease
    current = state is not None and state.epoch == term.epoch
    return current and lease is not None and (lease.epoch, lease.nonce, lease.released) == (term.epoch, me.nonce, False)


def why_over(me: Candidate, view: ElectorView, term: Term) -> str | None:
    """Why a term has ended, as far as etcd shows."""
    state, lease = view.state, view.lease
    if state is None or state.epoch != term.epoch or state.master != me.replica:
        other = "nobody" if state is None else f"broker {state.master}, epoch {state.epoch}"
        return f"etcd says that the master is {other}"
    if lease is None or lease.epoch != term.epoch or lease.nonce != me.nonce:
        return "the lease is not this master's any more"
    return None
