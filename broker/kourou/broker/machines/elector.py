"""Decides who of a broker group is its master, together with the group's other electors, through keys in etcd.

    LOOKING --picture--> REGISTERING --committed--> FOLLOWER --may take over--> STOPPING --quiet--> TAKING
                                                       ^  ^---somebody else did-----------------------|
                                                       |---lease over, higher epoch--- MASTER <--committed
                                                       '---released------ RELEASING <--drained--'

It trusts committed transactions alone. A picture or an event only says what to try; a transaction compares the very
revisions that it was decided upon. The outcome of a transaction whose answer is lost becomes known when the same, or a
later one over the same keys, has an answer: values carry the nonce of their writer.

One transaction over ``state`` and one over ``lease`` may be under way at a time.
"""

from __future__ import annotations

import random
from enum import Enum

from kourou.broker.machines.coordination import Delete, Outcome, Picture, Put, Txn, Value
from kourou.broker.machines.election import (
    AskPledges,
    Candidate,
    Decided,
    Drain,
    ElectionEffect,
    ElectionOptions,
    Follow,
    Halt,
    Lead,
    Left,
    Look,
    Note,
    Position,
    Resume,
    StepDown,
    StopFollowing,
    Transact,
    Wait,
)
from kourou.broker.machines.electionrules import Right, changed, successor_of, taken_over
from kourou.broker.machines.electionstate import GroupState, Keys, Lease
from kourou.broker.machines.electorchance import Chance, chance
from kourou.broker.machines.electorregistration import registration
from kourou.broker.machines.electorrole import holds, is_registered, leads_in, role_of, set_to_try, why_over
from kourou.broker.machines.electorterm import SILENT_MS, Term
from kourou.broker.machines.electortransactions import Transactions
from kourou.broker.machines.electorview import ElectorView

RETRY_MS = 200
QUIET_MS = 300  # after a renewal should have been seen: is etcd there?
SLOW_MS = 60_000
ALONE_MS = 10_000
FRESH_MS = 4_000  # hints come every 3 s
REFRESH_MS = 5_000  # all keys are read again: a watch may have missed something


class Phase(Enum):
    LOOKING = "looking"
    REGISTERING = "registering"
    FOLLOWER = "follower"
    STOPPING = "stopping"  # what it follows, before it takes over
    TAKING = "taking"
    MASTER = "master"
    RELEASING = "releasing"
    OVER = "over"


class Elector:
    def __init__(
        self, me: Candidate, keys: Keys, options: ElectionOptions, *, rng: random.Random, may_found: bool = True
    ) -> None:
        self.me = me
        self.options = options
        self.view = ElectorView(keys)
        self.phase = Phase.LOOKING
        self.term: Term | None = None
        self.halted: str | None = None
        self._keys = keys
        self._rng = rng
        self._may_found = may_found
        self._number = 0
        self._seen: dict[int, int] = {}  # by transaction that is under way: the highest revision when it was sent
        self._look: int | None = None
        self._looked_ms = 0
        self._txn: int | None = None  # over ``state``
        self._sent: GroupState | None = None  # what it writes
        self._tries: dict[int, int] = {}  # to take over: when each was sent
        self._writes: tuple[Put | Delete, ...] = ()  # of the last transaction over ``state``
        self._transactions = Transactions(me, keys, self.view)
        self._known_sets: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # as replication was told
        self._doubted: str | None = None  # why this process does not belong to what etcd has
        self._retry_ms = 0
        self._barred: str | None = None  # why it does not campaign any more
        self._gone: int | None = None  # the epoch whose master's process has ended
        self._gone_ms = 0
        self._slow_until_ms = 0  # until then it campaigns only when nobody else does
        self._pledged_ms = 0  # until then it does not campaign
        self.contact_ms = -(1 << 60)  # when etcd last answered
        self._blind_ms = -(1 << 60)  # when it last did not
        self._reason = ""  # why it campaigns
        self._right: Right | None = None
        self._basis = (0, 0)  # revisions of state and lease that the campaign was decided upon
        self._shown: tuple[object, ...] | None = None  # the role that the driver was told
        self._leaving = False
        self._effects: list[ElectionEffect] = []

    def take_effects(self) -> list[ElectionEffect]:
        effects, self._effects = self._effects, []
        return effects

    # ---- answers

    def leads(self, now_ms: int) -> bool:
        """May this replica confirm, answer reads and grant locks as master?"""
        return self.phase is Phase.MASTER and now_ms < self.deadline()

    def deadline(self) -> int:
        """When the term ends unless it is renewed, by this replica's clock."""
        return self.term.deadline_ms(self._eligible_others()) if self.term is not None else 0

    def deadline_ms(self, now_ms: int) -> int | None:
        """When ``tick`` wants to run next; None: when something else happens."""
        term, busy = self.term, self._txn is not None
        if self.phase is Phase.MASTER and term is not None:
            times = [self.deadline()]
            if term.renewing is None:
                times.append(term.sent_ms + self.options.renew_ms)
            if term.silent(now_ms):
                times.append(term.asked_ms + self.options.renew_ms)
            if self._undecided(term) and not busy:
                times.append(max(self._retry_ms, now_ms))
            if self._look is None:
                times.append(self._looked_ms + REFRESH_MS)
            return min(times)
        if self.phase is Phase.RELEASING and term is not None:
            return None if busy or term.renewing is not None else self._retry_ms
        if self.phase in (Phase.REGISTERING, Phase.TAKING):
            return None if busy else self._retry_ms
        looks = self.phase in (Phase.LOOKING, Phase.FOLLOWER) and self._look is None
        return self._look_at(now_ms) if looks else None

    def _look_at(self, now_ms: int) -> int:
        """When all keys are read: at first; before a take-over, when nothing is heard, and now and then."""
        if self.phase is Phase.LOOKING:
            return self._retry_ms
        due = self._due(now_ms)
        at_ms = self._looked_ms + REFRESH_MS
        if self.view.lease is not None and not self.view.lease.released:  # renewals should be seen
            at_ms = min(at_ms, max(self.contact_ms, self._looked_ms) + self.options.renew_ms + QUIET_MS)
        return max(self._retry_ms, at_ms if due is None else min(at_ms, due.at_ms))

    # ---- facts: etcd

    def looked(self, number: int, picture: Picture | None, *, now_ms: int) -> None:
        if number != self._look:
            return
        self._look, self._looked_ms = None, now_ms
        if picture is None:
            self._blind_ms = now_ms
            self._retry_ms = now_ms + RETRY_MS
            return
        self.contact_ms = now_ms
        self.view.picture(picture, now_ms=now_ms)
        if self._lost_history():
            return
        self._adopted(now_ms)
        if self.phase is Phase.LOOKING:
            self._register(now_ms)
        elif self.phase is Phase.FOLLOWER:
            self._campaign(now_ms)

    def changed(self, values: tuple[Value, ...], *, now_ms: int) -> None:
        """A watch has shown this."""
        self.contact_ms = now_ms
        for value in values:
            self.view.event(value, now_ms=now_ms)
        if self.view.complete and not self._lost_history():
            self._adopted(now_ms)

    def done(self, number: int, outcome: Outcome | None, *, now_ms: int) -> None:
        if outcome is None:
            self._blind_ms = now_ms
        else:
            self.contact_ms = now_ms
            self.view.answered(outcome.revision, self._seen.get(number, 0))
        self._seen.pop(number, None)
        if self._lost_history():
            return
        term = self.term
        if term is not None and number == term.renewing:
            term.renewing = None
            self._renewal_done(term, outcome, now_ms)
        elif number == self._txn:
            self._txn = None
            self._state_done(outcome, now_ms)
        elif outcome is not None:  # of an earlier role
            self._learn(outcome, now_ms)
            self._adopted(now_ms)
        self._lost_history()

    def _lost_history(self) -> bool:
        """Is etcd older than it was? Revisions only grow; what was decided since is not known to it, so nothing may be built
        on what it says."""
        if self.view.gone_back is not None and self.phase is not Phase.OVER:
            self._halt(
                f"etcd's data is older than it was: {self.view.gone_back}. It was lost, or restored from a backup: stop all "
                f"members, delete the group's keys, and start the member that has most with --failover-init"
            )
        return self.phase is Phase.OVER

    # ---- facts: the rest of the broker

    def quiet(self, log: Position, *, now_ms: int) -> None:
        """Nothing is followed any more; the log is as given."""
        if self.phase is not Phase.STOPPING:
            return
        state = self.view.state
        due = self._due(now_ms)
        if not log.whole:
            self._back(now_ms, "its log does not reach up to the state that it took a copy of")
        elif (
            state is None
            or log.epoch > state.epoch
            or due is None
            or due.at_ms > now_ms
            or self._transactions.basis != self._basis
        ):
            self._back(now_ms, "others were faster")
        else:
            self.phase = Phase.TAKING
            self._take(now_ms)

    def master_refuses(self, epoch: int, *, now_ms: int) -> None:
        """The session with the master of this epoch ended, and its host refuses connections: its process has ended."""
        if self._gone != epoch:
            self._gone, self._gone_ms = epoch, now_ms

    def outdated(self, epoch: int, source: str, *, now_ms: int) -> None:
        """Somebody knows of a higher epoch."""
        if self.term is not None and epoch > self.term.epoch:
            self._fall(f"{source} knows of epoch {epoch}", now_ms)

    def set_wanted(self, epoch: int, sss: frozenset[int], incarnations: dict[int, str], *, now_ms: int) -> None:
        """Replication wants the sync state set to be this; ``incarnations`` of those that it wants to add.

        Answered by ``Decided``, also when it can't be so.
        """
        term = self.term
        if term is not None and term.epoch == epoch and self.phase is Phase.MASTER:
            term.wanted, term.incarnations, term.unanswered = sss, incarnations, True
            self._propose(term, now_ms)

    def faulty(self, reason: str, *, now_ms: int) -> None:
        """This replica can't be master any more: its disk fails, or it is too slow."""
        self._barred = self._barred or reason
        if self.phase is Phase.MASTER:
            self._release(None, reason, now_ms)

    def slow(self, reason: str, *, now_ms: int) -> None:
        """This replica serves clients badly: hand over, if somebody is there who may do better."""
        known, self._slow_until_ms = now_ms < self._slow_until_ms, now_ms + SLOW_MS
        term, state = self.term, self.view.state
        if self.phase is not Phase.MASTER or term is None or term.draining or state is None:
            return
        to = successor_of(self.me.replica, state, live=self.view.live(now_ms))
        if to is not None or not known:
            self._note("slow", reason=reason, successor=to)
        if to is not None:
            term.unfit = True
            self._drain(term, to)

    def alone(self, *, now_ms: int) -> bool:
        """Nobody follows this master, so it confirms nothing. Does it give the lease to somebody whom others may reach?"""
        term, state = self.term, self.view.state
        if self.phase is not Phase.MASTER or term is None or term.draining or state is None:
            return False
        to = successor_of(self.me.replica, state, live=self.view.live(now_ms, within_ms=FRESH_MS), eligible=True)
        if to is None:
            return False
        self._note("alone", successor=to)
        self._slow_until_ms = max(self._slow_until_ms, now_ms + ALONE_MS)
        self._release(to, f"nobody follows it; {to} has everything, too", now_ms)
        return True

    def able(self, now_ms: int) -> bool:
        """Would it take over, if it was its turn?"""
        fit = self._barred is None and not self.options.learner and now_ms >= self._slow_until_ms
        return fit and self.phase in (Phase.FOLLOWER, Phase.STOPPING, Phase.TAKING)

    def held_up(self, *, now_ms: int) -> None:
        """This replica was cut off from its clients: nothing had moved its lease on in time, as far as could be seen."""
        if self.phase is Phase.MASTER:
            self._fall("it was held up until its lease was over", now_ms)

    def leave(self, *, now_ms: int) -> None:
        """The process is about to stop: hand over. Answered by ``Left``."""
        self._leaving = True
        self._barred = self._barred or "it is stopping"
        if self.phase in (Phase.TAKING, Phase.RELEASING):
            return  # ``Left`` when etcd has nothing of it, or the lease is over: else the group would wait for its end
        if self.phase is not Phase.MASTER:
            self._effects.append(Left())
        elif self.term is not None and not self.term.draining:
            self._drain(self.term, self._successor(now_ms))

    def drained(self, done: bool, *, now_ms: int) -> None:
        term = self.term
        if term is None or self.phase is not Phase.MASTER or not term.draining:
            return
        to, term.draining = term.successor, False
        if done or self._leaving or term.unfit:
            self._release(to, "it hands over" if to is None else f"it hands over to {to}", now_ms)
        else:
            self._clear_operation()
            self._effects.append(Resume(f"{to} did not get everything in time"))

    def asked_to_pledge(self, epoch: int, *, now_ms: int) -> bool:
        """The master of this epoch can't reach etcd: does this replica promise not to campaign for D?

        Only one that can't reach etcd itself does; one that can is more useful as a candidate.
        """
        state = self.view.state
        if self.phase is not Phase.FOLLOWER or state is None or state.epoch != epoch or self.options.unclean:
            return False
        if self._blind_ms > self.contact_ms and now_ms - self._blind_ms < SILENT_MS:
            self._pledged_ms = now_ms + self.options.lease_ms
            return True
        if now_ms - self.contact_ms > SILENT_MS:
            self._begin_look()
        return False

    def pledged(self, epoch: int, replica: int, *, asked_ms: int) -> None:
        if self.term is not None and self.term.epoch == epoch:
            self.term.pledged(replica, asked_ms=asked_ms)

    # ---- time

    def tick(self, *, now_ms: int) -> None:
        term = self.term
        if self.phase is Phase.MASTER and term is not None:
            if now_ms >= self.deadline():
                self._fall("its lease was not renewed in time", now_ms)
            else:
                self._keep(term, now_ms)
        elif self.phase is Phase.RELEASING and term is not None:
            if self._txn is None and term.renewing is None and now_ms >= self._retry_ms:
                self._try_release(term, now_ms)
        elif self.phase in (Phase.REGISTERING, Phase.TAKING) and self._txn is None and now_ms >= self._retry_ms:
            if self.phase is Phase.TAKING:
                self._take(now_ms)
            else:
                self._register(now_ms)
        elif self.phase in (Phase.LOOKING, Phase.FOLLOWER) and self._look is None and now_ms >= self._look_at(now_ms):
            self._begin_look()  # is it still so? An answer also says that etcd is there

    # ---- registration

    def _register(self, now_ms: int) -> None:
        """Tell the group of this process."""
        self.phase = Phase.REGISTERING
        found = registration(self.me, self.view, self.options, may_found=self._may_found)
        if isinstance(found, str):
            self._look_again(now_ms, found)
            return
        self._doubted = found.doubt
        self._transact_state(self._transactions.register(found), found.state)

    def _registered(self, now_ms: int) -> None:
        self._transactions.registered()
        self.phase = Phase.FOLLOWER
        self._note("registered", incarnation=self._transactions.incarnation, cold=self.me.cold)
        self._adopted(now_ms)

    def _look_again(self, now_ms: int, reason: str) -> None:
        self.phase = Phase.LOOKING
        self._retry_ms = now_ms + RETRY_MS
        self._show(Wait(reason))

    # ---- candidate

    def _due(self, now_ms: int) -> Chance | None:
        """When this replica may take over, by what right and on which evidence; None when it may not at all."""
        if self.phase not in (Phase.FOLLOWER, Phase.STOPPING) or self._barred is not None:
            return None
        gone_ms = self._gone_ms if self.view.state is not None and self._gone == self.view.state.epoch else None
        return chance(
            self.me.replica,
            self.view,
            self.options,
            gone_ms=gone_ms,
            pledged_ms=self._pledged_ms,
            slow=now_ms < self._slow_until_ms,
            now_ms=now_ms,
        )

    def _campaign(self, now_ms: int) -> None:
        """A fresh picture is there: if it is still time, stop following, then take over."""
        due = self._due(now_ms)
        if due is None or due.at_ms > now_ms or self._txn is not None:
            return
        self._right = due.right
        self._reason = f"{due.evidence}; {due.right.reason}"
        self._basis = self._transactions.basis
        self._sent, self._tries = None, {}
        self.phase = Phase.STOPPING
        self._shown = None
        self._effects.append(StopFollowing(self._reason))

    def _take(self, now_ms: int) -> None:
        """Every try compares the same revisions, so one of them is done at most; the lease's sequence says which."""
        right, me, new = self._right, self.me, self._sent
        if new is None:
            assert self.view.state is not None
            assert right is not None
            new = taken_over(self.view.state, me.replica, min_isr=self.options.min_isr, lossy=right.lossy, nonce=me.nonce)
        seq = len(self._tries)
        self._tries[seq] = now_ms
        self._transact_state(self._transactions.take_over(self._basis, new, seq=seq), new)

    def _taken(self, now_ms: int) -> None:
        state, lease = self.view.state, self.view.lease
        assert state is not None
        assert lease is not None
        assert self._right is not None
        self.term = Term(
            state.epoch, seq=lease.seq, lease_mod=self._transactions.basis[1], tries=self._tries, options=self.options
        )
        self._known_sets = (state.sss, state.elr)
        self.phase = Phase.MASTER
        self._gone = None
        if self._barred is not None:  # since the transaction was sent
            self._release(self._successor(now_ms), self._barred, now_ms)
            return
        storages = {number: replica.storage for number, replica in self.view.replicas.items()}
        self._effects.append(Lead(state.epoch, state.sss, state.elr, storages, self._right.lossy, self._reason))
        self._adopted(now_ms)

    def _back(self, now_ms: int, reason: str) -> None:
        """The campaign is lost."""
        self.phase = Phase.FOLLOWER
        self._retry_ms = now_ms + self.options.rank_ms + self._rng.randrange(50)
        self._note("campaign_lost", reason=reason)
        self._show_role()

    # ---- master

    def _keep(self, term: Term, now_ms: int) -> None:
        if term.renewing is None and now_ms - term.sent_ms >= self.options.renew_ms:
            self._renew(term, now_ms)
        if term.silent(now_ms) and now_ms - term.asked_ms >= self.options.renew_ms and self._pledges_count():
            term.asked_ms = now_ms
            self._effects.append(AskPledges(term.epoch, tuple(sorted(self._eligible_others()))))
        op = self.view.op
        if op is not None and op.kind == "switchover" and not term.draining and self._barred is None:
            self._switch(term, op.to)
        elif op is not None and op.kind == "elect":  # left there, it would hold for any later time without a master
            self._note("elect_refused", to=op.to, reason="there is a master")
            self._clear_operation()
        if now_ms - self._looked_ms >= REFRESH_MS:
            self._begin_look()
        self._propose(term, now_ms)

    def _pledges_count(self) -> bool:
        state = self.view.state
        return state is not None and state.sss != (self.me.replica,) and not self.options.unclean

    def _eligible_others(self) -> frozenset[int]:
        """Everybody else who could take over, as far as can be known without etcd."""
        state, term = self.view.state, self.term
        if state is None or term is None or not self._pledges_count():
            return frozenset()
        sent = self._sent if self._txn is not None else None
        maybe = set(sent.sss) | set(sent.elr) if sent is not None else set()
        return frozenset({*state.sss, *state.elr, *term.doubtful, *maybe} - {self.me.replica})

    def _renew(self, term: Term, now_ms: int) -> None:
        term.renewing = self._transact(self._transactions.renew(term, seq=term.sending(now_ms)))

    def _renewal_done(self, term: Term, outcome: Outcome | None, now_ms: int) -> None:
        if outcome is None:
            return
        if outcome.succeeded:
            term.committed(term.seq, outcome.revision)
            lease = Lease(term.epoch, self.me.replica, term.seq, self.me.nonce)
            self.view.adopt(Value(self._keys.lease, lease.encode(), outcome.revision), outcome.revision, now_ms=now_ms)
            return
        self._learn(outcome, now_ms)
        self._adopted(now_ms)  # an earlier try may have been done: its lease is there

    def _undecided(self, term: Term) -> bool:
        return term.unanswered or term.lost_mod is not None

    def _propose(self, term: Term, now_ms: int) -> None:
        """Bring the set in etcd to what replication wants, as far as that may be."""
        state = self.view.state
        if state is None or not self._undecided(term) or self._txn is not None or self.phase is not Phase.MASTER:
            return
        if now_ms < self._retry_ms or term.silent(now_ms):
            return  # etcd does not answer; and on pledges nobody new may become eligible
        sss, added = set_to_try(self.me, self.view, term, state)
        if term.wanted is not None and not term.wanted <= sss and now_ms - self._looked_ms >= self.options.renew_ms:
            self._begin_look()  # a registration may have been missed
        if sss == frozenset(state.sss) and term.lost_mod != self._transactions.basis[0]:
            self._decided()
            return  # where a change is lost, any write settles it
        new = changed(state, sss, nonce=self.me.nonce)
        term.doubtful |= added
        term.lost_mod = self._transactions.basis[0]
        self._transact_state(self._transactions.change(new, added=added), new)

    def _decided(self) -> None:
        """What etcd has, and nothing else can come of what was tried."""
        state, term = self.view.state, self.term
        if state is None or term is None or self._txn is not None or term.lost_mod == self._transactions.basis[0]:
            return
        term.doubtful, term.lost_mod, term.unanswered = frozenset(), None, False
        self._known_sets = (state.sss, state.elr)
        self._effects.append(Decided(state.epoch, state.sss, state.elr))

    def _fall(self, reason: str, now_ms: int) -> None:
        """The term is over, whatever etcd says or does not say."""
        self.phase, self.term = Phase.FOLLOWER, None
        self._txn = self._sent = None  # what is under way is learnt when it is done
        self._retry_ms = now_ms
        self._shown = None
        self._effects.append(StepDown(reason))
        if self._leaving:
            self._effects.append(Left())
        self._show_role()

    # ---- handing over

    def _successor(self, now_ms: int) -> int | None:
        state = self.view.state
        if state is None:
            return None
        best = successor_of(self.me.replica, state, live=self.view.live(now_ms))
        return best if best is not None else next((r for r in state.sss if r != self.me.replica), None)

    def _switch(self, term: Term, to: int) -> None:
        state = self.view.state
        if to == self.me.replica or state is None or to not in state.sss:
            self._note(
                "switchover_refused", to=to, reason="it is the master" if to == self.me.replica else "it is not in sync"
            )
            self._clear_operation()
        else:
            self._drain(term, to)

    def _drain(self, term: Term, to: int | None) -> None:
        term.draining, term.successor = True, to
        self._effects.append(Drain(to))

    def _clear_operation(self) -> None:
        if self.view.op is not None:
            self._transact(self._transactions.forget_operation())
            self.view.op = None

    def _release(self, to: int | None, reason: str, now_ms: int) -> None:
        term = self.term
        assert term is not None
        self.phase = Phase.RELEASING
        term.successor = to
        self._shown = None
        self._effects.append(StepDown(reason))
        if self._txn is None and term.renewing is None:
            self._try_release(term, now_ms)

    def _try_release(self, term: Term, now_ms: int) -> None:
        if not holds(self.me, self.view, term):
            self._released("somebody else has it", now_ms)
            return
        if now_ms >= term.lease_deadline_ms:
            self._released("it is over by itself", now_ms)
            return
        self._transact_state(self._transactions.release(term, seq=term.sending(now_ms)), None)

    def _released(self, how: str, now_ms: int) -> None:
        self.phase, self.term = Phase.FOLLOWER, None
        self._txn = self._sent = None
        self._note("lease_released", how=how)
        self._retry_ms = now_ms + self.options.successor_ms
        if self._leaving:
            self._effects.append(Left())
        self._show_role()

    # ---- what comes of transactions

    def _state_done(self, outcome: Outcome | None, now_ms: int) -> None:
        if outcome is None:
            self._retry_ms = now_ms + RETRY_MS
            return  # not known; tried again, on the same revisions
        if outcome.succeeded:
            self._wrote(outcome.revision, now_ms)
        else:
            self._learn(outcome, now_ms)
        self._retry_ms = now_ms
        sent, self._sent = self._sent, None
        if self.phase is Phase.REGISTERING:
            doubted, self._doubted = self._doubted, None
            if doubted is not None and outcome.succeeded:
                self._halt(doubted)
            elif doubted is None and is_registered(self.me, self.view):
                self._registered(now_ms)
            else:
                self._register(now_ms)
        elif self.phase is Phase.TAKING:
            if sent is not None and leads_in(self.me, self.view, sent.epoch):
                self._taken(now_ms)
                return
            self._back(now_ms, "others were faster")
            if self._leaving:
                self._effects.append(Left())
            self._adopted(now_ms)
        elif self.phase is Phase.RELEASING and self.term is not None:
            if not holds(self.me, self.view, self.term):
                self._released("etcd has it", now_ms)
            else:
                self._try_release(self.term, now_ms)
        else:
            self._adopted(now_ms)
            self._decided()

    def _wrote(self, revision: int, now_ms: int) -> None:
        """The last transaction over ``state`` was done: the view is as it made it."""
        for write in self._writes:
            value = write.value if isinstance(write, Put) else None
            self.view.adopt(Value(write.key, value, revision), revision, now_ms=now_ms)

    def _learn(self, outcome: Outcome, now_ms: int) -> None:
        for value in outcome.values:
            self.view.adopt(value, outcome.revision, now_ms=now_ms)

    def _displaced(self, *, known: bool) -> str:
        """Why this process is no longer the one that etcd knows."""
        who = f"broker {self.me.replica} of group {self._keys.group}"
        if known:
            return f"another process has registered as {who}"
        return (
            f"etcd does not know {who} any more: its data was lost, or the group's keys were deleted. "
            f"Start the member that has most with --failover-init, then the others"
        )

    def _adopted(self, now_ms: int) -> None:
        """The view may have changed: draw what follows from it."""
        if self._transactions.incarnation and not is_registered(self.me, self.view):
            self._halt(self._displaced(known=self.me.replica in self.view.replicas))
            return
        term, state, lease = self.term, self.view.state, self.view.lease
        if term is not None and self.phase is Phase.MASTER:
            over = why_over(self.me, self.view, term)
            if over is not None:
                self._fall(over, now_ms)
                return
            assert state is not None
            assert lease is not None
            term.committed(lease.seq, self._transactions.basis[1])
            if self._known_sets != (state.sss, state.elr):  # a member that came back cold has taken itself out
                self._decided()
        elif self.phase is Phase.FOLLOWER:
            self._show_role()

    def _show_role(self) -> None:
        self._show(role_of(self.me, self.view))

    def _show(self, role: Follow | Wait) -> None:
        shown = (role.epoch, role.master, role.address) if isinstance(role, Follow) else (role.reason,)
        if shown != self._shown and self.phase is not Phase.OVER:
            self._shown = shown
            self._effects.append(role)

    # ---- calls

    def _begin_look(self) -> None:
        if self._look is None:
            self._number += 1
            self._look = self._number
            self._effects.append(Look(self._number))

    def _transact(self, txn: Txn) -> int:
        self._number += 1
        self._seen[self._number] = self.view.revision
        self._effects.append(Transact(self._number, txn))
        return self._number

    def _transact_state(self, txn: Txn, new: GroupState | None) -> None:
        assert self._txn is None
        self._sent, self._writes = new, txn.writes
        self._txn = self._transact(txn)

    def _halt(self, reason: str) -> None:
        led = self.phase is Phase.MASTER
        self.phase, self.term, self.halted = Phase.OVER, None, reason
        if led:
            self._effects.append(StepDown(reason))
        self._effects.append(Halt(reason))

    def _note(self, event: str, **fields: object) -> None:
        self._effects.append(Note(event, fields))
