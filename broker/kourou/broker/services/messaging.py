"""What the gateway of the official API needs, done by this broker's own services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from kourou.broker.machines.groups import Group
from kourou.broker.machines.topics import Topic
from kourou.broker.machines.transactions import COMMITTED, ROLLED_BACK
from kourou.broker.services.admin import AdminService
from kourou.broker.services.deadletters import DeadLetters
from kourou.broker.services.fetch import FetchService
from kourou.broker.services.journal import FrameJob, Journal
from kourou.broker.services.lite import LiteService
from kourou.broker.services.positions import PositionService
from kourou.broker.services.produce import ProduceService
from kourou.broker.services.records import DecodedFrame, StoredMessage
from kourou.broker.services.shared.agreement import Agreement
from kourou.broker.services.shared.renewals import Renewals
from kourou.broker.services.shared.request import Delivery, Outcome, ReceiveRequest, Waiter
from kourou.broker.services.shared.service import SharedService
from kourou.broker.services.state import BrokerState
from kourou.broker.services.timers import TimerService
from kourou.broker.services.transactions import TransactionService
from kourou.broker.store.store import Appended
from kourou.core import frame
from kourou.core.clock import Clock
from kourou.core.errors import InvalidRecallHandle, KourouError, NotMaster, QueueNotFound, TopicTypeMismatch
from kourou.core.filter import Filter
from kourou.core.frame import PREFIX_SIZE, parse_sealed
from kourou.core.handles import Handles, Recall, Transaction
from kourou.core.outgoing import OutgoingMessage, seal_one
from kourou.core.route import BrokerRoute, GroupShape, Placement, TopicRoute, TopicType
from kourou.core.siphash import message_group_index
from kourou.core.views import GroupView, RouteView, Sent, TopicView

AUTO_QUEUES = 8
PULL_BYTES = 1024 * 1024
RECEIVE_BYTES = 8 * 1024 * 1024


class LocalMessaging:
    """One broker, asked in place."""

    def __init__(
        self,
        broker: str,
        state: BrokerState,
        journal: Journal,
        *,
        admin: AdminService,
        produce: ProduceService,
        fetch: FetchService,
        positions: PositionService,
        shared: SharedService,
        renewals: Renewals,
        timers: TimerService,
        transactions: TransactionService,
        dead_letters: DeadLetters,
        handles: Handles,
        lite: LiteService,
        clock: Clock,
        auto_create: bool,
    ) -> None:
        self.broker = broker
        self._state = state
        self._journal = journal
        self._admin = admin
        self._produce = produce
        self._fetch = fetch
        self._positions = positions
        self._shared = shared
        self._renewals = renewals
        self._timers = timers
        self._transactions = transactions
        self._dead_letters = dead_letters
        self._handles = handles
        self._lite = lite
        self._clock = clock
        self._auto_create = auto_create
        self.agreement = Agreement(clock=clock)
        self._routes: Callable[[str], Awaitable[RouteView]] | None = None
        self._turns: dict[int, int] = {}  # by incarnation: whose turn it is among the queues

    # ---- topics and groups

    def routes_from(self, source: Callable[[str], Awaitable[RouteView]]) -> None:
        """Ask somebody else for routes: in a cluster, topics lie on several brokers."""
        self._routes = source

    async def route(self, topic: str) -> RouteView:
        if self._routes is not None:
            return await self._routes(topic)
        if self._state.topics.find(topic) is None and self._auto_create:
            await self._admin.create_topic(
                topic, TopicType.NORMAL, (Placement(self.broker, AUTO_QUEUES),), automatic=True
            )  # fmt: skip
        known = self._state.topics.get(topic)
        brokers = tuple(BrokerRoute(p.broker, p.queues, 0, None) for p in known.placement)
        return RouteView(TopicRoute(topic, known.type, self._state.topics.version, brokers), {self.broker: None})

    def topic(self, name: str) -> TopicView:
        topic = self._state.topics.get(name)
        return TopicView(topic.name, topic.type, topic.queues, topic.created_ms)

    async def group(self, name: str) -> GroupView:
        known = self._state.groups.find(name)
        if known is None or known.shape is not GroupShape.SHARED:
            records = self._state.groups.use(
                name, GroupShape.SHARED, auto_create=self._auto_create, now_ms=self._clock.wall_ms()
            )
            await self._journal.write(records)
            known = self._state.groups.get(name)
        return _view(known)

    def known_group(self, name: str) -> GroupView | None:
        known = self._state.groups.find(name)
        return _view(known) if known is not None else None

    # ---- sending

    def send(self, message: OutgoingMessage, done: Callable[[Sent | KourouError], None]) -> None:
        topic = self._state.topics.get(message.topic)
        queue = self._queue_for(topic, message)
        sealed = seal_one(message, queue)
        header = parse_sealed(sealed)
        checked = self._produce.check(memoryview(sealed), header)

        def stored(result: Appended | None, duplicate: bool, failure: KourouError | None) -> None:
            if result is None:
                assert failure is not None
                done(failure)
                return
            self._produce.note(header)
            sent = Sent(queue, result.queue_offset)
            if message.kind is TopicType.TRANSACTION:
                sent.transaction_id = self._handles.transaction(Transaction(result.log_offset, 0))
            elif message.kind is TopicType.DELAY:
                sent.recall_handle = self._handles.recall(Recall(result.log_offset, 0, message.due_ms or 0))
            done(sent)

        self._journal.submit(FrameJob(checked, stored))

    def _queue_for(self, topic: Topic, message: OutgoingMessage) -> int:
        if not topic.queues:
            raise QueueNotFound(f"topic {topic.name} has no queues on broker {self.broker}")
        if message.group is not None and topic.type is TopicType.FIFO:
            declared = self._state.topics.cluster_queues(topic.name)
            broker, queue = declared[message_group_index(message.group, len(declared))]
            if broker != self.broker:
                failure = NotMaster(f"message group {message.group!r} belongs to broker {broker}; send it there")
                failure.owner = broker
                raise failure
            return queue
        if topic.type is TopicType.LITE and message.lite_topic:
            return self._lite.queue_for(topic, message.lite_topic)
        if message.priority is not None and topic.type is TopicType.PRIORITY:
            return min(message.priority, topic.queues - 1)
        turn = self._turns.get(topic.incarnation, -1) + 1
        self._turns[topic.incarnation] = turn
        return turn % topic.queues

    # ---- receiving

    def receive(
        self,
        group: GroupView,
        topic: str,
        *,
        queue: int | None,
        client: str,
        limit: int,
        invisible_ms: int,
        wait_ms: int,
        wanted: Filter | None,
        attempt_id: str,
        renewed: bool,
        done: Callable[[Outcome], None],
        bytes_max: int = RECEIVE_BYTES,
    ) -> Waiter:
        known = self._state.topics.get(topic)
        only = self._lite.queues_of(client, group.name, known) if known.type is TopicType.LITE else None
        wanted = self.agreement.settle(self._state.groups.get(group.name), known, client, wanted)
        request = ReceiveRequest(
            group.name,
            known,
            client,
            limit,
            invisible_ms,
            wanted,
            queue,
            attempt_id,
            renewed,
            only,
            bytes_max,
            attempts_max=group.max_attempts,
        )
        if not renewed:
            return self._shared.receive(request, wait_ms=wait_ms, done=done)

        def held(outcome: Outcome) -> None:
            if isinstance(outcome, list) and outcome:
                self._hold(request, outcome)
            done(outcome)

        return self._shared.receive(request, wait_ms=wait_ms, done=held)

    def _hold(self, request: ReceiveRequest, found: list[Delivery]) -> None:
        serials = [self._handles.open_receipt(delivery.handle).serial for delivery in found]
        self._renewals.hold(request.group, request.topic.incarnation, request.client, found, serials)

    def agree(self, group: str, topic: str, client: str, wanted: Filter | None) -> None:
        """Whether a client may be a member with this filter. Raises SubscriptionConflict, TopicNotFound, GroupNotFound."""
        self.agreement.settle(self._state.groups.get(group), self._state.topics.get(topic), client, wanted)

    def cancel(self, parked: Any) -> None:
        self._shared.cancel(parked)

    def ack(
        self, group: str, handles: Sequence[str], done: Callable[[list[KourouError | None]], None], topic: str | None = None
    ) -> None:
        self._shared.ack(group, handles, done, topic)

    def change_invisible(
        self, group: str, handle: str, invisible_ms: int, *, uncounted: bool, done: Callable[[str | KourouError], None],
        topic: str | None = None,
    ) -> None:  # fmt: skip
        self._shared.put_off(group, handle, invisible_ms, uncounted=uncounted, done=done, topic=topic)

    async def forward(self, group: str, handle: str, reason: str, topic: str | None = None) -> None:
        receipt, _ = self._shared.open_handle(group, handle, topic)
        await self._dead_letters.forward(group, receipt, reason)

    def client_gone(self, client: str) -> None:
        self._renewals.released(client)
        self.agreement.left(client)
        self._lite.left(client)

    # ---- lite topics

    async def sync_lite(
        self,
        group: str,
        topic: str,
        client: str,
        names: Sequence[str],
        *,
        action: str,
        start: tuple[str, int] | None,
    ) -> None:
        known = self._state.topics.get(topic)
        if known.type is not TopicType.LITE:
            raise TopicTypeMismatch(f"topic {topic} has type {known.type.value}, not lite")
        await self.group(group)
        await self._journal.write(self._state.groups.bind(group, topic))
        exclusive = self._state.groups.get(group).exclusive
        new: list[str] = []
        if action == "add":
            new = self._lite.add(client, group, known, names, exclusive=exclusive)
        elif action == "remove":
            self._lite.remove(client, group, known, names)
        elif action == "replace":
            new = self._lite.replace(client, group, known, names, exclusive=exclusive)
        else:
            self._lite.replace(client, group, known, (), exclusive=exclusive)
        if start is not None and new:
            await self._lite.start_at(group, known, new, start)

    # ---- transactions and timers

    async def end_transaction(self, topic: str, transaction_id: str, *, commit: bool) -> None:
        self._state.topics.get(topic)
        transaction = self._handles.open_transaction(transaction_id)
        await self._transactions.end(topic, transaction, COMMITTED if commit else ROLLED_BACK)

    async def recall(self, topic: str, handle: str) -> str:
        known = self._state.topics.get(topic)
        if known.type is not TopicType.DELAY:
            raise TopicTypeMismatch(f"topic {topic} has type {known.type.value}: nothing can be recalled")
        recall = self._handles.open_recall(handle)
        timer = self._state.timers.find((recall.log_offset, recall.record))
        if timer is not None and timer.incarnation != known.incarnation:
            raise InvalidRecallHandle(f"the handle does not belong to topic {topic}")
        return (await self._timers.recall(recall)).message_id

    # ---- pulling

    async def pull(
        self, topic: str, queue: int, offset: int, *, limit: int, wait_ms: int, wanted: Filter | None
    ) -> tuple[Sequence[StoredMessage], int]:
        fetched = await self._fetch.fetch(topic, queue, offset, bytes_max=PULL_BYTES, wait_ms=wait_ms)
        found: list[StoredMessage] = []
        for at, prefix in frame.iterate_frames(fetched.data):
            header = parse_sealed(fetched.data, at + PREFIX_SIZE, available=prefix.size - PREFIX_SIZE)
            decoded = DecodedFrame(prefix, header, fetched.data, at + PREFIX_SIZE)
            for number in range(max(0, offset - prefix.queue_offset), header.record_count):
                if len(found) >= limit:
                    return found, prefix.queue_offset + number
                message = StoredMessage(decoded, number)
                if wanted is None or wanted.matches(*message.filtered_on()):
                    found.append(message)
        return found, fetched.next_offset

    async def commit_offset(self, group: str, topic: str, queue: int, offset: int) -> None:
        known = self._known(topic, queue)
        await self.group(group)
        await self._journal.write(self._state.offsets.reset(group, known.incarnation, [(queue, offset)]))

    def committed_offset(self, group: str, topic: str, queue: int) -> int | None:
        return self._state.offsets.committed(group, self._known(topic, queue).incarnation, queue)

    def offset_at(self, topic: str, queue: int, *, time_ms: int | None, end: bool) -> int:
        key = self._known(topic, queue).incarnation << 32 | queue
        if time_ms is not None:
            return self._positions.resolve(key, ("time", time_ms))
        return self._positions.resolve(key, "latest" if end else "earliest")

    def _known(self, topic: str, queue: int) -> Topic:
        known = self._state.topics.get(topic)
        if queue >= known.queues:
            raise QueueNotFound(f"topic {topic} has {known.queues} queues on this broker, not queue {queue}")
        return known


def _view(group: Group) -> GroupView:
    return GroupView(group.name, group.fifo, group.max_attempts, group.retry)
