"""When a replica may take over: by what right, as far as its data goes, and on which evidence that nobody leads."""

from __future__ import annotations

from dataclasses import dataclass

from kourou.broker.machines.election import ElectionOptions
from kourou.broker.machines.electionrules import Right, is_free, right_of
from kourou.broker.machines.electorview import ElectorView

UNCLEAN_AFTER = 10  # times D
SLOW_WAIT_MS = 1_000


@dataclass(frozen=True, slots=True)
class Chance:
    at_ms: int
    right: Right
    evidence: str


def chance(
    replica: int,
    view: ElectorView,
    options: ElectionOptions,
    *,
    gone_ms: int | None,
    pledged_ms: int,
    slow: bool,
    now_ms: int,
) -> Chance | None:
    """``gone_ms``: since when the master's process is known to be gone. ``pledged_ms``: not before, unless nobody leads.
    ``slow``: anybody else first."""
    state, lease = view.state, view.lease
    if state is None or view.unreadable() is not None or options.learner:
        return None
    right = right_of(replica, state, live=view.live(now_ms), op=view.op, unclean=options.unclean)
    if right is None:
        return None
    named = lease is not None and lease.released and lease.to == replica  # whoever named it knew how slow it is
    wait_ms = right.rank * options.rank_ms + (SLOW_WAIT_MS if slow and not named else 0)
    free = is_free(state, lease, replica)
    if free is not None and not (right.lossy and options.unclean):  # an unclean one waits for others, always
        others_first = lease is not None and lease.released and lease.to not in (None, replica)
        return Chance(view.lease_seen_ms + wait_ms + (options.successor_ms if others_first else 0), right, free)
    leases = (
        UNCLEAN_AFTER * (1 + right.rank) if right.lossy and options.unclean else 1
    )  # whoever has more may have come late
    at_ms = view.lease_seen_ms + leases * options.lease_ms + wait_ms
    evidence = f"the lease was not renewed for {leases * options.lease_ms} ms"
    if options.refusals and options.ack_all and not right.lossy and gone_ms is not None and gone_ms + wait_ms < at_ms:
        at_ms, evidence = gone_ms + wait_ms, "the master's process has ended"
    return Chance(max(at_ms, pledged_ms), right, evidence)
