"""The sets of the master's term: what etcd has, what replication wants, and what may be the case while an answer is missing.

A change that had no answer may be done yet, until some other write over the same revision of ``state`` succeeds. Until
then nobody is told that anything is decided, and whoever it would have added counts as one who could take over.
"""

from __future__ import annotations

from kourou.broker.machines.election import Candidate, Decided, ElectionEffect, ElectionOptions
from kourou.broker.machines.electionrules import changed
from kourou.broker.machines.electionstate import GroupState
from kourou.broker.machines.electorcalls import Calls
from kourou.broker.machines.electorterm import Term
from kourou.broker.machines.electortransactions import Transactions
from kourou.broker.machines.electorview import ElectorView


class Sets:
    def __init__(
        self,
        me: Candidate,
        options: ElectionOptions,
        view: ElectorView,
        transactions: Transactions,
        calls: Calls,
        effects: list[ElectionEffect],
    ) -> None:
        self._me = me
        self._options = options
        self._view = view
        self._transactions = transactions
        self._calls = calls
        self._effects = effects
        self._told: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # what replication knows
        self._wanted: frozenset[int] | None = None  # the set that it wants
        self._incarnations: dict[int, str] = {}  # of those that it wants to add
        self._unanswered = False  # it waits for ``Decided``
        self._lost_mod: int | None = None  # a change over this revision of ``state`` had no answer: it may be done yet
        self._doubtful: frozenset[int] = frozenset()  # added by a change whose outcome is not known

    def begin(self, state: GroupState) -> None:
        """A term begins, with these."""
        self._told = (state.sss, state.elr)
        self._wanted, self._incarnations, self._unanswered = None, {}, False
        self._lost_mod, self._doubtful = None, frozenset()

    def want(self, sss: frozenset[int], incarnations: dict[int, str]) -> None:
        self._wanted, self._incarnations, self._unanswered = sss, incarnations, True

    @property
    def undecided(self) -> bool:
        return self._unanswered or self._lost_mod is not None

    def pledges_count(self) -> bool:
        """May pledges take the lease's place: is it known who all could take over, and are there any?"""
        state = self._view.state
        return state is not None and state.sss != (self._me.replica,) and not self._options.unclean

    def eligible_others(self) -> frozenset[int]:
        """Everybody else who could take over, as far as can be known without etcd; none when pledges don't count."""
        state, writing = self._view.state, self._calls.writing
        if state is None or not self.pledges_count():
            return frozenset()
        maybe = {*writing.sss, *writing.elr} if writing is not None else set()
        return frozenset({*state.sss, *state.elr, *self._doubtful, *maybe} - {self._me.replica})

    def propose(self, term: Term, now_ms: int) -> None:
        """Bring the set in etcd to what replication wants, as far as that may be."""
        state, calls = self._view.state, self._calls
        if state is None or not self.undecided or calls.busy:
            return
        if now_ms < calls.retry_ms or term.silent(now_ms):
            return  # etcd does not answer; and on pledges nobody new may become eligible
        sss, added = self._to_try(state)
        if self._wanted is not None and not self._wanted <= sss and now_ms - calls.looked_ms >= self._options.renew_ms:
            calls.look()  # a registration may have been missed
        mod = self._transactions.basis[0]
        if sss == frozenset(state.sss) and self._lost_mod != mod:
            self.decided()
            return  # where a change is lost, any write settles it
        new = changed(state, sss, nonce=self._me.nonce)
        self._doubtful |= added
        self._lost_mod = mod
        calls.transact_state(self._transactions.change(new, added=added), new)

    def decided(self) -> None:
        """What etcd has, and nothing else can come of what was tried."""
        state = self._view.state
        if state is None or self._calls.busy or self._lost_mod == self._transactions.basis[0]:
            return
        self._doubtful, self._lost_mod, self._unanswered = frozenset(), None, False
        self._told = (state.sss, state.elr)
        self._effects.append(Decided(state.epoch, state.sss, state.elr))

    def shown(self, state: GroupState) -> None:
        """A member that came back cold may have taken itself out."""
        if self._told != (state.sss, state.elr):
            self.decided()

    def _to_try(self, state: GroupState) -> tuple[frozenset[int], frozenset[int]]:
        """The set that replication wants, as far as it can be: who would be in it, and who of them is new.

        Who comes in has to be the process that earned it.
        """
        before = frozenset(state.sss)
        wanted = before if self._wanted is None else self._wanted
        added = frozenset(r for r in wanted - before if self._is_current(r))
        return (before & wanted) | added | {self._me.replica}, added

    def _is_current(self, replica: int) -> bool:
        record = self._view.replicas.get(replica)
        return record is not None and record.incarnation == self._incarnations.get(replica)
