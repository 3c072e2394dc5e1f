"""Closed batches on their way to brokers: which queue, when there is a slot, again where they were refused."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kourou.client.cluster import Cluster, is_retryable
from kourou.client.lane import Lane
from kourou.client.logic.batch import Batch, Outcome, QueueName
from kourou.client.logic.deadlines import Deadlines
from kourou.client.logic.faults import Faults
from kourou.client.logic.selector import AVOIDED, GOOD, UNUSABLE, Selector
from kourou.core.backoff import Backoff
from kourou.core.errors import DeadlineExceeded, KourouError, NotHere, OutcomeUnknown, TopicNotFound, Unreachable
from kourou.core.frame import Compression, reseal


class Dispatcher:
    def __init__(
        self,
        cluster: Cluster,
        *,
        loop: asyncio.AbstractEventLoop,
        producer_id: int,
        compression: Compression,
        deadline_s: float,
        finished: Callable[[Batch, Outcome], None],
        settled: Callable[[], None],
    ) -> None:
        """``deadline_s`` is what each batch has from its making on. ``finished`` gets each batch with its outcome, once;
        ``settled`` is called behind each answer."""
        self.lanes: dict[str, Lane] = {}  # by broker
        self.closed = False
        self._cluster = cluster
        self._loop = loop
        self._producer_id = producer_id
        self._compression = compression
        self._finished = finished
        self._settled = settled
        self._selector = Selector(cluster.rng)
        self._faults = Faults(cluster.rng)
        self._deadlines = Deadlines(deadline_s)
        self._waiting: deque[Batch] = deque()  # closed, for any queue
        self._ordered: dict[tuple[str, QueueName], deque[Batch]] = {}  # closed, by their queue

    @property
    def waiting(self) -> bool:
        return bool(self._waiting or self._ordered)

    @property
    def _has_work(self) -> bool:
        return self.waiting or any(lane.unresolved for lane in self.lanes.values())

    def add(self, batch: Batch) -> None:
        """A batch that is closed; ``pump`` sends it when there is a slot."""
        if batch.pinned is None:
            self._waiting.append(batch)
        else:
            self._ordered.setdefault((batch.topic, batch.pinned), deque()).append(batch)

    def pump(self) -> None:
        """Give slots to the batches that wait."""
        if self._ordered:
            self._pump_ordered()
        waiting = self._waiting
        while waiting:
            batch = waiting[0]
            if batch.topic not in self._cluster.routes:
                waiting.popleft()
                self._gone(batch)
                continue
            found = self._choose(batch.topic)
            if found is None:
                return
            waiting.popleft()
            self._dispatch(batch, *found)

    def _pump_ordered(self) -> None:
        for place in list(self._ordered):
            batches = self._ordered[place]
            while batches and place[0] not in self._cluster.routes:
                self._gone(batches.popleft())
            lane = self._lane(place[1][0])
            while batches and (place[0], place[1][1]) not in lane.busy and lane.has_slot:
                if not lane.usable:
                    self._connect(lane)
                    break
                self._dispatch(batches.popleft(), lane, place[1])
            if not batches:
                del self._ordered[place]

    def _gone(self, batch: Batch) -> None:
        self._selector.forget(batch.topic)
        self._finished(batch, TopicNotFound(f"topic {batch.topic!r} has been deleted"))

    def _choose(self, topic: str) -> tuple[Lane, QueueName] | None:
        """The next queue in turn whose broker can take a frame now; one to be avoided only when there is no other."""
        queue = self._selector.choose(self._cluster.routes[topic], self._rank)
        return (self.lanes[queue[0]], queue) if queue is not None else None

    def _rank(self, broker: str) -> int:
        lane = self.lanes.get(broker) or self._lane(broker)
        if not lane.usable:
            self._connect(lane)
            return UNUSABLE
        if not lane.has_slot:
            return UNUSABLE
        return AVOIDED if self._faults.avoided(broker, self._loop.time()) else GOOD

    def _dispatch(self, batch: Batch, lane: Lane, queue: QueueName) -> None:
        if not self._deadlines.may_start(batch.deadline, self._loop.time(), lane.answers):
            self._missed(batch)
            return
        batch.sequence = lane.next_sequence()
        try:
            if batch.sealed is not None:
                batch.sealed = reseal(batch.sealed, queue_id=queue[1], sequence=batch.sequence)
            else:
                batch.sealed = batch.seal(
                    queue_id=queue[1],
                    producer_id=self._producer_id,
                    sequence=batch.sequence,
                    compression=self._compression if batch.plain else Compression.NONE,
                )
        except KourouError as failure:
            self._finished(batch, failure)
            return
        lane.send(batch, queue)

    def _lane(self, broker: str) -> Lane:
        lane = self.lanes.get(broker)
        if lane is None:
            lane = Lane(
                broker,
                producer_id=self._producer_id,
                loop=self._loop,
                faults=self._faults,
                resolved=self._resolved,
                pump=self.pump,
                reconnect=self._connect,
            )
            self.lanes[broker] = lane
            lane.connection = self._cluster.connected(broker)
        return lane

    def _connect(self, lane: Lane) -> None:
        if not lane.connecting and not self.closed:
            lane.connecting = True
            self._cluster.spawn(self._keep_connecting(lane))

    async def _keep_connecting(self, lane: Lane) -> None:
        """Try until it works or nobody needs it any more."""
        backoff = Backoff(self._cluster.rng)
        try:
            while self._has_work and not self.closed:
                try:
                    connection = await self._cluster.broker(lane.broker)
                except KourouError as failure:
                    self._faults.failed(lane.broker, self._loop.time())
                    self._note_refusal(lane, failure)
                    await asyncio.sleep(backoff.next_ms() / 1000)
                    continue
                if self._cluster.connected(lane.broker) is not connection:
                    await asyncio.sleep(backoff.next_ms() / 1000)  # it ended at once, or another process is the master now
                    continue
                lane.connected(connection)
                break
        finally:
            lane.connecting = False
        self.pump()

    def route_changed(self) -> None:
        for lane in self.lanes.values():
            master = self._cluster.masters.get(lane.broker)
            if lane.connection is not None and master is not None and lane.connection.endpoint != master:
                lane.left()
                if lane.unresolved:
                    self._connect(lane)
        self.pump()

    def _note_refusal(self, lane: Lane, failure: KourouError) -> None:
        """For those who give up meanwhile: this is why."""
        for batch in self._waiting:
            batch.refusal = failure
        for (_, queue), batches in self._ordered.items():
            if queue[0] == lane.broker:
                for batch in batches:
                    batch.refusal = failure

    # ---- outcomes

    def _resolved(self, lane: Lane, batch: Batch, outcome: Outcome) -> None:
        if isinstance(outcome, KourouError) and is_retryable(outcome):
            self._refused(lane, batch, outcome)
        else:
            self._finished(batch, outcome)
        self._settled()

    def _refused(self, lane: Lane, batch: Batch, refusal: KourouError) -> None:
        """Not for good: again a little later, if there is time."""
        batch.refusal = refusal
        batch.attempts += 1
        if isinstance(refusal, NotHere):
            self._cluster.spawn(self._cluster.forget(batch.topic))
        delay_s = max(refusal.retry_after_ms or 0, min(1_000, 10 << min(batch.attempts, 7))) / 1000
        delay_s *= self._cluster.rng.uniform(0.5, 1.0)
        after_s = self._deadlines.retry_after_s(delay_s, batch.deadline, self._loop.time(), lane.answers)
        if after_s is None:
            self._finished(batch, refusal)
            return
        if batch.pinned is not None:
            place = (batch.topic, batch.pinned)
            self._lane(batch.pinned[0]).busy.add((batch.topic, batch.pinned[1]))  # nobody overtakes it meanwhile
            self._ordered.setdefault(place, deque()).appendleft(batch)
        self._loop.call_later(after_s, self._again, batch)

    def _again(self, batch: Batch) -> None:
        if batch.pinned is not None:
            self._lane(batch.pinned[0]).busy.discard((batch.topic, batch.pinned[1]))
        else:
            self._waiting.append(batch)
        self.pump()

    def _missed(self, batch: Batch) -> None:
        """It is not under way and has no time left: nothing of it is stored."""
        refusal = batch.refusal
        if refusal is None or isinstance(refusal, Unreachable):
            refusal = DeadlineExceeded(f"not sent before the deadline: {refusal or 'no broker could take it'}")
        self._finished(batch, refusal)

    def reap(self) -> None:
        """Give up on what has passed its deadline."""
        now = self._loop.time()
        for lane in self.lanes.values():
            for batch in [b for b in lane.unresolved.values() if self._deadlines.lost(b.deadline, now)]:
                lane.give_up(batch)
                before = f" (an earlier attempt: {batch.refusal})" if batch.refusal is not None else ""
                self._finished(
                    batch,
                    OutcomeUnknown(
                        f"broker {lane.broker} did not answer in time: the messages may or may not be stored{before}"
                    ),
                )
        for batches in (self._waiting, *self._ordered.values()):
            for batch in [b for b in batches if b.deadline <= now]:
                batches.remove(batch)
                self._missed(batch)
        self._ordered = {place: batches for place, batches in self._ordered.items() if batches}
        self.pump()
