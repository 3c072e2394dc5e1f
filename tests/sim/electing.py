"""Failover in the simulator: an elector in each process, and etcd as a model; what ``app.failover`` does around it.

Between etcd's truth, a dict with compare-and-set, and an elector requests are delayed, answers are lost, reads are
old, events come late, twice or never, and etcd is away for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from kourou.broker.machines.coordination import Delete, Put, Txn, Value
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
from kourou.broker.machines.electionstate import GroupState, Hint, Keys, state_of
from kourou.broker.machines.elector import Elector
from kourou.broker.store.incarnation import Incarnations
from tests.sim.coordination import Truth
from tests.sim.network import CLIENTS, Network
from tests.sim.timeline import Timeline
from tests.sim.violation import Ends

if TYPE_CHECKING:
    from tests.sim.process import Process

KEYS = Keys("sim", "group")
CALL_MS = 400
TICK_MS = 20
PROBE_MS = 20
HINT_MS, HINT_LASTS_MS = 3_000, 10_000
DRAIN_MS, DRAIN_PAUSE_MS = 2_000, 10


def _leave() -> None:
    raise Ends("it was asked to", wanted=True)


class Etcd:
    """On the host of the clients: who is cut off from them is cut off from etcd."""

    def __init__(self, timeline: Timeline, network: Network, random: Random) -> None:
        self.truth = Truth()
        self.away = 0  # faults that keep it away
        self._timeline = timeline
        self._network = network
        self._random = random
        self._under_way: dict[int, Txn] = {}  # sent, and not there yet
        self._number = 0
        self._watchers: dict[int, Callable[[tuple[Value, ...]], None]] = {}

    def watch(self, replica: int, show: Callable[[tuple[Value, ...]], None]) -> None:
        self._watchers[replica] = show

    def states_under_way(self) -> list[GroupState]:
        """What may still become the state of the group."""
        writes = [write for txn in self._under_way.values() for write in txn.writes]
        return [state_of(write.value) for write in writes if isinstance(write, Put) and write.key == KEYS.state]

    def transact(self, replica: int, txn: Txn, done: Callable[[object], None]) -> None:
        self._number += 1
        number = self._number
        self._under_way[number] = txn

        def arrive() -> None:
            del self._under_way[number]
            if self.away or self._random.random() < 0.02:
                return
            written = len(self.truth.written)
            outcome = self.truth.transact(txn)
            self._network.carry(CLIENTS, replica, partial(done, outcome))
            if len(self.truth.written) > written:
                self._tell(tuple(self.truth.written[written:]))

        self._network.carry(replica, CLIENTS, arrive)

    def read(self, replica: int, done: Callable[[object], None]) -> None:
        def arrive() -> None:
            if not self.away:
                back = self._random.choice((0, 0, 0, 1, 3))
                self._network.carry(CLIENTS, replica, partial(done, self.truth.read(KEYS.prefix, back=back)))

        self._network.carry(replica, CLIENTS, arrive)

    def write(self, txn: Txn) -> None:
        """An operator's."""
        written = len(self.truth.written)
        self.truth.transact(txn)
        self._tell(tuple(self.truth.written[written:]))

    def hint(self, replica: int, data: bytes) -> None:
        """Without chance: what is said only for order among candidates changes no other event."""
        if self.away or self._network.is_cut(replica, CLIENTS):
            return
        key = KEYS.live(replica)
        self._write_hint(Txn((), (Put(key, data),)))
        mod = self.truth.values[key].mod
        self._timeline.after_ms(HINT_LASTS_MS, lambda: self._write_hint(Txn(((key, mod),), (Delete(key),))))

    def _write_hint(self, txn: Txn) -> None:
        written = len(self.truth.written)
        self.truth.transact(txn)
        for replica, show in self._watchers.items():
            if not self._network.is_cut(CLIENTS, replica):
                self._timeline.after_ms(1, partial(show, tuple(self.truth.written[written:])))

    def _tell(self, values: tuple[Value, ...]) -> None:
        for replica, show in self._watchers.items():
            for _ in range(self._random.choice((0, 1, 1, 1, 1, 1, 2))):
                self._network.carry(CLIENTS, replica, partial(show, values))


class Electing:
    """One process's elector, and the roles that it decides on."""

    def __init__(self, process: Process, etcd: Etcd, *, found: bool = False) -> None:
        self.process = process
        self.target: Follow | None = None
        self._etcd = etcd
        self._changes: deque[StopFollowing | Lead | Follow | Wait] = deque()
        self._renewed_ms = 0
        self._busy = False
        nonce = f"{process.random.getrandbits(64):016x}"
        before = Incarnations.load(process.files)
        before.begun(process.files, nonce, "boot")
        store, settings = process.store, process.settings
        lost = store.end_offset < process.standing.promised
        me = Candidate(
            process.replica,
            process.storage,
            nonce,
            frozenset(before.nonces),
            f"host-{process.replica}:1",
            (process.cold and not settings.sync_flush) or lost,
            Position(store.epoch, store.end_offset, process.complete),
        )
        process.adopt_incarnation(nonce)
        options = ElectionOptions(min_isr=settings.min_isr, ack_all=settings.ack_all, found=found)
        if settings.unclean:  # all of it faster: anybody may take over after ten times the lease
            options = replace(options, lease_ms=1_300, renew_ms=200, leader_change_ms=100, successor_ms=100, unclean=True)
        self.elector = Elector(me, KEYS, options, rng=process.random)
        etcd.watch(process.replica, self._show)
        self._tick()
        self._hint()

    def now_ms(self) -> int:
        return self.process.clock.monotonic_ms()

    def leads(self) -> bool:
        return self.elector.leads(self.now_ms())

    def _show(self, values: tuple[Value, ...]) -> None:
        self.process.whenever(lambda: self._shown(values))

    def _shown(self, values: tuple[Value, ...]) -> None:
        self.elector.changed(values, now_ms=self.now_ms())
        self.perform()

    def _hint(self) -> None:
        self.process.whenever_later(HINT_MS, self._hint)
        store, able = self.process.store, self.process.complete and self.elector.able(self.now_ms())
        hint = Hint(store.epoch, store.end_offset, able, self.elector.phase.value, {})
        self._etcd.hint(self.process.replica, hint.encode())

    def _tick(self) -> None:
        self.process.whenever_later(TICK_MS, self._tick)
        now = self.now_ms()
        due = self.elector.deadline_ms(now)
        if due is not None and due <= now:
            self.elector.tick(now_ms=now)
        self.perform()

    # ---- effects

    def perform(self) -> None:
        while effects := self.elector.take_effects():
            for effect in effects:
                self._do(effect)
        term, leading = self.elector.term, self.process.leading
        if term is not None and term.renewed_ms > self._renewed_ms:
            self._renewed_ms = term.renewed_ms
            if leading is not None:
                leading.renewed()
        self._change_roles()

    def _do(self, effect: ElectionEffect) -> None:
        process = self.process
        match effect:
            case Transact(number, txn):
                self._ask(
                    lambda done: self._etcd.transact(process.replica, txn, done),
                    lambda outcome: self.elector.done(number, outcome, now_ms=self.now_ms()),  # type: ignore[arg-type]
                )
            case Look(number):
                self._ask(
                    lambda done: self._etcd.read(process.replica, done),
                    lambda picture: self.elector.looked(number, picture, now_ms=self.now_ms()),  # type: ignore[arg-type]
                )
            case StopFollowing() | Lead() | Follow() | Wait():
                self._changes.append(effect)
            case StepDown(reason):
                process.note(f"steps down: {reason}")
                self._changes.clear()
                process.fence()
            case Decided(epoch, sss, elr):
                if process.leading is not None and process.leading.epoch == epoch:
                    process.leading.decided(sss, elr)
            case AskPledges(epoch, replicas):
                for replica in replicas:
                    process.network.ask_pledge(process.replica, replica, epoch, partial(self._pledged, epoch, replica))
            case Drain(to):
                self._drain(to, DRAIN_MS)
            case Resume():
                process.seen("switchover: given up")
                if process.leading is not None:
                    process.leading.draining = False
            case Halt(reason):
                raise Ends(reason, wanted=False)
            case Left():
                process.later(0, _leave)
            case Note(event, fields):
                process.note(f"{event} {fields}")
                process.seen(f"elector: {event}")

    def _ask(self, send: Callable[[Callable[[object], None]], None], done: Callable[[object], None]) -> None:
        """One answer, or None when it does not come within the time of a call."""
        over = False

        def answered(answer: object) -> None:
            nonlocal over
            if not over:
                over = True
                done(answer)
                self.perform()

        send(lambda answer: self.process.whenever(lambda: answered(answer)))
        self.process.whenever_later(CALL_MS, lambda: answered(None))

    def _pledged(self, epoch: int, replica: int, asked_ms: int) -> None:
        self.elector.pledged(epoch, replica, asked_ms=asked_ms)
        self.perform()

    def _drain(self, to: int | None, left_ms: int) -> None:
        """Refuse what comes, until the successor has everything."""
        leading = self.process.leading
        done = False
        if leading is not None and not leading.machine.over:
            leading.draining, done = True, leading.has_everything(to)
            if not done and left_ms > 0:
                self.process.whenever_later(DRAIN_PAUSE_MS, lambda: self._drain(to, left_ms - DRAIN_PAUSE_MS))
                return
        self.process.seen("switchover: drained" if done else "switchover: not drained")
        self.elector.drained(done, now_ms=self.now_ms())
        self.perform()

    def leave(self) -> None:
        self.elector.leave(now_ms=self.now_ms())
        self.perform()

    # ---- roles, one change at a time

    def _change_roles(self) -> None:
        while self._changes and not self._busy:
            change = self._changes.popleft()
            if isinstance(change, Follow | Wait) and any(not isinstance(c, StopFollowing) for c in self._changes):
                continue
            self._change(change)

    def _change(self, change: StopFollowing | Lead | Follow | Wait) -> None:
        process = self.process
        match change:
            case StopFollowing():
                self._quiet()
            case Lead():
                term = self.elector.term
                if term is not None and term.epoch == change.epoch:
                    self.target = None
                    process.lead_elected(change, self)
            case Follow():
                self.target = change
                if process.leading is None:
                    self._follow_anew(forget=any(epoch > process.store.epoch for epoch in change.lossy))
            case Wait():
                self.target = None
                if process.leading is None:
                    self._follow_anew(forget=False)

    def _quiet(self) -> None:
        process = self.process
        following = process.following
        if following is not None and following.machine.over and following.halted is None and not following.quiet:
            self._busy = True  # its log is about to be cut
            process.whenever_later(10, self._quiet)
            return
        self._busy = False
        if following is not None:
            following.stop()
            process.note_standing()
        self.elector.quiet(Position(process.store.epoch, process.store.end_offset, process.complete), now_ms=self.now_ms())
        self.perform()

    def _follow_anew(self, *, forget: bool) -> None:
        process = self.process
        following = process.following
        if following is not None:
            following.stop()
            if following.machine.over and following.halted is None:
                return
            process.note_standing()
        if forget:
            process.forget_promises()
        process.follow()

    # ---- the rest of the process

    def link_ended(self, target: Follow) -> None:
        self.process.whenever_later(PROBE_MS, lambda: self._probe(target, 1))

    def _probe(self, target: Follow, tries: int) -> None:
        if self.target is not target or not self.process.network.refuses(self.process.replica, target.master):
            return
        if tries < 2:
            self.process.whenever_later(PROBE_MS, lambda: self._probe(target, tries + 1))
            return
        self.elector.master_refuses(target.epoch, now_ms=self.now_ms())
        self.perform()
