"""One consumer's subscription at one broker: assignments, positions, credit, commits, coming back after a break."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from kourou.client.cluster import Cluster, is_retryable
from kourou.client.farreading import FarReading
from kourou.client.handover import Handover, Witness
from kourou.client.router import Router
from kourou.client.slavereading import Reading, SlaveReading
from kourou.core import wire
from kourou.core.backoff import Backoff
from kourou.core.errors import KourouError, NotConnected, OutcomeUnknown, from_code
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection

if TYPE_CHECKING:
    from kourou.client.consumer import Consumer

Generation = tuple[int, int]

COMMITS_PER_REQUEST = 5_000  # the broker takes 10,000
NO_SESSION = -1  # of a position that is read at a slave


class Position:
    """Where the consumer is in a queue that is assigned to it. One object a session: a seek makes a new one."""

    __slots__ = (
        "committed",
        "done",
        "foreign",
        "generation",
        "gone",
        "handed",
        "next",
        "queue",
        "reading",
        "releasing",
        "seen",
        "session",
        "skip",
        "subscription",
    )

    def __init__(self, subscription: Subscription, queue: int, generation: Generation, session: int, offset: int) -> None:
        self.subscription = subscription
        self.queue = queue
        self.generation = generation
        self.session = session
        self.next = offset  # next offset to be delivered
        self.done = offset  # next offset to commit
        self.handed = offset  # behind the last message that a loop has handed out
        self.committed = offset
        self.skip = 0  # what is delivered below was finished before
        self.seen: Witness | None = None  # the last frame that was handed out
        self.reading: Reading | None = None  # at a slave, that it is, or was last, fed by
        self.foreign = 0  # bytes from there that wait in the inbox
        self.gone = False
        self.releasing: Release | None = None  # the broker's request to let go, not answered yet

    def finished(self, next_offset: int) -> None:
        self.done = max(self.done, next_offset)

    def took(self, size: int) -> None:
        """Bytes have left the inbox."""
        if self.foreign and self.reading is not None:
            foreign = min(size, self.foreign)
            self.foreign -= foreign
            self.reading.took(foreign)
            size -= foreign
        if size:
            self.subscription.took(size)


class Release:
    """A broker's request to let go of queues: answered when all of them are let go."""

    __slots__ = ("begun", "message", "waiting")

    def __init__(self, message: WireMessage) -> None:
        self.message = message
        self.waiting: set[int] = set()  # queues
        self.begun: set[int] = set()  # those whose last commit is under way


class Subscription:
    def __init__(self, cluster: Cluster, consumer: Consumer, broker: str) -> None:
        self.broker = broker
        self.positions: dict[int, Position] = {}
        self.paused: set[int] = set()
        self._handover = Handover()
        self._reading: SlaveReading | None = None  # at a slave, while there is no master
        self._far = FarReading(cluster, self, topic=consumer.topic, credit=consumer.options.credit)
        self._cluster = cluster
        self._consumer = consumer
        self._connection: Connection | None = None
        self._seeks = 0  # under way for the consumer
        self._nobody_seeks = asyncio.Event()
        self._nobody_seeks.set()
        self._number = 0
        self._taken = 0  # bytes taken since credit was last granted
        self._keeper: asyncio.Task[Any] | None = None
        self._ended = asyncio.Event()  # there is no subscription at present
        self._closed = False

    # ---- coming and going

    async def open(self) -> None:
        """Subscribe on the broker's connection. Raises what it answers."""
        connection = await self._cluster.broker(self.broker)
        await self._prove(connection)
        router = Router.of(connection)
        pending = router.expect(self)
        try:
            answer = await connection.ask_json(
                Code.SUBSCRIBE, self._consumer.subscribe_request(), timeout_s=self._cluster.timeout_s
            )
        finally:
            router.unexpect(pending)
        self._number = int(answer["subscription"])
        if connection.closed:
            raise NotConnected(f"the connection to broker {self.broker} ended: {connection.reason}")
        self._leave_slave()
        self._handover.subscribed(now=self._now())
        self._connection = connection
        self._taken = 0
        self._ended.clear()
        connection.on_close(self._lost)
        router.add(self._number, self)

    def keep(self) -> None:
        """Subscribe again whenever the connection has ended."""
        if self._keeper is None:
            self._keeper = self._cluster.spawn(self._keep())

    async def _keep(self) -> None:
        backoff = Backoff(self._cluster.rng)
        while not self._closed:
            if self._connection is None:
                try:
                    await self.open()
                except KourouError as failure:
                    if not (is_retryable(failure) or isinstance(failure, NotConnected)) and failure.code < 200:
                        self._leave_slave()
                        self._consumer.failed(failure)
                        return
                    self._read_at_slave()
                    await self._cluster.forget(self._consumer.topic)
                    await asyncio.sleep(backoff.next_ms() / 1000)
                    continue
                backoff.reset()
            await self._ended.wait()

    def _lost(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
            self._far.stop()
            self._handover.hold(self.positions.values(), now=self._now())
            self._drop_all()
            self._ended.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # ---- while there is no master

    async def _prove(self, connection: Connection) -> None:
        """How much of what was finished can be handed to this master?"""
        current = ((p.queue, p.seen) for p in self.positions.values())
        seen = {held.queue: held.seen for held in self._handover} | dict(current)
        wanted = [(queue, witness) for queue, witness in seen.items() if witness is not None]
        await self._handover.prove(connection, self._consumer.topic, wanted, timeout_s=self._cluster.timeout_s)

    def _read_at_slave(self) -> None:
        """Go on at a slave with the queues that were assigned; what is finished is held."""
        if self._reading is not None or not self._handover:
            return
        options = self._consumer.options
        self._reading = SlaveReading(self._cluster, self, topic=self._consumer.topic, credit=options.credit)
        for held in self._handover:
            position = self.positions[held.queue] = Position(self, held.queue, held.generation, NO_SESSION, held.done)
            position.committed, position.seen, position.reading = held.committed, held.seen, self._reading

    def _leave_slave(self) -> None:
        if self._reading is not None:
            self._reading.stop()
            self._reading = None
            self._handover.hold(self.positions.values(), now=self._now())
            self._drop_all()

    def arrived(self, position: Position, data: memoryview, next_offset: int) -> None:
        """A slave has answered."""
        start, position.next = max(position.next, position.skip), next_offset
        position.foreign += len(data)
        if next_offset <= position.skip:
            position.took(len(data))
        else:
            self._consumer.delivered(position, data, start, next_offset)

    def _drop_all(self) -> None:
        for position in list(self.positions.values()):
            self._drop(position)

    def _drop(self, position: Position) -> None:
        position.gone = True
        if self.positions.get(position.queue) is position:
            del self.positions[position.queue]
        self._consumer.dropped(position)

    async def close(self, *, commit: bool) -> None:
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        self._leave_slave()
        self._far.stop()
        connection = self._connection
        if connection is not None and not connection.closed:
            try:
                if commit:
                    await self.commit()
                await connection.ask_json(Code.UNSUBSCRIBE, {"subscription": self._number}, timeout_s=2.0)
            except KourouError:
                pass  # the broker notices that the connection ends, and redelivers what was not committed
            Router.of(connection).remove(self._number)
        self._connection = None
        self._drop_all()

    # ---- what the broker sends

    def assigned(self, value: dict[str, Any]) -> None:
        for entry in value["queues"]:
            old = self.positions.get(entry["queue"])
            if old is not None:
                self._drop(old)
            queue, generation, offset = entry["queue"], (entry["epoch"], entry["n"]), entry["offset"]
            position = self.positions[queue] = Position(self, queue, generation, entry["session"], offset)
            position.done = position.skip = self._handover.take(queue, offset, now=self._now())
            self.paused.discard(queue)

    def elsewhere(self, value: dict[str, Any]) -> None:
        """The master holds back what follows in a queue until ``come_back``."""
        position = self.positions.get(value["queue"])
        if position is None or position.session != value["session"] or position.generation != (value["epoch"], value["n"]):
            return
        position.next = value["offset"]
        self._far.add(position, value["replicas"])

    async def come_back(self, position: Position, *, stay: bool) -> None:
        """Have the master go on with a queue. ``stay``: it is not to send us off again.

        Where it does not say so in time, others need not wait any longer; it may go on later nevertheless.
        """
        await self._nobody_seeks.wait()  # else that says where to go on, if it succeeds
        connection = self._connection
        if connection is None or connection.closed or position.gone or position.releasing is not None:
            return
        done = asyncio.Event()

        def answered(result: WireMessage | KourouError) -> None:
            """At once: deliveries of the new session may lie right behind the answer. Where it is refused another has the
            queue by now, or the connection ends; both are told otherwise."""
            if not isinstance(result, KourouError):
                answer = wire.decode_json(result.body, what="answer to SEEK")
                position.session, position.next = answer["session"], answer["offset"]
            done.set()

        to = {"offset": position.next}
        value = {"subscription": self._number, "queue": position.queue, "to": to, "stay": stay}
        connection.request(Code.SEEK, answered, parts=(wire.encode_json(value),))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._cluster.timeout_s):
                await done.wait()

    def revoked(self, message: WireMessage, value: dict[str, Any]) -> None:
        error = value.get("error")
        if error is not None:
            self._consumer.failed(from_code(error["code"], error["message"]))
        if not value["queues"]:  # the whole subscription was ended by the broker; the keeper subscribes anew
            if self._connection is not None:
                Router.of(self._connection).remove(self._number)
            self._number, self._connection = 0, None
            self._far.stop()
            self._drop_all()
            self._ended.set()
            return
        release = Release(message)
        idle: list[Position] = []
        for entry in value["queues"]:
            position = self.positions.get(entry["queue"])
            if position is None or position.generation != (entry["epoch"], entry["n"]):
                continue
            if message.is_one_way:
                self._drop(position)
                continue
            position.releasing = release
            release.waiting.add(position.queue)
            self._consumer.dropped(position)
            if not self._consumer.is_working_on(position):
                idle.append(position)
        if not message.is_one_way:
            if not release.waiting and self._connection is not None:
                self._connection.answer_json(message, {})
            for position in idle:
                self.release(position)

    def release(self, position: Position) -> None:
        """Commit what is finished of a queue that was asked back, and let go of it."""
        release = position.releasing
        if release is None or position.gone or position.queue in release.begun:
            return
        release.begun.add(position.queue)
        if self._consumer.options.auto_commit and position.done > position.committed and self._connection is not None:
            self._cluster.spawn(self._release(position, release, self._connection))
        else:
            self._let_go(position, release)

    async def _release(self, position: Position, release: Release, connection: Connection) -> None:
        try:
            await self._commit(connection, [position])
        except KourouError:
            pass  # then the next owner starts from the last commit
        self._let_go(position, release)

    def _let_go(self, position: Position, release: Release) -> None:
        self._drop(position)
        release.waiting.discard(position.queue)
        if self._connection is not None and not release.waiting:
            self._connection.answer_json(release.message, {})

    def delivered(self, message: WireMessage) -> None:
        _, queue, epoch, number, session, next_offset = wire.DELIVER_HEAD.unpack(message.header)
        position = self.positions.get(queue)
        size = len(message.body)
        if (
            position is None
            or position.gone
            or position.session != session
            or position.generation != (epoch, number)
            or position.releasing is not None
        ):
            self.took(size)
            return
        start, position.next = max(position.next, position.skip), next_offset
        if next_offset <= position.skip:
            self.took(size)
        elif size:
            self._consumer.delivered(position, message.body, start, next_offset)
        elif position.done == start:
            position.done = next_offset  # the filter left all of it out

    def took(self, size: int) -> None:
        """Bytes have left the inbox: let the broker send as many again, in portions."""
        self._taken += size
        if self._taken * 4 >= self._consumer.options.credit and self._connection is not None and self._number:
            self._connection.push(Code.CREDIT, header=wire.CREDIT_HEAD.pack(self._number, self._taken))
            self._taken = 0

    # ---- what the consumer asks

    async def commit(self) -> None:
        connection = self._connection
        moved = [p for p in self.positions.values() if p.done > p.committed]
        if connection is None or not moved:
            return
        for first in range(0, len(moved), COMMITS_PER_REQUEST):
            await self._commit(connection, moved[first : first + COMMITS_PER_REQUEST])

    async def _commit(self, connection: Connection, moved: list[Position]) -> None:
        targets = [(p, p.done) for p in moved]
        body = b"".join(wire.COMMIT_ENTRY.pack(p.queue, *p.generation, done) for p, done in targets)
        message = await connection.ask(
            Code.COMMIT,
            header=wire.COMMIT_REQUEST.pack(self._number, len(targets)),
            parts=(body,),
            timeout_s=self._cluster.timeout_s,
        )
        fenced = set(wire.decode_json(message.body, what="answer to COMMIT").get("fenced", ()))
        for position, done in targets:
            if position.queue not in fenced:
                position.committed = max(position.committed, done)
            elif not position.gone and position.releasing is None:
                self._drop(position)  # its generation is over: another has the queue, or it is assigned to us anew

    async def seek(self, position: Position, to: object) -> None:
        connection = self._need()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(result: WireMessage | KourouError) -> None:
            """At once, not by a future: deliveries of the new session may lie right behind the answer."""
            if isinstance(result, KourouError):
                if not future.done():
                    future.set_exception(result)
                return
            answer = wire.decode_json(result.body, what="answer to SEEK")
            if self.positions.get(position.queue) is position and position.releasing is None:
                self._drop(position)
                fresh = Position(self, position.queue, position.generation, answer["session"], answer["offset"])
                self.positions[fresh.queue] = fresh
            if not future.done():
                future.set_result(None)

        request = {"subscription": self._number, "queue": position.queue, "to": to}
        connection.request(Code.SEEK, answered, parts=(wire.encode_json(request),))
        self._seeks += 1
        self._nobody_seeks.clear()
        try:
            async with asyncio.timeout(self._cluster.timeout_s):
                await future
        except TimeoutError:
            raise OutcomeUnknown(f"broker {self.broker} did not answer SEEK within {self._cluster.timeout_s:g} s") from None
        finally:
            self._seeks -= 1
            if not self._seeks:
                self._nobody_seeks.set()

    async def pause(self, queues: list[int] | None, paused: bool) -> None:
        connection = self._need()
        value = {"subscription": self._number, "queues": queues, "paused": paused}
        await connection.ask_json(Code.PAUSE, value, timeout_s=self._cluster.timeout_s)
        some = self.positions if queues is None else queues
        self.paused = self.paused.union(some) if paused else self.paused.difference(some)

    def _need(self) -> Connection:
        if self._connection is None:
            raise NotConnected(f"there is no connection to broker {self.broker} at present")
        return self._connection
