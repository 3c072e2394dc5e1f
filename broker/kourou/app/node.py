"""A broker in a process: opens the store, wires the services, serves, keeps house, stops cleanly."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kourou.app.metrics import node_metrics
from kourou.app.options import BrokerOptions
from kourou.broker.edge.admin import AdminHandlers
from kourou.broker.edge.lite import LiteHandlers
from kourou.broker.edge.messages import MessageHandlers
from kourou.broker.edge.operations import OperationHandlers
from kourou.broker.edge.queries import QueryHandlers
from kourou.broker.edge.shared import SharedHandlers
from kourou.broker.edge.subscriptions import SubscriptionHandlers
from kourou.broker.edge.transactions import TransactionHandlers
from kourou.broker.machines.members import StreamMembers
from kourou.broker.services.admin import AdminService
from kourou.broker.services.deadletters import DeadLetters
from kourou.broker.services.delivery import DeliveryService
from kourou.broker.services.explain import ExplainService
from kourou.broker.services.fetch import FetchService
from kourou.broker.services.gravekeeping import Gravekeeper
from kourou.broker.services.journal import Journal
from kourou.broker.services.lite import LiteService
from kourou.broker.services.lookup import LookupService
from kourou.broker.services.messaging import LocalMessaging
from kourou.broker.services.moves import Mover
from kourou.broker.services.official import OfficialOperations
from kourou.broker.services.positions import PositionService
from kourou.broker.services.produce import ProduceService
from kourou.broker.services.records import RecordReader
from kourou.broker.services.resets import Resets
from kourou.broker.services.shared.leaseclock import LeaseClock
from kourou.broker.services.shared.renewals import Renewals
from kourou.broker.services.shared.service import SharedService
from kourou.broker.services.state import BrokerState
from kourou.broker.services.subscriptions import SubscriptionService
from kourou.broker.services.timers import TimerService
from kourou.broker.services.transactions import TransactionService
from kourou.broker.services.upkeep import Upkeep
from kourou.broker.store.files import OsFiles
from kourou.broker.store.fullcopy import Copy
from kourou.broker.store.identity import Identity, claim
from kourou.broker.store.recovery import open_store
from kourou.broker.store.store import StoreConfig
from kourou.core.errors import FlushFailed
from kourou.core.handles import KEY_SIZE, Handles
from kourou.core.version import VERSION
from kourou.gateway.admin import AdminHandlers as AdminApi
from kourou.gateway.service import Gateway
from kourou.runtime import log
from kourou.runtime.clock import SystemClock
from kourou.runtime.metrics import Metrics
from kourou.runtime.tasks import LoopLag, Periodic
from kourou.runtime.turns import Turns
from kourou.transport.server import DataPlaneServer, Handler


class BrokerNode:
    """One broker. ``open`` it, put ``handlers`` on a data-plane server, ``close`` it."""

    def __init__(self, options: BrokerOptions, *, log: Any, on_failure: Callable[[str], None]) -> None:
        self.options = options
        self.clock = SystemClock()
        self.lease_ahead_ms: int | None = None  # of a master that was followed: LeaseClock
        self.metrics = Metrics()
        self._log = log
        self._on_failure = on_failure
        self._sync_pool = ThreadPoolExecutor(1, "sync")
        self._read_pool = ThreadPoolExecutor(2, "read")
        self._upkeep_pool = ThreadPoolExecutor(1, "upkeep")
        self._opened = False
        self.built = False  # are the services of a master there?
        self.server: DataPlaneServer | None = None

    def open(self) -> None:
        """Lock the directory, recover, begin a new epoch, build the services. Blocking; inside the running loop."""
        self.open_storage()
        try:
            self.store.begin_epoch(self.store.epoch + 1, store_ms=self.clock.wall_ms())
        except BaseException:
            self.store.close()
            self._opened = False
            raise
        self.journal = self.new_journal()
        self.build()

    def open_storage(self) -> None:
        """Lock the directory and recover: the log, and the state as of its end. Blocking."""
        options = self.options
        files = OsFiles(options.data)
        files.lock()
        try:
            wanted = Identity(options.cluster, options.name, options.broker_id, str(uuid.uuid4()))
            self.identity = claim(files, wanted)
            self.state = BrokerState(broker=options.name)
            started_ms = self.clock.monotonic_ms()
            recovered = open_store(
                files,
                StoreConfig(options.segment_bytes, options.disk_full_ratio, options.reserve_bytes),
                restore=self.state.restore,
                apply=self.state.recovered,
                notice=lambda event, fields: self._log.warning(event, **fields),
                copied=self.copied_from(files),
            )
            store = self.store = recovered.store
            self.folded_from = recovered.folded_from  # below it the state is from a snapshot, or copied
        except BaseException:
            files.unlock()
            raise
        self._log.info(
            "store_opened",
            log_end=store.end_offset,
            snapshot=recovered.snapshot_offset,
            replayed=recovered.frames_replayed,
            cut_bytes=recovered.bytes_cut,
            epoch=store.epoch,
            took_ms=self.clock.monotonic_ms() - started_ms,
        )
        self._opened = True

    def copied_from(self, files: OsFiles) -> Copy | None:
        """What the state begins with where the log alone does not say."""
        return None

    def new_journal(self, *, confirmed: int | None = None) -> Journal:
        return Journal(
            self.store,
            self.state,
            clock=self.clock,
            sync_flush=self.options.flush == "sync",
            sync_executor=self._sync_pool,
            on_failure=self._on_failure,
            confirmed=confirmed,
        )

    def build(self) -> None:
        """The services of a master, around the journal."""
        options, store, state, clock = self.options, self.store, self.state, self.clock
        if state.secret is None:
            self.journal.submit_applied({"t": "secret", "k": secrets.token_hex(KEY_SIZE)}, lambda failure: None)
        assert state.secret is not None
        self.handles = Handles(options.name, state.secret)
        self.records = RecordReader(store, self.journal, read_executor=self._read_pool, topic_of=state.topics.named)
        mover = Mover(self.journal)
        self.timers = TimerService(
            store,
            state,
            self.journal,
            self.records,
            mover,
            read_executor=self._read_pool,
            write_executor=self._upkeep_pool,
            clock=clock,
            log=self._log,
            delay_ms_max=int(options.delay_days_max * 86_400_000),
        )
        self.transactions = TransactionService(
            state,
            self.journal,
            self.records,
            mover,
            self.handles,
            clock=clock,
            log=self._log,
            check_after_ms=int(options.transaction_check_after_s * 1000),
            check_every_ms=int(options.transaction_check_every_s * 1000),
            checks_max=options.transaction_checks_max,
            age_ms_max=int(options.retention_hours * 3_600_000),
        )
        self.leases = leases = LeaseClock(clock, self.lease_ahead_ms)
        self.shared = SharedService(store, state, self.journal, self.records, self.handles, clock=leases, log=self._log)
        self.produce = ProduceService(state, self.journal, check_due=self.timers.check_due)
        self.build_reading()
        self.delivery = DeliveryService(store, self.journal, read_executor=self._read_pool)
        self.subscriptions = SubscriptionService(
            state,
            self.journal,
            self.delivery,
            self.positions,
            StreamMembers(options.name, store.epoch),
            clock=clock,
        )
        self.admin = AdminService(
            state, self.journal, self.positions, self.subscriptions, clock=clock, auto_create=options.auto_create
        )
        self.dead_letters = DeadLetters(
            state,
            self.journal,
            self.records,
            mover,
            broker=options.name,
            clock=clock,
            log=self._log,
            on_topic=self.admin.topic_changed,
            on_settled=self.shared.freed,
        )
        self.shared.graves = self.dead_letters
        self.admin.on_topic_changed(self.shared.topic_changed)
        self.admin.on_group_changed(lambda group: self.gateway.telemetry.push_settings(group))
        self.admin.on_group_deleted(self.shared.group_deleted)
        self.renewals = Renewals(self.shared, clock=leases)
        self.lite = LiteService(
            state,
            self.journal,
            self.shared,
            self.positions,
            clock=clock,
            expire_ms=int(options.lite_expire_minutes * 60_000),
        )
        self.messaging = LocalMessaging(
            options.name,
            state,
            self.journal,
            admin=self.admin,
            produce=self.produce,
            fetch=self.fetch,
            positions=self.positions,
            shared=self.shared,
            renewals=self.renewals,
            timers=self.timers,
            transactions=self.transactions,
            dead_letters=self.dead_letters,
            handles=self.handles,
            lite=self.lite,
            clock=clock,
            auto_create=options.auto_create,
        )
        self.admin.shared_members = self.messaging.agreement.members
        self.gateway: Gateway = Gateway(self.messaging, clock=clock, log=self._log)
        self.transactions.asks_through(self.gateway)
        self.native_lite = LiteHandlers(self.messaging, self.lite, state)
        self.lite.on_evicted = self._lite_evicted
        self.native_transactions = TransactionHandlers(self.messaging, self.handles, log=self._log)
        self.transactions.asks_through(self.native_transactions)
        self.timers.start()
        self.resets = Resets(state, self.positions, self.subscriptions, self.shared)
        self.explain = ExplainService(store, state, self.journal, self.lookup, read_executor=self._read_pool)
        self.gravekeeper = Gravekeeper(store, state, self.journal, self.records, mover)
        operations = OfficialOperations(
            store,
            state,
            self.messaging,
            self.admin,
            self.lookup,
            self.resets,
            self.produce,
            self.shared,
            set_log_level=log.set_level,
        )
        self.official_admin = AdminApi(operations, self.gateway.clients, log=self._log, now_ms=clock.wall_ms)
        self.lag = LoopLag()
        self.metrics.add(lambda: node_metrics(self))
        self.built = True

    def build_reading(self) -> None:
        """The services that every member has, whatever its role, around the journal."""
        options, store, state = self.options, self.store, self.state
        self.turns = Turns()
        self.fetch = FetchService(store, state, self.journal, read_executor=self._read_pool)
        self.positions = PositionService(store, state, self.journal)
        self.lookup = LookupService(
            store, state, self.journal, read_executor=self._read_pool, turns=self.turns, broker=options.name
        )
        self.upkeep = Upkeep(
            store,
            state,
            self.journal,
            executor=self._upkeep_pool,
            clock=self.clock,
            log=self._log,
            snapshot_bytes=options.snapshot_bytes,
            retention_ms=int(options.retention_hours * 3_600_000),
            retention_bytes=options.retention_bytes,
            release=self.release,
        )

    async def release(self, below: int) -> int:
        """Retention wants to delete the log below an offset; from where on it is still needed."""
        return await self.timers.keeper.release(below)

    def _lite_evicted(self, client: str, name: str) -> None:
        self.gateway.lite_evicted(client, name)
        self.native_lite.evicted(client, name)

    def handlers(self) -> dict[int, Handler]:
        """Everything a broker answers on the data plane."""
        return {
            **MessageHandlers(self.produce, self.fetch).table(),
            **SubscriptionHandlers(self.subscriptions, self.delivery, auto_create=self.options.auto_create).table(),
            **SharedHandlers(self.messaging, self.shared).table(),
            **self.native_transactions.table(),
            **self.native_lite.table(),
            **QueryHandlers(self.positions, self.lookup, self.resets, turns=self.turns).table(),
            **AdminHandlers(self.admin, status=self.status, turns=self.turns).table(),
            **OperationHandlers(self.admin, self.explain, self.gravekeeper, self.timers, self.handles).table(),
        }

    def watch(self, server: DataPlaneServer) -> None:
        """The listener whose numbers belong to this broker's metrics."""
        self.server = server

    def keep_house(self, tasks: Periodic) -> None:
        """Start the periodic jobs."""
        options = self.options
        tasks.every(options.flush_interval_ms / 1000, "flush", self.journal.flush_periodically)
        tasks.every(30.0, "lite", self.lite.expire)
        tasks.every(5.0, "renewals", self.renewals.tick)
        tasks.every(5.0, "clients", self.gateway.expire)
        tasks.every(min(1.0, options.transaction_check_every_s), "transactions", self.transactions.check)
        tasks.every(0.25, "members", self.subscriptions.tick)
        tasks.every(0.1, "seal", self.upkeep.seal)
        tasks.every(0.1, "mend", self.upkeep.mend)
        tasks.every(1.0, "snapshot", self.upkeep.snapshot_if_due)
        tasks.every(0.5, "timers", self.timers.keeper.keep)
        tasks.every(1.0, "disk", self.upkeep.watch_disk)
        tasks.every(5.0, "retention", self.upkeep.retain)
        tasks.every(3_600.0, "broadcast", self.upkeep.forget_silent)

    async def close(self) -> None:
        """Make everything durable, write a snapshot, let go of the directory."""
        if not self._opened:
            return
        self.stop_services()
        await asyncio.sleep(0)
        try:
            await self.journal.sync_now()
            await self.upkeep.seal()
            await self.upkeep.snapshot()
        except FlushFailed as failure:
            self._log.error("not_durable", reason=str(failure))
        self.let_go()

    def stop_services(self) -> None:
        """Nothing more is decided or appended."""
        if self.built:
            self.timers.stop()
            self.shared.stop()
            self.lag.stop()
        self.journal.settle()
        self.journal.closing = True

    def let_go(self) -> None:
        """Close the store, after what runs in threads has ended."""
        for pool in (self._sync_pool, self._read_pool, self._upkeep_pool):
            pool.shutdown(wait=True)
        self.store.close()
        self._opened = False

    def status(self) -> dict[str, Any]:
        return {
            **self.storage_status(),
            "subscriptions": self.subscriptions.count,
            "producers": len(self.state.producers),
            "messages_in": self.produce.messages_in,
            "messages_out": self.delivery.messages_out,
            "loop_lag_max_ms": round(self.lag.max_ms, 3),
        }

    def storage_status(self) -> dict[str, Any]:
        """What can be told without the services of a master."""
        store = self.store
        return {
            "version": VERSION,
            "cluster": self.identity.cluster,
            "broker": self.identity.broker,
            "broker_id": self.identity.broker_id,
            "epoch": store.epoch,
            "flush": self.options.flush,
            "log": {
                "start": store.min_offset,
                "end": store.end_offset,
                "confirmed": self.journal.confirmed,
                "synced": store.synced_offset,
                "snapshot": store.snapshot_offset,
                "segments": len(store.log.bases),
                "damaged": store.damaged,
            },
            "disk": {"used_ratio": round(store.space.ratio, 4), "full": store.space.full},
            "topics": len(self.state.topics.all()),
            "groups": len(self.state.groups.all()),
        }
