"""The elector's driver: transactions and reads to etcd, a watch, one timer, and roles changed one after the other."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from kourou.broker.machines.coordination import Outcome, Picture, Put, Txn
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
    Resume,
    StepDown,
    StopFollowing,
    Transact,
    Wait,
)
from kourou.broker.machines.electionstate import Hint, Keys, Operation
from kourou.broker.machines.elector import Elector, Phase
from kourou.broker.services.election.coordination import Coordination
from kourou.broker.services.election.roles import Roles
from kourou.broker.services.replication.master import Log
from kourou.core.clock import Clock
from kourou.core.errors import KourouError, NotConnected, OutcomeUnknown

WATCH_AGAIN_S = 0.2
HINT_S = 3.0
HINT_PAUSE_S = 0.05
HINT_LASTS_S = 10
RoleChange = StopFollowing | Lead | Follow | Wait


class Election:
    """``start`` it when the data plane listens; ``leave`` before the process stops, then ``close``."""

    def __init__(
        self,
        store: Coordination,
        me: Candidate,
        keys: Keys,
        options: ElectionOptions,
        roles: Roles,
        *,
        clock: Clock,
        log: Log,
        on_bug: Callable[[str], None],
        on_deadline: Callable[[int | None], None],
    ) -> None:
        """``clock``: one that goes on while the machine sleeps. ``on_deadline``: until when, by it, this broker may answer
        as master; None: it is none."""
        self.elector = Elector(me, keys, options, rng=random.Random())
        self.keys = keys
        self._store = store
        self._roles = roles
        self._clock = clock
        self._log = log
        self._on_bug = on_bug
        self._on_deadline = on_deadline
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changes: deque[RoleChange] = deque()
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
        self._hint_due = asyncio.Event()
        self._hinted: Phase | None = None
        self._renewed_ms = 0
        self._closed = False

    def start(self) -> None:
        self._spawn(self._watch())
        self._spawn(self._change_roles())
        self._spawn(self._hint())
        self._tick()

    async def leave(self, seconds: float) -> None:
        """Hand over, if this broker is the master."""
        self._left.clear()
        self.elector.leave(now_ms=self.now_ms())
        self._perform()
        try:
            async with asyncio.timeout(seconds):
                await self._left.wait()
        except TimeoutError:
            self._log.warning("left_without_release", reason=f"etcd or the successor took longer than {seconds:g} s")

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    # ---- what the broker asks and says

    def now_ms(self) -> int:
        return self._clock.monotonic_ms()

    def leads(self) -> bool:
        return self.elector.leads(self.now_ms())

    def set_wanted(self, epoch: int, members: frozenset[int], incarnations: dict[int, str]) -> None:
        self.elector.set_wanted(epoch, members, incarnations, now_ms=self.now_ms())
        self._perform()

    def outdated(self, epoch: int, source: str) -> None:
        self.elector.outdated(epoch, source, now_ms=self.now_ms())
        self._perform()

    def master_refuses(self, epoch: int) -> None:
        self._log.warning("master_gone", epoch=epoch)
        self.elector.master_refuses(epoch, now_ms=self.now_ms())
        self._perform()

    def slow(self, reason: str) -> None:
        self.elector.slow(reason, now_ms=self.now_ms())
        self._perform()
        self._hint_due.set()

    def alone(self) -> bool:
        given = self.elector.alone(now_ms=self.now_ms())
        self._perform()
        return given

    def session_ended(self) -> None:
        """With the master: how long this log is now may matter to others."""
        self._hint_due.set()

    def held_up(self) -> None:
        self.elector.held_up(now_ms=self.now_ms())
        self._perform()

    def faulty(self, reason: str) -> None:
        self.elector.faulty(reason, now_ms=self.now_ms())
        self._perform()

    def damaged(self, reason: str) -> None:
        self.elector.damaged(reason, now_ms=self.now_ms())
        self._perform()

    def mended(self) -> None:
        self.elector.mended()

    @property
    def barred(self) -> str | None:
        """Why this member does not lead at present, whoever wants it to."""
        return self.elector.readiness.barred

    def asked_to_pledge(self, epoch: int) -> bool:
        pledged = self.elector.asked_to_pledge(epoch, now_ms=self.now_ms())
        self._perform()
        return pledged

    async def request(self, kind: str, to: int) -> None:
        """An operator's wish, for whoever is master, or for ``to``. Raises OutcomeUnknown."""
        wish = Operation(kind, to, f"{random.getrandbits(64):016x}")
        await self._store.transact(Txn((), (Put(self.keys.op, wish.encode()),)))

    def group(self) -> tuple[int, int | None, tuple[int, ...]]:
        """The group's epoch, who leads it, and the sync state set, as etcd has said."""
        state = self.elector.view.state
        return (0, None, ()) if state is None else (state.epoch, state.master, state.sss)

    def status(self) -> dict[str, Any]:
        elector, now = self.elector, self.now_ms()
        state, lease = elector.view.state, elector.view.lease
        return {
            "phase": elector.phase.value,
            "halted": elector.halted,
            "barred": self.barred,
            "epoch": state.epoch if state is not None else None,
            "master": state.master if state is not None else None,
            "sync_state_set": list(state.sss) if state is not None else [],
            "eligible": list(state.elr) if state is not None else [],
            "lossy_epochs": list(state.lossy) if state is not None else [],
            "lease": None
            if lease is None
            else {"epoch": lease.epoch, "broker_id": lease.replica, "released": lease.released},
            "lease_left_ms": max(0, elector.deadline() - now) if elector.phase is Phase.MASTER else None,
            "members": self._members(now),
            "etcd_silent_ms": None if not elector.view.complete else max(0, now - elector.contact_ms),
        }

    def _members(self, now_ms: int) -> list[dict[str, Any]]:
        """What is known of them from etcd; their logs as they were a few seconds ago."""
        view = self.elector.view
        live = view.live(now_ms)
        members = []
        for replica in sorted({*view.replicas, *live}):
            record, hint = view.replicas.get(replica), live.get(replica)
            facts = (
                {} if hint is None else {"phase": hint.phase, "epoch": hint.epoch, "log_end": hint.end, "load": hint.load}
            )
            address = record.address if record is not None else None
            members.append({"broker_id": replica, "address": address, "live": replica in live, **facts})
        return members

    # ---- etcd

    async def _transact(self, effect: Transact) -> None:
        outcome: Outcome | None = None
        try:
            outcome = await self._store.transact(effect.txn)
        except OutcomeUnknown as failure:
            self._log.info("etcd_did_not_answer", reason=str(failure))
        self.elector.done(effect.number, outcome, now_ms=self.now_ms())
        self._perform()

    async def _look(self, effect: Look) -> None:
        picture: Picture | None = None
        try:
            picture = await self._store.read(self.keys.prefix, tries=1)
        except NotConnected as failure:
            self._log.info("etcd_did_not_answer", reason=str(failure))
        self.elector.looked(effect.number, picture, now_ms=self.now_ms())
        self._perform()

    async def _watch(self) -> None:
        """For ever; what is missed between two watches is read."""
        while not self._closed:  # grpcio may raise the end of a stream where it was cancelled
            try:
                picture = await self._store.read(self.keys.prefix)
                self._show(picture.values)
                async with aclosing(self._store.watch(self.keys.prefix, revision=picture.revision + 1)) as changes:  # type: ignore[type-var]
                    async for values in changes:
                        self._show(values)
            except NotConnected as failure:
                self._log.info("etcd_watch_ended", reason=str(failure))
            await asyncio.sleep(WATCH_AGAIN_S)

    def _show(self, values: Any) -> None:
        if values:
            self.elector.changed(tuple(values), now_ms=self.now_ms())
            self._perform()

    async def _hint(self) -> None:
        """That this process is there, and how. Only for order among candidates, and for people."""
        elector = self.elector
        key = self.keys.live(elector.me.replica)
        while not self._closed:
            self._hint_due.clear()
            log = self._roles.position()
            self._hinted = elector.phase
            hint = Hint(
                log.epoch, log.end, elector.able(self.now_ms()) and log.whole, elector.phase.value, self._roles.load()
            )
            try:
                await self._store.hint(key, hint.encode(), seconds=HINT_LASTS_S)
            except NotConnected:
                pass  # the next one
            await asyncio.sleep(HINT_PAUSE_S)
            try:
                async with asyncio.timeout(HINT_S):
                    await self._hint_due.wait()
            except TimeoutError:
                pass

    # ---- time

    def _tick(self) -> None:
        self._timer = None
        if self._closed:
            return
        self.elector.tick(now_ms=self.now_ms())
        self._perform()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self.now_ms()
        due = self.elector.deadline_ms(now)
        if due is not None and not self._closed:
            self._timer = self._loop.call_later(max(0.001, (due - now) / 1000), self._tick)

    # ---- effects

    def _perform(self) -> None:
        while effects := self.elector.take_effects():
            for effect in effects:
                self._do(effect)
        term = self.elector.term
        if term is not None and term.renewed_ms > self._renewed_ms:
            self._renewed_ms = term.renewed_ms
            self._roles.renewed()
        if self.elector.phase is not self._hinted:
            self._hint_due.set()
        self._on_deadline(self.elector.deadline() if self.elector.phase is Phase.MASTER else None)
        self._arm()

    def _do(self, effect: ElectionEffect) -> None:
        match effect:
            case Transact():
                self._spawn(self._transact(effect))
            case Look():
                self._spawn(self._look(effect))
            case StopFollowing() | Lead() | Follow() | Wait():
                self._changes.append(effect)
                self._changed.set()
            case StepDown(reason):
                self._log.warning("stepping_down", reason=reason)
                self._changes.clear()  # a term that did not begin does not begin any more
                self._roles.fence(reason)
            case Decided(epoch, sss, elr):
                self._roles.decided(epoch, sss, elr)
            case Drain(to):
                self._spawn(self._drain(to))
            case Resume(reason):
                self._log.warning("not_handed_over", reason=reason)
                self._roles.resume()
            case AskPledges(epoch, replicas):
                for replica in replicas:
                    self._spawn(self._ask_pledge(epoch, replica))
            case Left():
                self._left.set()
            case Halt(reason):
                self._log.error("election_halted", reason=reason)
                self._roles.halt(reason)
            case Note(event, fields):
                self._log.info(event, **fields)

    async def _change_roles(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._changes:
                change = self._changes.popleft()
                if isinstance(change, Follow | Wait) and any(not isinstance(c, StopFollowing) for c in self._changes):
                    continue  # it is out of date already
                await self._change(change)

    async def _change(self, change: RoleChange) -> None:
        match change:
            case StopFollowing(reason):
                self._log.info("campaign", reason=reason)
                log = await self._roles.quiet()
                self.elector.quiet(log, now_ms=self.now_ms())
                self._perform()
            case Lead():
                term = self.elector.term
                if term is not None and term.epoch == change.epoch:
                    self._log.warning("elected", epoch=change.epoch, reason=change.reason, lossy=change.lossy)
                    await self._roles.lead(change)
            case Follow():
                await self._roles.follow(change)
            case Wait(reason):
                await self._roles.wait(reason)

    async def _drain(self, to: int | None) -> None:
        done = await self._roles.drain(to)
        self.elector.drained(done, now_ms=self.now_ms())
        self._perform()

    async def _ask_pledge(self, epoch: int, replica: int) -> None:
        record = self.elector.view.replicas.get(replica)
        if record is None:
            return
        asked_ms = self.now_ms()
        try:
            pledged = await self._roles.ask_pledge(replica, record.address, epoch)
        except KourouError:
            return
        if pledged:
            self.elector.pledged(epoch, replica, asked_ms=asked_ms)
            self._perform()

    # ---- tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._log.error("election_failed", exc_info=failure)
            self._on_bug(f"the election: {failure!r}")
