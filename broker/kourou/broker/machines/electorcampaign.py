"""One campaign of a replica: by what right, upon which revisions, and when it tried.

Every try compares the same revisions and writes the same state, so one of them is done at most; the sequence in the lease
says which, and thereby since when the term counts.
"""

from __future__ import annotations

from kourou.broker.machines.election import Candidate
from kourou.broker.machines.electionrules import taken_over
from kourou.broker.machines.electionstate import GroupState
from kourou.broker.machines.electorchance import Chance
from kourou.broker.machines.electortransactions import Basis


class Campaign:
    def __init__(self, me: Candidate, due: Chance, state: GroupState, *, basis: Basis, min_isr: int) -> None:
        """``state`` is the one at ``basis``: what is there now."""
        self.reason = f"{due.evidence}; {due.right.reason}"
        self.lossy = due.right.lossy
        self.basis = basis
        self.new = taken_over(state, me.replica, min_isr=min_isr, lossy=self.lossy, nonce=me.nonce)
        self.tries: dict[int, int] = {}  # by sequence: when it was sent

    def sending(self, now_ms: int) -> int:
        """A try is on its way; its sequence."""
        seq = len(self.tries)
        self.tries[seq] = now_ms
        return seq
