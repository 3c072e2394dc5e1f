"""The messaging services of a broker over a simulated disk and a clock that is moved by hand.

The loop's own timers only end parked receives and ring alarms; tests that need a lease to be over move the clock and ring
the alarms themselves, so nothing waits for real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from kourou.broker.machines.members import StreamMembers
from kourou.broker.machines.topics import Topic
from kourou.broker.services.admin import AdminService
from kourou.broker.services.deadletters import DeadLetters
from kourou.broker.services.delivery import DeliveryService
from kourou.broker.services.journal import FrameJob, Journal
from kourou.broker.services.moves import Mover
from kourou.broker.services.positions import PositionService
from kourou.broker.services.produce import ProduceService
from kourou.broker.services.records import RecordReader, StoredMessage
from kourou.broker.services.shared.renewals import Renewals
from kourou.broker.services.shared.request import Delivery, Outcome, ReceiveRequest, Waiter
from kourou.broker.services.shared.service import SharedService
from kourou.broker.services.state import BrokerState
from kourou.broker.services.subscriptions import SubscriptionService
from kourou.broker.services.transactions import TransactionService
from kourou.broker.store.recovery import open_store
from kourou.broker.store.store import Appended, CheckedFrame, StoreConfig
from kourou.core.clock import ManualClock
from kourou.core.errors import KourouError
from kourou.core.filter import parse_filter
from kourou.core.frame import parse_sealed
from kourou.core.handles import Handles
from kourou.core.outgoing import OutgoingMessage, seal_one
from kourou.core.records import Field, encode_field, encode_property
from kourou.core.route import GroupShape, Placement, TopicType
from tests.sim.disk import SimDisk
from tests.unit.broker.services.stream import HeldExecutor

Result = TypeVar("Result")
SECRET = bytes(range(16))


class Notes:
    """A log that remembers what was said."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append(event)

    warning = error = info


class Producer:
    """Who is asked about half messages."""

    def __init__(self) -> None:
        self.there = True
        self.asked: list[tuple[str, str, bytes]] = []  # topic, transaction, body

    def ask(self, topic: str, message: StoredMessage, transaction: str, queue: int) -> bool:
        if self.there:
            self.asked.append((topic, transaction, message.body))
        return self.there


class Engine:
    """Use it inside a running loop. With ``held`` nothing is confirmed before ``syncs.run()``.

    A second one over the same disk, after ``disk.kill()``, is the broker after a restart.
    """

    def __init__(
        self,
        disk: SimDisk | None = None,
        *,
        clock: ManualClock | None = None,
        held: bool = False,
        segment_bytes: int = 16 << 20,
        checks_max: int = 3,
    ) -> None:
        self.disk = disk if disk is not None else SimDisk()
        self.files = self.disk.files()
        self.files.lock()
        self.clock = clock if clock is not None else ManualClock()
        self.state = BrokerState(broker="a")
        self.failures: list[str] = []
        self.log = Notes()
        recovered = open_store(
            self.files,
            StoreConfig(segment_bytes=segment_bytes, full_ratio=1.0, reserve_bytes=0),
            restore=self.state.restore,
            apply=self.state.recovered,
            notice=lambda event, fields: None,
        )
        self.store = store = recovered.store
        store.begin_epoch(store.epoch + 1, store_ms=self.clock.wall_ms())
        self.syncs = HeldExecutor()
        self.reads = ThreadPoolExecutor(1)
        state, clock = self.state, self.clock
        self.journal = journal = Journal(
            store, state, clock=clock, sync_flush=held, sync_executor=self.syncs, on_failure=self.failures.append
        )
        if held:
            journal._sync_times_ms.extend([1_000.0] * 9)  # a slow disk: never inline
        self.handles = Handles("a", SECRET)
        self.records = RecordReader(store, journal, read_executor=self.reads, topic_of=self.state.topics.named)
        self.mover = Mover(journal)
        self.transactions = TransactionService(
            state,
            journal,
            self.records,
            self.mover,
            self.handles,
            clock=clock,
            log=self.log,
            check_after_ms=6_000,
            check_every_ms=30_000,
            checks_max=checks_max,
            age_ms_max=3_600_000,
        )
        self.producer = Producer()
        self.transactions.asks_through(self.producer)
        self.shared = SharedService(store, state, journal, self.records, self.handles, clock=clock)
        self.produce = ProduceService(state, journal, check_due=lambda due_ms: None)
        self.positions = PositionService(store, state, journal)
        delivery = DeliveryService(store, journal, read_executor=self.reads)
        subscriptions = SubscriptionService(
            state, journal, delivery, self.positions, StreamMembers("a", store.epoch), clock=clock
        )
        self.admin = AdminService(state, journal, self.positions, subscriptions, clock=clock, auto_create=True)
        self.dead_letters = DeadLetters(
            state,
            journal,
            self.records,
            self.mover,
            broker="a",
            clock=clock,
            log=self.log,
            on_topic=self.admin.topic_changed,
            on_settled=self.shared.freed,
        )
        self.shared.graves = self.dead_letters
        self.admin.on_topic_changed(self.shared.topic_changed)
        self.admin.on_group_deleted(self.shared.group_deleted)
        self.renewals = Renewals(self.shared, clock=clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shared.stop()
        self.journal.closing = True
        for task in [*self.shared._tasks, *self.dead_letters._tasks]:
            task.cancel()
        self.reads.shutdown()
        await self.turns()

    def restarted(self, **options: Any) -> Engine:
        """kill -9 at the end of a turn, and the broker after it."""
        self.journal.settle()
        self.shared.stop()
        for task in [*self.shared._tasks, *self.dead_letters._tasks]:
            task.cancel()
        self.reads.shutdown()
        self.disk.kill()
        return Engine(self.disk, clock=self.clock, **options)

    # ---- time

    async def turns(self, count: int = 8) -> None:
        """Let the loop do what is ready to be done."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def advance(self, ms: int) -> None:
        """The clock goes on, what is due rings."""
        self.clock.advance(ms)
        self.shared._alarms._look()
        await self.turns()

    async def finish(self, waiting: asyncio.Future[Result]) -> Result:
        """Wait for something that needs its writes confirmed."""
        while not waiting.done():
            await self.turns(1)
            while self.syncs.jobs:
                self.syncs.run()
        return await waiting

    # ---- definitions

    async def topic(self, kind: TopicType = TopicType.NORMAL, queues: int = 1, name: str = "t") -> Topic:
        """Create it, or add queues."""
        placement = (Placement("a", queues),)
        await self.finish(asyncio.ensure_future(self.admin.create_topic(name, kind, placement, automatic=False)))
        return self.state.topics.get(name)

    async def group(self, name: str = "g", *, max_attempts: int = 16) -> None:
        create = self.admin.create_group(name, GroupShape.SHARED, fifo=False, max_attempts=max_attempts, automatic=False)
        await self.finish(asyncio.ensure_future(create))

    # ---- messages

    def outgoing(
        self,
        body: str,
        *,
        topic: str = "t",
        tag: str | None = None,
        group: str | None = None,
        properties: dict[str, str] | None = None,
        recovery_ms: int = 0,
    ) -> OutgoingMessage:
        kind = self.state.topics.get(topic).type
        parts = [encode_field(Field.MESSAGE_ID, f"id-{body}".encode())]
        if tag is not None:
            parts.append(encode_field(Field.TAG, tag.encode()))
        if group is not None:
            parts.append(encode_field(Field.MESSAGE_GROUP, group.encode()))
        if recovery_ms:
            parts.append(encode_field(Field.RECOVERY_MS, recovery_ms.to_bytes(8, "little", signed=True)))
        parts += [encode_property(name, value) for name, value in (properties or {}).items()]
        out = OutgoingMessage(topic, kind, b"".join(parts), body.encode(), self.clock.wall_ms(), f"id-{body}")
        out.tag, out.group = tag, group
        return out

    def submit(self, message: OutgoingMessage, queue: int = 0) -> asyncio.Future[Appended]:
        sealed = seal_one(message, queue)
        return self.submit_frame(self.produce.check(memoryview(sealed), parse_sealed(sealed)))

    def submit_frame(self, checked: CheckedFrame) -> asyncio.Future[Appended]:
        stored: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

        def done(appended: Appended | None, duplicate: bool, failure: KourouError | None) -> None:
            if stored.done():
                return
            if appended is not None:
                stored.set_result(appended)
            else:
                assert failure is not None
                stored.set_exception(failure)

        self.journal.submit(FrameJob(checked, done))
        return stored

    async def send(self, *bodies: str, queue: int = 0, **options: Any) -> list[Appended]:
        return [await self.finish(self.submit(self.outgoing(body, **options), queue)) for body in bodies]

    # ---- consuming

    def request(
        self,
        *,
        group: str = "g",
        topic: str = "t",
        client: str = "c",
        limit: int = 32,
        invisible_ms: int = 30_000,
        tags: str | None = None,
        sql: str | None = None,
        queue: int | None = None,
        attempt: str = "",
        attempts_max: int = 16,
    ) -> ReceiveRequest:
        wanted = parse_filter("tag", tags) if tags is not None else parse_filter("sql", sql) if sql is not None else None
        return ReceiveRequest(
            group,
            self.state.topics.get(topic),
            client,
            limit,
            invisible_ms,
            wanted,
            queue,
            attempt,
            attempts_max=attempts_max,
        )

    def ask(self, *, wait_ms: int = 60_000, **options: Any) -> Poll:
        """A receive; ``wait_ms`` is real time."""
        return Poll(self, self.request(**options), wait_ms)

    async def receive(self, **options: Any) -> list[Delivery]:
        """What there is now."""
        return await self.ask(wait_ms=0, **options).got()

    async def bodies(self, **options: Any) -> list[str]:
        return bodies(await self.receive(**options))

    async def ack(self, *deliveries: Delivery, group: str = "g") -> list[KourouError | None]:
        return await self.finish(self.acking([d.handle for d in deliveries], group=group))

    def acking(self, handles: Sequence[str], *, group: str = "g") -> asyncio.Future[list[KourouError | None]]:
        future: asyncio.Future[list[KourouError | None]] = asyncio.get_running_loop().create_future()
        self.shared.ack(group, handles, future.set_result)
        return future

    async def put_off(self, delivery: Delivery, ms: int, *, uncounted: bool = False, group: str = "g") -> str:
        """The new handle."""
        future: asyncio.Future[str | KourouError] = asyncio.get_running_loop().create_future()
        self.shared.put_off(group, delivery.handle, ms, uncounted=uncounted, done=future.set_result)
        outcome = await self.finish(future)
        if isinstance(outcome, KourouError):
            raise outcome
        return outcome

    async def snapshot(self) -> None:
        """Write one, so that the next start begins there."""
        from kourou.broker.store import snapshot
        from kourou.broker.store.recovery import INDEX_PART

        assert self.journal.settle()
        offset = self.store.end_offset
        parts = {INDEX_PART: self.store.index.export_open()}
        parts |= {name: list(pieces) for name, pieces in self.state.parts().items()}
        self.store.note_synced(self.store.sync())
        snapshot.write(self.files, offset, snapshot.encode(offset, parts))
        self.store.snapshot_offset = offset


class Poll:
    """A receive under way."""

    def __init__(self, engine: Engine, request: ReceiveRequest, wait_ms: int) -> None:
        self._engine = engine
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiter: Waiter = engine.shared.receive(request, wait_ms=wait_ms, done=self.future.set_result)

    @property
    def done(self) -> bool:
        return self.future.done()

    def cancel(self) -> None:
        self._engine.shared.cancel(self.waiter)

    async def got(self) -> list[Delivery]:
        outcome = await self._engine.finish(self.future)
        if isinstance(outcome, KourouError):
            raise outcome
        return outcome


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.body.decode() for delivery in deliveries]
