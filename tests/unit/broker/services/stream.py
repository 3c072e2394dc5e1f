"""The stream services of a broker over a simulated disk, and connections that note what they are told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from kourou.broker.machines.members import StreamMembers
from kourou.broker.machines.topics import Topic
from kourou.broker.services.delivery import Cursor, DeliveryService, Generation
from kourou.broker.services.journal import FrameJob, Journal
from kourou.broker.services.positions import PositionService, Start
from kourou.broker.services.state import BrokerState
from kourou.broker.services.subscriptions import SubscriptionService
from kourou.broker.store.columns import check_columns
from kourou.broker.store.recovery import open_store
from kourou.broker.store.store import Appended, CheckedFrame, StoreConfig
from kourou.core.clock import ManualClock
from kourou.core.errors import KourouError
from kourou.core.frame import Buffer, parse_sealed, seal
from kourou.core.route import Placement, TopicType
from tests.sim.disk import SimDisk, SimFiles

Result = TypeVar("Result")


class HeldExecutor(Executor):
    """Runs what it was given when the test says so."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self, failure: KourouError | None = None) -> None:
        """The oldest job; with ``failure`` it only fails."""
        future, job = self.jobs.popleft()
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(job())


@dataclass(eq=False)
class Peer:
    """A subscriber's connection; what it was told, in order, and what a client would make of it."""

    client_id: str
    remote: str = "test"
    heard_at: float = 0.0
    writable: bool = True
    closed: bool = False
    told: list[tuple[object, ...]] = field(default_factory=list)
    queues: dict[int, tuple[Generation, int, int]] = field(default_factory=dict)  # generation, session, offset
    asked: list[tuple[list[tuple[int, Generation]], Callable[[], None]]] = field(default_factory=list)
    got: dict[int, list[int]] = field(default_factory=dict)  # queue -> next offsets of its deliveries

    def assigned(self, subscription: int, cursors: Sequence[Cursor]) -> None:
        for cursor in cursors:
            self.told.append(("assign", cursor.queue_id, cursor.generation, cursor.offset))
            self.queues[cursor.queue_id] = (cursor.generation, cursor.session, cursor.offset)

    def revoked(
        self,
        subscription: int,
        queues: Sequence[tuple[int, Generation]],
        deadline_ms: int,
        released: Callable[[], None],
    ) -> None:
        if not queues:
            self.told.append(("ended", subscription))
        for queue, generation in queues:
            self.told.append(("revoke" if deadline_ms else "taken", queue, generation))
            if not deadline_ms and queue in self.queues and self.queues[queue][0] == generation:
                del self.queues[queue]
        if deadline_ms:
            self.asked.append((list(queues), released))

    def let_go(self) -> None:
        """Answer what was asked back."""
        asked, self.asked = self.asked, []
        for queues, released in asked:
            for queue, generation in queues:
                if queue in self.queues and self.queues[queue][0] == generation:
                    del self.queues[queue]
            released()

    def deliver(self, subscription: int, cursor: Cursor, parts: Sequence[Buffer], next_offset: int) -> None:
        known = self.queues.get(cursor.queue_id)
        if known is not None and known[:2] == (cursor.generation, cursor.session):
            self.got.setdefault(cursor.queue_id, []).append(next_offset)

    def elsewhere(self, subscription: int, cursor: Cursor, replicas: Sequence[int]) -> None:
        self.told.append(("elsewhere", cursor.queue_id, cursor.offset))

    def failed(self, subscription: int, cursor: Cursor, failure: KourouError) -> None:
        self.told.append(("failed", cursor.queue_id, failure.code))


class Stream:
    """Use it inside a running loop. With ``held`` nothing is confirmed before ``syncs.run()``."""

    def __init__(self, *, held: bool = False, steps_at_once: int = 8) -> None:
        files = SimFiles(SimDisk())
        files.lock()
        self.clock = ManualClock()
        self.state = BrokerState(broker="a")
        self.failures: list[str] = []
        recovered = open_store(
            files,
            StoreConfig(segment_bytes=16 << 20, full_ratio=1.0, reserve_bytes=0),
            restore=self.state.restore,
            apply=self.state.recovered,
            notice=lambda event, fields: None,
        )
        self.store = recovered.store
        self.store.begin_epoch(1, store_ms=self.clock.wall_ms())
        self.syncs = HeldExecutor()
        self.reads = ThreadPoolExecutor(1)
        self.journal = Journal(
            self.store,
            self.state,
            clock=self.clock,
            sync_flush=held,
            sync_executor=self.syncs,
            on_failure=self.failures.append,
        )
        if held:
            self.journal._sync_times_ms.extend([1_000.0] * 9)  # a slow disk: never inline
        self.delivery = DeliveryService(self.store, self.journal, read_executor=self.reads)
        self.positions = PositionService(self.store, self.state, self.journal)
        self.members = StreamMembers("a", 1, steps_at_once=steps_at_once)
        self.service = SubscriptionService(
            self.state, self.journal, self.delivery, self.positions, self.members, clock=self.clock
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reads.shutdown()
        await self.turns()

    async def turns(self, count: int = 5) -> None:
        """Let the loop do what is ready to be done."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def settled(self) -> None:
        """Until assignments have been carried out."""
        await self.turns()
        while self.service._working:
            await asyncio.sleep(0)

    async def finish(self, task: asyncio.Future[Result]) -> Result:
        """Wait for a task that needs its writes confirmed."""
        while not task.done():
            await self.turns()
            while self.syncs.jobs:
                self.syncs.run()
        return await task

    async def write(self, records: list[dict[str, Any]]) -> None:
        await self.finish(asyncio.create_task(self.journal.write(records)))

    async def topic(self, queues: int, name: str = "t") -> Topic:
        """Create it, or add queues."""
        records = self.state.topics.create(name, TopicType.NORMAL, (Placement("a", queues),), now_ms=1)
        await self.write(records)
        self.service.topic_changed(name)
        return self.state.topics.get(name)

    async def join(
        self,
        peer: Peer,
        member: str,
        *,
        group: str = "g",
        topic: str = "t",
        mode: str = "stream",
        start: Start = "earliest",
        may_leave: bool = False,
    ) -> int:
        """Subscribe; the subscription's number."""
        begin = await self.finish(
            asyncio.create_task(
                self.service.subscribe(
                    peer,
                    group=group,
                    topic=topic,
                    mode=mode,
                    member=member,
                    start=start,
                    tags=None,
                    credit=1 << 20,
                    auto_create=True,
                    may_leave=may_leave,
                )
            )
        )
        numbers: list[int] = []
        begin(numbers.append)
        return numbers[0]

    async def send(self, queue: int, count: int = 1, *, topic: str = "t") -> None:
        """Append a frame of so many records."""
        sealed = seal(topic=topic, queue_id=queue, records=[b"x"] * count, born_ms=1)
        header = parse_sealed(sealed)
        incarnation = self.state.topics.get(topic).incarnation
        crc = int.from_bytes(sealed[-4:], "little")
        frame = CheckedFrame(sealed, header, crc, incarnation, check_columns(sealed, 0, header))
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(appended: Appended | None, duplicate: bool, failure: KourouError | None) -> None:
            if failure is not None:
                stored.set_exception(failure)
            else:
                stored.set_result(None)

        self.journal.submit(FrameJob(frame, done))
        await self.finish(stored)

    def commit(self, peer: Peer, number: int, *entries: tuple[int, Generation, int]) -> Committed:
        answer = Committed()
        self.service.commit(peer, number, entries, answer.done)
        return answer

    def committed(self, queue: int, *, group: str = "g", topic: str = "t") -> int | None:
        return self.state.offsets.committed(group, self.state.topics.get(topic).incarnation, queue)


class Committed:
    """The answer to a commit."""

    fenced: list[int] | None = None
    failure: KourouError | None = None

    def done(self, fenced: list[int], failure: KourouError | None) -> None:
        self.fenced, self.failure = fenced, failure
