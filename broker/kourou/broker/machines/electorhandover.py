"""How a master hands over: to whom, when it lets its clients wait for that, and giving back the lease.

    an operator asks, the process stops, it is slow ---> draining --drained--> the lease is released, for the successor
                                                             '----not in time: it goes on as master, or hands over anyway
    its disk fails, nobody follows it -------------------------------------> the lease is released

What follows for the replica's phase is the elector's; this says what is to be done.
"""

from __future__ import annotations

from kourou.broker.machines.election import Candidate, Drain, ElectionEffect, Note, Resume
from kourou.broker.machines.electionrules import successor_of
from kourou.broker.machines.electorcalls import Calls
from kourou.broker.machines.electorrole import holds
from kourou.broker.machines.electorterm import Term
from kourou.broker.machines.electortransactions import Transactions
from kourou.broker.machines.electorview import ElectorView

FRESH_MS = 4_000  # hints come every 3 s


class Handover:
    def __init__(
        self,
        me: Candidate,
        view: ElectorView,
        transactions: Transactions,
        calls: Calls,
        effects: list[ElectionEffect],
    ) -> None:
        self.to: int | None = None  # the successor
        self.draining = False
        self._unfit = False  # this replica does worse than its successor, whatever that one lacks still
        self._me = me
        self._view = view
        self._transactions = transactions
        self._calls = calls
        self._effects = effects

    def begin(self) -> None:
        """A term begins: nothing is handed over yet."""
        self.to, self.draining, self._unfit = None, False, False

    # ---- to whom

    def successor(self, now_ms: int) -> int | None:
        """When it has to go: the best of the set, or just anybody in it."""
        state = self._view.state
        if state is None:
            return None
        best = successor_of(self._me.replica, state, live=self._view.live(now_ms))
        return best if best is not None else next((r for r in state.sss if r != self._me.replica), None)

    def reachable(self, now_ms: int) -> int | None:
        """When nobody follows it: who has everything, and was heard of lately; others may reach that one."""
        state = self._view.state
        if state is None or self.draining:
            return None
        return successor_of(self._me.replica, state, live=self._view.live(now_ms, within_ms=FRESH_MS), eligible=True)

    # ---- draining

    def drain(self, to: int | None) -> None:
        self.draining, self.to = True, to
        self._effects.append(Drain(to))

    def slow(self, reason: str, *, known: bool, now_ms: int) -> None:
        """Somebody who may do better gets the lease, in sync or not. ``known``: that it is slow has been said."""
        state = self._view.state
        if self.draining or state is None:
            return
        to = successor_of(self._me.replica, state, live=self._view.live(now_ms))
        if to is not None or not known:
            self._note("slow", reason=reason, successor=to)
        if to is not None:
            self._unfit = True
            self.drain(to)

    def asked(self, *, barred: bool) -> None:
        """What an operator has asked for, if anything. ``barred``: it can't stay master anyhow."""
        op = self._view.op
        if op is not None and op.kind == "switchover" and not self.draining and not barred:
            self._switch(op.to)
        elif op is not None and op.kind == "elect":  # left there, it would hold for any later time without a master
            self._note("elect_refused", to=op.to, reason="there is a master")
            self._forget_operation()

    def _switch(self, to: int) -> None:
        state = self._view.state
        if to == self._me.replica or state is None or to not in state.sss:
            reason = "it is the master" if to == self._me.replica else "it is not in sync"
            self._note("switchover_refused", to=to, reason=reason)
            self._forget_operation()
        else:
            self.drain(to)

    def drained(self, done: bool, *, leaving: bool) -> bool:
        """Is it to give the lease back now? Else it goes on as master."""
        self.draining = False
        if done or leaving or self._unfit:
            return True
        self._forget_operation()
        self._effects.append(Resume(f"{self.to} did not get everything in time"))
        return False

    # ---- the lease

    def release(self, term: Term, now_ms: int) -> str | None:
        """Give the lease back to etcd. A text: how it is out of this replica's hands already."""
        if not holds(self._me, self._view, term):
            return "somebody else has it"
        if now_ms >= term.lease_deadline_ms:
            return "it is over by itself"
        self._calls.transact_state(self._transactions.release(term, self.to, seq=term.sending(now_ms)), None)
        return None

    def _forget_operation(self) -> None:
        if self._view.op is not None:
            self._calls.transact(self._transactions.forget_operation())
            self._view.op = None

    def _note(self, event: str, **fields: object) -> None:
        self._effects.append(Note(event, fields))
