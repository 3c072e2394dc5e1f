"""Decides who of a broker group is its master, together with the group's other electors, through keys in etcd.

    LOOKING --picture--> REGISTERING --committed--> FOLLOWER --may take over--> STOPPING --quiet--> TAKING
                                                       ^  ^---somebody else did-----------------------|
                                                       |---lease over, higher epoch--- MASTER <--committed
                                                       '---released------ RELEASING <--drained--'

It trusts committed transactions alone. A picture or an event only says what to try; a transaction compares the very
revisions that it was decided upon. The outcome of a transaction whose answer is lost becomes known when the same, or a
later one over the same keys, has an answer: values carry the nonce of their writer.

One transaction over ``state`` and one over ``lease`` may be under way at a time.

Here are the phases, and what moves from one to the next. What each of them needs is known by parts that know no phase:

    electorview           what etcd has shown            electorcalls         what is under way with etcd
    electorrole           what follows from the view     electortransactions  what is compared and written
    electorregistration   who this process is            electorreadiness     what speaks against taking over
    electorchance         when it may take over          electorcampaign      the tries to
    electorterm           until when the master leads    electorsets          the sets of its term
    electorhandover       to whom, and how, it hands over
"""

from __future__ import annotations

import random
from enum import Enum

from kourou.broker.machines.coordination import Outcome, Picture, Value
from kourou.broker.machines.election import (
    AskPledges,
    Candidate,
    ElectionEffect,
    ElectionOptions,
    Follow,
    Halt,
    Lead,
    Left,
    Note,
    Position,
    StepDown,
    StopFollowing,
    Wait,
)
from kourou.broker.machines.electionstate import Keys, Lease
from kourou.broker.machines.electorcalls import RETRY_MS, Calls
from kourou.broker.machines.electorcampaign import Campaign
from kourou.broker.machines.electorchance import Chance
from kourou.broker.machines.electorhandover import Handover
from kourou.broker.machines.electorreadiness import Readiness
from kourou.broker.machines.electorregistration import registration
from kourou.broker.machines.electorrole import displaced, holds, is_registered, leads_in, role_of, why_over
from kourou.broker.machines.electorsets import Sets
from kourou.broker.machines.electorterm import SILENT_MS, Term
from kourou.broker.machines.electortransactions import Transactions
from kourou.broker.machines.electorview import ElectorView

BLIND_MS = 1_500  # since etcd last did not answer; a follower asks it again every second and a bit
QUIET_MS = 300  # after a renewal should have been seen: is etcd there?
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
        self.campaign: Campaign | None = None  # the last
        self.readiness = Readiness(me.replica, options, self.view)
        self._keys = keys
        self._rng = rng
        self._may_found = may_found
        self._effects: list[ElectionEffect] = []  # everybody's, in order
        self._transactions = Transactions(me, keys, self.view)
        self._calls = Calls(self.view, self._effects)
        self._sets = Sets(me, options, self.view, self._transactions, self._calls, self._effects)
        self._handover = Handover(me, self.view, self._transactions, self._calls, self._effects)
        self._doubted: str | None = None  # why this process does not belong to what etcd has
        self._shown: tuple[object, ...] | None = None  # the role that the driver was told
        self._leaving = False

    def take_effects(self) -> list[ElectionEffect]:
        effects = list(self._effects)
        self._effects.clear()
        return effects

    # ---- answers

    @property
    def contact_ms(self) -> int:
        """When etcd last answered."""
        return self._calls.contact_ms

    def leads(self, now_ms: int) -> bool:
        """May this replica confirm, answer reads and grant locks as master?"""
        return self.phase is Phase.MASTER and now_ms < self.deadline()

    def deadline(self) -> int:
        """When the term ends unless it is renewed, by this replica's clock."""
        return self.term.deadline_ms(self._sets.eligible_others()) if self.term is not None else 0

    def deadline_ms(self, now_ms: int) -> int | None:
        """When ``tick`` wants to run next; None: when something else happens."""
        term, calls = self.term, self._calls
        if self.phase is Phase.MASTER and term is not None:
            times = [self.deadline()]
            if term.renewing is None:
                times.append(term.sent_ms + self.options.renew_ms)
            if term.silent(now_ms):
                times.append(term.asked_ms + self.options.renew_ms)
            if self._sets.undecided and not calls.busy:
                times.append(max(calls.retry_ms, now_ms))
            if not calls.looking:
                times.append(calls.looked_ms + REFRESH_MS)
            return min(times)
        if self.phase is Phase.RELEASING and term is not None:
            return None if calls.busy or term.renewing is not None else calls.retry_ms
        if self.phase in (Phase.REGISTERING, Phase.TAKING):
            return None if calls.busy else calls.retry_ms
        looks = self.phase in (Phase.LOOKING, Phase.FOLLOWER) and not calls.looking
        return self._look_at(now_ms) if looks else None

    def _look_at(self, now_ms: int) -> int:
        """When all keys are read: at first; before a take-over, when nothing is heard, and now and then."""
        calls = self._calls
        if self.phase is Phase.LOOKING:
            return calls.retry_ms
        due = self._due(now_ms)
        at_ms = calls.looked_ms + REFRESH_MS
        if self.view.lease is not None and not self.view.lease.released:  # renewals should be seen
            at_ms = min(at_ms, max(calls.contact_ms, calls.looked_ms) + self.options.renew_ms + QUIET_MS)
        return max(calls.retry_ms, at_ms if due is None else min(at_ms, due.at_ms))

    # ---- facts: etcd

    def looked(self, number: int, picture: Picture | None, *, now_ms: int) -> None:
        if not self._calls.looked(number, picture, now_ms=now_ms) or self._lost_history():
            return
        self._adopted(now_ms)
        if self.phase is Phase.LOOKING:
            self._register(now_ms)
        elif self.phase is Phase.FOLLOWER:
            self._stand(now_ms)

    def changed(self, values: tuple[Value, ...], *, now_ms: int) -> None:
        """A watch has shown this."""
        self._calls.changed(values, now_ms=now_ms)
        if self.view.complete and not self._lost_history():
            self._adopted(now_ms)

    def done(self, number: int, outcome: Outcome | None, *, now_ms: int) -> None:
        self._calls.answered(number, outcome, now_ms=now_ms)
        if self._lost_history():
            return
        term = self.term
        if term is not None and number == term.renewing:
            term.renewing = None
            self._renewal_done(term, outcome, now_ms)
        elif self._calls.ends_state(number):
            self._state_done(outcome, now_ms)
        elif outcome is not None:  # of an earlier role
            self._calls.learn(outcome, now_ms=now_ms)
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
        state, campaign, due = self.view.state, self.campaign, self._due(now_ms)
        assert campaign is not None
        if not log.whole:
            self._back(now_ms, "its log does not reach up to the state that it took a copy of")
        elif (
            state is None
            or log.epoch > state.epoch
            or due is None
            or due.at_ms > now_ms
            or self._transactions.basis != campaign.basis
        ):
            self._back(now_ms, "others were faster")
        else:
            self.phase = Phase.TAKING
            self._take(campaign, now_ms)

    def master_refuses(self, epoch: int, *, now_ms: int) -> None:
        """The session with the master of this epoch ended, and its host refuses connections: its process has ended."""
        self.readiness.master_gone(epoch, now_ms)

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
            self._sets.want(sss, incarnations)
            self._sets.propose(term, now_ms)

    def faulty(self, reason: str, *, now_ms: int) -> None:
        """This replica can't be master any more: its disk fails."""
        self.readiness.bar(reason)
        self._give_up(reason, now_ms)

    def damaged(self, reason: str, *, now_ms: int) -> None:
        """Its log is not what it was: it can't be master until ``mended``."""
        self.readiness.damaged(reason)
        self._give_up(reason, now_ms)

    def mended(self) -> None:
        self.readiness.mended()

    def _give_up(self, reason: str, now_ms: int) -> None:
        if self.phase is Phase.MASTER and self.term is not None:
            self._release(self.term, None, reason, now_ms)

    def slow(self, reason: str, *, now_ms: int) -> None:
        """This replica serves clients badly: hand over, if somebody is there who may do better."""
        known = self.readiness.slow(now_ms)
        if self.phase is Phase.MASTER:
            self._handover.slow(reason, known=known, now_ms=now_ms)

    def alone(self, *, now_ms: int) -> bool:
        """Nobody follows this master, so it confirms nothing. Does it give the lease to somebody whom others may reach?"""
        term = self.term
        to = self._handover.reachable(now_ms) if self.phase is Phase.MASTER else None
        if term is None or to is None:
            return False
        self._note("alone", successor=to)
        self.readiness.alone(now_ms)
        self._release(term, to, f"nobody follows it; {to} has everything, too", now_ms)
        return True

    def able(self, now_ms: int) -> bool:
        """Would it take over, if it was its turn?"""
        return self.readiness.fit(now_ms) and self.phase in (Phase.FOLLOWER, Phase.STOPPING, Phase.TAKING)

    def held_up(self, *, now_ms: int) -> None:
        """This replica was cut off from its clients: nothing had moved its lease on in time, as far as could be seen."""
        if self.phase is Phase.MASTER:
            self._fall("it was held up until its lease was over", now_ms)

    def leave(self, *, now_ms: int) -> None:
        """The process is about to stop: hand over. Answered by ``Left``."""
        self._leaving = True
        self.readiness.bar("it is stopping")
        if self.phase in (Phase.TAKING, Phase.RELEASING):
            return  # ``Left`` when etcd has nothing of it, or the lease is over: else the group would wait for its end
        if self.phase is not Phase.MASTER:
            self._effects.append(Left())
        elif not self._handover.draining:
            self._handover.drain(self._handover.successor(now_ms))

    def drained(self, done: bool, *, now_ms: int) -> None:
        """``done``: the successor has everything."""
        term, to = self.term, self._handover.to
        if term is None or self.phase is not Phase.MASTER or not self._handover.draining:
            return
        if self._handover.drained(done, leaving=self._leaving):
            self._release(term, to, "it hands over" if to is None else f"it hands over to {to}", now_ms)

    def asked_to_pledge(self, epoch: int, *, now_ms: int) -> bool:
        """The master of this epoch can't reach etcd: does this replica promise not to campaign for D?

        Only one that can't reach etcd itself does; one that can is more useful as a candidate.
        """
        state = self.view.state
        if self.phase is not Phase.FOLLOWER or state is None or state.epoch != epoch or self.options.unclean:
            return False
        if self._calls.blind_ms > self.contact_ms and now_ms - self._calls.blind_ms < BLIND_MS:
            self.readiness.pledge(now_ms)
            return True
        if now_ms - self.contact_ms > SILENT_MS:
            self._calls.look()
        return False

    def pledged(self, epoch: int, replica: int, *, asked_ms: int) -> None:
        if self.term is not None and self.term.epoch == epoch:
            self.term.pledged(replica, asked_ms=asked_ms)

    # ---- time

    def tick(self, *, now_ms: int) -> None:
        term, calls = self.term, self._calls
        if self.phase is Phase.MASTER and term is not None:
            if now_ms >= self.deadline():
                self._fall("its lease was not renewed in time", now_ms)
            else:
                self._keep(term, now_ms)
        elif self.phase is Phase.RELEASING and term is not None:
            if not calls.busy and term.renewing is None and now_ms >= calls.retry_ms:
                self._try_release(term, now_ms)
        elif self.phase in (Phase.REGISTERING, Phase.TAKING) and not calls.busy and now_ms >= calls.retry_ms:
            if self.phase is Phase.REGISTERING:
                self._register(now_ms)
            elif self.campaign is not None:
                self._take(self.campaign, now_ms)
        elif self.phase in (Phase.LOOKING, Phase.FOLLOWER) and not calls.looking and now_ms >= self._look_at(now_ms):
            calls.look()  # is it still so? An answer also says that etcd is there

    # ---- registration

    def _register(self, now_ms: int) -> None:
        """Tell the group of this process."""
        self.phase = Phase.REGISTERING
        found = registration(self.me, self.view, self.options, may_found=self._may_found)
        if isinstance(found, str):
            self._look_again(now_ms, found)
            return
        self._doubted = found.doubt
        self._calls.transact_state(self._transactions.register(found), found.state)

    def _registered(self, now_ms: int) -> None:
        self._transactions.registered()
        self.phase = Phase.FOLLOWER
        self._note("registered", incarnation=self._transactions.incarnation, cold=self.me.cold)
        self._adopted(now_ms)

    def _look_again(self, now_ms: int, reason: str) -> None:
        self.phase = Phase.LOOKING
        self._calls.retry_ms = now_ms + RETRY_MS
        self._show(Wait(reason))

    # ---- candidate

    def _due(self, now_ms: int) -> Chance | None:
        """When this replica may take over, by what right and on which evidence; None when it may not at all."""
        candidate = self.phase in (Phase.FOLLOWER, Phase.STOPPING)
        return self.readiness.chance(now_ms) if candidate else None

    def _stand(self, now_ms: int) -> None:
        """A fresh picture is there: if it is still time, stop following, then take over."""
        due, state = self._due(now_ms), self.view.state
        if due is None or state is None or due.at_ms > now_ms or self._calls.busy:
            return
        self.campaign = Campaign(self.me, due, state, basis=self._transactions.basis, min_isr=self.options.min_isr)
        self.phase = Phase.STOPPING
        self._shown = None
        self._effects.append(StopFollowing(self.campaign.reason))

    def _take(self, campaign: Campaign, now_ms: int) -> None:
        seq = campaign.sending(now_ms)
        self._calls.transact_state(self._transactions.take_over(campaign.basis, campaign.new, seq=seq), campaign.new)

    def _taken(self, campaign: Campaign, now_ms: int) -> None:
        state, lease = self.view.state, self.view.lease
        assert state is not None
        assert lease is not None
        lease_mod = self._transactions.basis[1]
        self.term = Term(state.epoch, seq=lease.seq, lease_mod=lease_mod, tries=campaign.tries, options=self.options)
        self._sets.begin(state)
        self._handover.begin()
        self.phase = Phase.MASTER
        self.readiness.led()
        barred = self.readiness.barred
        if barred is not None:  # since the transaction was sent
            self._release(self.term, self._handover.successor(now_ms), barred, now_ms)
            return
        storages = {number: replica.storage for number, replica in self.view.replicas.items()}
        self._effects.append(Lead(state.epoch, state.sss, state.elr, storages, campaign.lossy, campaign.reason))
        self._adopted(now_ms)

    def _back(self, now_ms: int, reason: str) -> None:
        """The campaign is lost."""
        self.phase = Phase.FOLLOWER
        self._calls.retry_ms = now_ms + self.options.rank_ms + self._rng.randrange(50)
        self._note("campaign_lost", reason=reason)
        self._show_role()

    # ---- master

    def _keep(self, term: Term, now_ms: int) -> None:
        sets = self._sets
        if term.renewing is None and now_ms - term.sent_ms >= self.options.renew_ms:
            term.renewing = self._calls.transact(self._transactions.renew(term, seq=term.sending(now_ms)))
        if term.silent(now_ms) and now_ms - term.asked_ms >= self.options.renew_ms and sets.pledges_count():
            term.asked_ms = now_ms
            self._effects.append(AskPledges(term.epoch, tuple(sorted(sets.eligible_others()))))
        self._handover.asked(barred=self.readiness.barred is not None)
        if now_ms - self._calls.looked_ms >= REFRESH_MS:
            self._calls.look()
        sets.propose(term, now_ms)

    def _renewal_done(self, term: Term, outcome: Outcome | None, now_ms: int) -> None:
        if outcome is None:
            return
        if outcome.succeeded:
            term.committed(term.seq, outcome.revision)
            lease = Lease(term.epoch, self.me.replica, term.seq, self.me.nonce)
            self.view.adopt(Value(self._keys.lease, lease.encode(), outcome.revision), outcome.revision, now_ms=now_ms)
            return
        self._calls.learn(outcome, now_ms=now_ms)
        self._adopted(now_ms)  # an earlier try may have been done: its lease is there

    def _fall(self, reason: str, now_ms: int) -> None:
        """The term is over, whatever etcd says or does not say."""
        self.phase, self.term = Phase.FOLLOWER, None
        self._calls.forget_state()
        self._calls.retry_ms = now_ms
        self._shown = None
        self._effects.append(StepDown(reason))
        if self._leaving:
            self._effects.append(Left())
        self._show_role()

    def _release(self, term: Term, to: int | None, reason: str, now_ms: int) -> None:
        self.phase = Phase.RELEASING
        self._handover.to = to
        self._shown = None
        self._effects.append(StepDown(reason))
        if not self._calls.busy and term.renewing is None:
            self._try_release(term, now_ms)

    def _try_release(self, term: Term, now_ms: int) -> None:
        gone = self._handover.release(term, now_ms)
        if gone is not None:
            self._released(gone, now_ms)

    def _released(self, how: str, now_ms: int) -> None:
        self.phase, self.term = Phase.FOLLOWER, None
        self._calls.forget_state()
        self._note("lease_released", how=how)
        self._calls.retry_ms = now_ms + self.options.successor_ms
        if self._leaving:
            self._effects.append(Left())
        self._show_role()

    # ---- what comes of transactions

    def _state_done(self, outcome: Outcome | None, now_ms: int) -> None:
        if outcome is None:
            self._calls.retry_ms = now_ms + RETRY_MS
            return  # not known; tried again, on the same revisions
        self._calls.learn_state(outcome, now_ms=now_ms)
        self._calls.retry_ms = now_ms
        if self.phase is Phase.REGISTERING:
            doubted, self._doubted = self._doubted, None
            if doubted is not None and outcome.succeeded:
                self._halt(doubted)
            elif doubted is None and is_registered(self.me, self.view):
                self._registered(now_ms)
            else:
                self._register(now_ms)
        elif self.phase is Phase.TAKING:
            if self.campaign is not None and leads_in(self.me, self.view, self.campaign.new.epoch):
                self._taken(self.campaign, now_ms)
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
            if self.term is not None:
                self._sets.decided()

    def _adopted(self, now_ms: int) -> None:
        """The view may have changed: draw what follows from it."""
        if self._transactions.incarnation and not is_registered(self.me, self.view):
            self._halt(displaced(self.me, self.view))
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
            self._sets.shown(state)
        elif self.phase is Phase.FOLLOWER:
            self._show_role()

    def _show_role(self) -> None:
        self._show(role_of(self.me, self.view))

    def _show(self, role: Follow | Wait) -> None:
        shown = (role.epoch, role.master, role.address) if isinstance(role, Follow) else (role.reason,)
        if shown != self._shown and self.phase is not Phase.OVER:
            self._shown = shown
            self._effects.append(role)

    def _halt(self, reason: str) -> None:
        led = self.phase is Phase.MASTER
        self.phase, self.term, self.halted = Phase.OVER, None, reason
        if led:
            self._effects.append(StepDown(reason))
        self._effects.append(Halt(reason))

    def _note(self, event: str, **fields: object) -> None:
        self._effects.append(Note(event, fields))
