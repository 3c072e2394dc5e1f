"""A member of a broker group: a ``BrokerNode`` that can be a slave, or a master that has slaves.

    open_storage --begin_term--> (slaves dial in; the term's first frame is confirmed) --build--> a master that serves
         '-------follow--------> a slave --begin_term--> …

A slave whose log has to be cut, and a master that steps down, are closed; the directory is opened again in the new role.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from kourou.app.membermetrics import master_metrics, slave_metrics
from kourou.app.node import BrokerNode
from kourou.broker.edge.messages import MessageHandlers
from kourou.broker.edge.queries import QueryHandlers
from kourou.broker.edge.replication import ReplicaHandlers, TailHandlers
from kourou.broker.machines.history import next_epoch
from kourou.broker.machines.replication import LogFacts, Member
from kourou.broker.machines.replicationmaster import ReplicationMaster
from kourou.broker.machines.replicationslave import ReplicationSlave
from kourou.broker.services.journal import Journal
from kourou.broker.services.replication.master import MasterReplication
from kourou.broker.services.replication.messages import CopyFacts
from kourou.broker.services.replication.slave import Dial, SlaveReplication
from kourou.broker.services.replication.tail import read_tail
from kourou.broker.services.scrubbing import STEP_S, Scrubber
from kourou.broker.store import fullcopy
from kourou.broker.store.copying import cut_back, has_state_for
from kourou.broker.store.files import OsFiles
from kourou.broker.store.fullcopy import Copy
from kourou.broker.store.promotion import withdraw
from kourou.broker.store.standing import MASTER, PROMOTED, SLAVE, StandingFile
from kourou.core.errors import FlushFailed
from kourou.core.wire import Code
from kourou.runtime.tasks import Periodic
from kourou.transport.server import Handler

MIB = 1024 * 1024
NEVER_HOURS = 24 * 3650
MEMORY_SHARE = 0.4  # of the machine's, that surely holds the log's end; RocketMQ's default too


class MemberNode(BrokerNode):
    master: MasterReplication | None = None
    slave: SlaveReplication | None = None
    on_let_go: Callable[[], None] = staticmethod(lambda: None)  # the process ends, and all is durable
    on_damaged: Callable[[str], None] = staticmethod(lambda reason: None)  # other members have the log whole
    on_whole: Callable[[], None] | None = None  # somebody waits for a slave to have read all of its log
    on_mended: Callable[[], None] = staticmethod(lambda: None)  # the state is to be made anew from the log
    was_in_sync = False  # it was promoted, which came to nothing
    emptied = False  # it had a log, and threw it away
    lacks = False  # part of the log was damaged that the state should have been made of
    _scrubber: Scrubber | None = None
    copy: Copy | None = None  # of another member, which the log has to catch up with

    def open_storage(self) -> None:
        super().open_storage()
        self.standing = StandingFile(self.store.files)
        if self.standing.role == PROMOTED:
            self.was_in_sync = True  # and has followed nobody since
            self._log.warning("promotion_was_not_confirmed", epoch=self.standing.begun)
        if withdraw(self.store, self.standing):
            self.standing.close()
            self.store.close()
            super().open_storage()
            self.standing = StandingFile(self.store.files)
        self.lacks = self._is_lacking()
        self.metrics.add(lambda: master_metrics(self))  # of the role that there is; it may change more than once
        self.metrics.add(lambda: slave_metrics(self))
        self.me = Member(self.identity.cluster, self.identity.broker, self.identity.broker_id, self.identity.storage_uuid)

    def copied_from(self, files: OsFiles) -> Copy | None:
        self.copy = fullcopy.load(files)
        return self.copy

    def _is_lacking(self) -> bool:
        return any(end > self.folded_from for _, end in self.store.damaged)

    @property
    def complete(self) -> bool:
        """Is the log behind all that is in the state, and has it not just been thrown away?"""
        if self.emptied and self.store.end_offset == 0:
            return False
        return self.copy is None or self.store.end_offset >= self.copy.offset

    @property
    def epoch(self) -> int:
        """The highest that this member knows of."""
        heard = self.slave.machine.epoch if self.slave is not None else 0
        return max(self.store.epoch, self.standing.epoch, heard)

    def heard_of(self, epoch: int) -> None:
        """Somebody knows of this one: what this member begins is above it."""
        self.note_standing()
        standing = self.standing
        if epoch > standing.epoch:
            standing.note(epoch=epoch, confirm=standing.confirm, promised=standing.promised, role=standing.role)

    @property
    def role(self) -> str:
        if self.master is not None:
            return "master" if self.built else "starting"
        return "slave"

    def _facts(self) -> LogFacts:
        store = self.store
        return LogFacts(tuple(store.epochs.entries), store.min_offset, store.end_offset, store.synced_offset)

    # ---- master

    def begin_term(
        self, *, promoted: bool, on_step_down: Callable[[int, str], None], refused: Callable[[str], Awaitable[bool]]
    ) -> MasterReplication:
        """Begin an epoch and let slaves dial in. ``build`` the services when ``serving`` is set."""
        options, store = self.options, self.store
        epoch = next_epoch(max(self.epoch, self.standing.begun), replica=self.me.replica, promoted=promoted)
        confirm = self.enter_term(epoch, promoted=promoted and options.needs_others)
        if self.slave is not None:
            self.slave.promoted(epoch)
            self.slave = None
        machine = ReplicationMaster(
            self.me,
            self._facts(),
            epoch=epoch,
            confirm=confirm,
            ack_all=options.ack == "all",
            min_isr=options.min_isr,
            sync_flush=options.flush == "sync",
            lag_ms_max=int(options.lag_max_s * 1000),
            degrades=options.on_shortage == "degrade",
        )
        waits = options.ack == "all"
        self.journal = self.new_journal(confirmed=machine.confirm if waits else None)
        self.master = MasterReplication(
            store, machine, clock=self.clock, read_executor=self._read_pool, log=self._log, on_step_down=on_step_down,
            refused=refused, catchup_bytes_s=options.catchup_mib_s * MIB,
        )  # fmt: skip
        self._tell(self.master)
        if waits:
            self._attach(self.journal, self.master)
        else:  # a master without slaves has nobody to ask
            self.master.attach = partial(self._attach, self.journal, self.master)
            self.master.serving.set()
        return self.master

    def enter_term(self, epoch: int, *, promoted: bool = False) -> int:
        """The role is durable before the epoch's frame is; the C that was known before. ``promoted``: it counts only once
        another member has confirmed it."""
        self.note_standing()
        standing = self.standing
        confirm, promised = standing.confirm, standing.promised
        if promoted:
            standing.note(epoch=standing.epoch, confirm=confirm, promised=promised, role=PROMOTED, begun=epoch)
        else:
            standing.note(epoch=epoch, confirm=confirm, promised=promised, role=MASTER)
        try:
            self.store.begin_epoch(epoch, store_ms=self.clock.wall_ms())
        except FlushFailed as failure:
            self._on_failure(str(failure))
            raise
        return confirm

    def _tell(self, master: MasterReplication) -> None:
        """Who is told of what comes of it."""
        master.moved = self.journal.moved
        master.on_serving = self.note_standing
        master.on_damaged = self.on_damaged

    def build(self) -> None:
        self.note_standing()  # from here on there may be more in the log than the term's first frame
        super().build()
        self.upkeep.held = self.lacks and self.options.needs_others  # others have it whole
        if self.master is not None:
            self.master.lease_ms = self.leases.wall_ms
        if self.options.slave_reads:
            self._far_bytes = self.options.slave_reads_behind_mib * MIB or int(MEMORY_SHARE * _memory_bytes())
            self.delivery.slaves_for = self._slaves_for

    def _slaves_for(self, behind: int) -> list[int]:
        return self.master.in_sync() if behind > self._far_bytes and self.master is not None else []

    @staticmethod
    def _attach(journal: Journal, master: MasterReplication) -> None:
        if journal.replicas is None:
            journal.replicas = master
            journal.moved()

    def master_handlers(self) -> dict[int, Handler]:
        assert self.master is not None
        return ReplicaHandlers(self.master, self.store.files.read, executor=self._read_pool).table()

    async def release(self, below: int) -> int:
        lowest = await super().release(below) if self.built else below
        if not self.built:
            timers = self.state.timers.lowest_log_offset()
            lowest = below if timers is None else min(below, timers)
        if self.master is not None:
            needed = self.master.machine.needed_from(lagging_bytes_max=self.options.retain_for_lagging_mib * MIB)
            lowest = lowest if needed is None else min(lowest, needed)
        return min(lowest, self.journal.confirmed)

    # ---- slave

    def follow(
        self,
        dial: Dial,
        *,
        address: str | None,
        on_truncate: Callable[[int], None],
        on_copy: Callable[[CopyFacts, bytes], None],
        on_changed: Callable[[], None],
    ) -> SlaveReplication:
        options, store, state = self.options, self.store, self.state
        standing = self.standing
        standing.note(epoch=self.epoch, confirm=standing.confirm, promised=standing.promised, role=SLAVE)
        machine = ReplicationSlave(
            self.me,
            rng=random.Random(),
            end=store.end_offset,
            flushed=store.synced_offset,
            epoch=self.epoch,
            confirm=standing.confirm,
            promised=standing.promised,
            learner=options.learner,
            copying=None if self.copy is None or self.complete else self.copy.epoch,
            address=address,
        )
        self.journal = self.new_journal(confirmed=machine.confirm)
        self.slave = SlaveReplication(
            store, state, self.journal, machine, dial=dial, clock=self.clock, log=self._log, on_truncate=on_truncate,
            on_copy=on_copy, on_changed=on_changed,
        )  # fmt: skip
        self.slave.apply_from = self.copy.offset if self.copy is not None else 0
        self.journal.replicas = self.slave
        self.build_reading()
        return self.slave

    def slave_handlers(self) -> dict[int, Handler]:
        """Reading, below what the master said is confirmed."""
        queries = QueryHandlers(self.positions, self.lookup, None, turns=self.turns)
        return {
            Code.FETCH: MessageHandlers(None, self.fetch).fetch,
            Code.OFFSETS: queries.offsets,
            Code.LOOKUP: queries.lookup,
            **TailHandlers(
                lambda value: read_tail(self.store, self.identity, value), self.store.files.read, executor=self._read_pool
            ).table(),
        }

    # ---- upkeep

    def keep_member(self, tasks: Periodic) -> None:
        """What every member does, whatever its role."""
        tasks.every(1.0, "standing", self.note_standing)
        wanted = self.on_whole if self.slave is not None else None
        if self.options.scrub_hours or wanted is not None:
            self._scrubber = Scrubber(
                self.store, executor=self._upkeep_pool, clock=self.clock, log=self._log,
                every_ms=int((self.options.scrub_hours or NEVER_HOURS) * 3_600_000), on_damaged=self._scrubbed_out,
                mend=self._mend if self.slave is not None else None,  # a master has nobody to fetch from
                on_whole=wanted, known=self.store.damaged,
            )  # fmt: skip
            tasks.every(STEP_S, "scrub", self._scrubber.step)
        if self.built:
            return
        tasks.every(self.options.flush_interval_ms / 1000, "flush", self.journal.flush_periodically)
        if self.slave is not None:
            tasks.every(0.1, "seal", self.upkeep.seal)
            tasks.every(0.1, "mend", self.upkeep.mend)
            tasks.every(1.0, "snapshot", self._snapshot_if_due)
            tasks.every(1.0, "disk", self.upkeep.watch_disk)
            tasks.every(5.0, "retention", self.upkeep.retain)
            tasks.every(30.0, "timer files", self.slave.keep)

    async def _mend(self, start: int, end: int) -> None:
        """Raises KourouError."""
        assert self.slave is not None
        try:
            await self.slave.refetch(start, end, executor=self._upkeep_pool)
        except FlushFailed as failure:
            self.journal.fail(failure)
            raise
        if self.lacks and not self._is_lacking():
            self.on_mended()

    def _scrubbed_out(self, reason: str) -> None:
        """A master without others in sync goes on: there is nobody who could do better. A slave mends itself."""
        if self.master is not None and self.master.in_sync():
            self.on_damaged(f"its log is damaged: {reason}")

    @property
    def damaged(self) -> str | None:
        """What is wrong with the log, as far as that was found since the start."""
        if self.master is not None and self.master.damaged is not None:
            return self.master.damaged
        if self._scrubber is not None and self._scrubber.damaged:
            return f"damaged at {', '.join(map(str, self._scrubber.damaged))}"
        return None

    async def _snapshot_if_due(self) -> None:
        if self.lacks:
            return
        if self.copy is None:
            await self.upkeep.snapshot_if_due()
        elif self.complete:
            await self.upkeep.snapshot()
            if self.store.snapshot_offset > self.journal.confirmed:
                return  # it may have to be cut away: then the copied one still counts
            fullcopy.end(self.store.files)
            self._log.info("copy_complete", log_offset=self.copy.offset)
            self.copy = None

    def note_standing(self) -> None:
        standing = self.standing
        if self.master is not None:
            confirm = self.journal.confirmed
            promised = confirm if self.master.machine.ack_all else standing.promised
            epoch, role = self.epoch, MASTER
            if standing.role == PROMOTED and not self.master.machine.serving:
                epoch, role = standing.epoch, PROMOTED
        elif standing.role == PROMOTED:
            return  # its first frame could not be written
        elif self.slave is not None:
            machine = self.slave.machine
            confirm, promised, epoch, role = machine.confirm, machine.promised, max(self.epoch, machine.epoch), SLAVE
            self.lease_ahead_ms = self.slave.lease_ahead_ms
        else:
            return
        standing.note(epoch=epoch, confirm=confirm, promised=promised, role=role)

    async def leave(self, *, epoch: int = 0, cut_to: int | None = None, anew: tuple[CopyFacts, bytes] | None = None) -> None:
        """Give up the role, at once and without a snapshot; the directory is to be opened anew as a slave's.

        ``epoch``: the higher one that was heard of. ``cut_to``: where the log parts from the master's. ``anew``: it begins
        with a copy of the master's.
        """
        await self._stop_replication()
        if self.built:
            self.timers.stop()
            self.shared.stop()
            self.lag.stop()
        self.journal.abandon()
        self.note_standing()
        standing = self.standing
        confirm = standing.confirm if cut_to is None else min(standing.confirm, cut_to)
        standing.note(epoch=max(epoch, self.epoch), confirm=confirm, promised=standing.promised, role=SLAVE)
        try:
            await self.journal.sync_now()
        except FlushFailed as failure:
            self._log.error("not_durable", reason=str(failure))
        for pool in (self._sync_pool, self._read_pool, self._upkeep_pool):
            pool.shutdown(wait=True)
        files = self.store.files
        if anew is not None:
            facts, data = anew
            fullcopy.erase(files)
            fullcopy.begin(files, start=facts.start, history=facts.history, data=data, epoch=self.epoch)
            standing.note(epoch=standing.epoch, confirm=0, promised=0, role=SLAVE)
        elif cut_to is not None and not has_state_for(self.store, cut_to, self.copy):
            self._log.warning("log_is_emptied", cut_to=cut_to, reason="every state that is there holds what is to be cut")
            fullcopy.erase(files)
            fullcopy.end(files)
            self.emptied = True
        elif cut_to is not None:
            cut_back(self.store, cut_to)
        elif self.lacks:
            self.store.forget_indexes()
        self.let_go()

    async def close(self) -> None:
        if not self._opened:
            return
        if self.master is None and self.slave is None:  # it did not get so far
            self.let_go()
            return
        await self._stop_replication()
        self.note_standing()
        if not self.built and (self.master is not None or not self.complete or self.lacks):
            self.journal.closing = True
            await self.journal.sync_now()
            self.let_go()
            return
        await super().close()

    def let_go(self) -> None:
        self.on_let_go()
        self.standing.close()
        super().let_go()

    async def _stop_replication(self) -> None:
        if self.slave is not None:
            await self.slave.stop()
        if self.master is not None:
            self.master.close()
        await asyncio.sleep(0)

    def stop_services(self) -> None:
        if self.built:
            super().stop_services()
        else:
            self.journal.closing = True

    # ---- what is told

    def digest(self) -> dict[str, Any]:
        self.journal.settle()
        return {
            "broker": self.identity.broker,
            "broker_id": self.identity.broker_id,
            "role": self.role,
            "epoch": self.store.epoch,
            "offset": self.store.end_offset,
            "digest": {**self.state.digest(), "queues": self.store.index.digest()},
        }

    def status(self) -> dict[str, Any]:
        replication = self.master.status() if self.master is not None else {}
        if self.slave is not None:
            replication = self.slave.status()
        replication["damaged"] = self.damaged
        facts = super().status() if self.built else self.storage_status()
        return {**facts, "role": self.role, "replication": replication}


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
