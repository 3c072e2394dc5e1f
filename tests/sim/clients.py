"""Clients of the simulator: they create a topic, send with sequence numbers, read below C anywhere, and commit offsets.

All of them are on one host, which can be cut off from brokers. A request is *unknown* when its answer does not come; then
the very same bytes are sent again, to whoever is master by then, until it is OK or refused. What was refused without ever
having been unknown was not appended, and is sometimes given up. Everything is written into the history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kourou.broker.services.state import BrokerState
from kourou.broker.store.store import Appended
from kourou.core.errors import KourouError, OffsetOutOfRange
from kourou.core.frame import seal
from kourou.core.route import Placement, TopicType
from tests.sim import requests
from tests.sim.checkers import PLAIN, Committed, History, Looked, Received, Sent, Skipped
from tests.sim.network import CLIENTS
from tests.sim.process import TOPIC, Process, Reply
from tests.sim.requests import Deleted, Stored
from tests.sim.timeline import START_MS

if TYPE_CHECKING:
    from tests.sim.sharedcheckers import Acknowledged, Got
    from tests.sim.world import World

QUEUES = 3
TIMEOUT_MS = 1_500
UNKNOWN = object()
REFUSED = object()  # the connection: nobody listens
Request = Callable[[Process, Reply], None]


@dataclass(slots=True)
class Call:
    replica: int
    done: Reply
    over: bool = False


class Clients:
    def __init__(self, world: World) -> None:
        self._world = world
        self.history = History()
        self.shared: list[Got | Acknowledged] = []  # what consumers of the shared group have seen
        self.incarnation = 0
        self.finishing = False
        self._calls: list[Call] = []
        settings = world.settings
        self._producers: list[Producer] = [Producer(self, world, number) for number in range(settings.producers)]
        self._producers += [DelayedProducer(self, world, 100 + number) for number in range(settings.delayed)]
        self._producers += [HalfProducer(self, world, 200 + number) for number in range(settings.transactional)]
        self._consumers: list[Consumer | SharedConsumer] = [
            Consumer(self, world, number) for number in range(settings.consumers)
        ]
        self._consumers += [SharedConsumer(self, world, number) for number in range(settings.shared)]

    def start(self) -> None:
        self._create()

    def finish(self) -> None:
        """No new sends; what is under way is brought to its end, and everything is read."""
        self.finishing = True

    @property
    def all_sent(self) -> bool:
        return self.finishing and all(p.finished for p in self._producers) and not self._world.undelivered()

    @property
    def finished(self) -> bool:
        return not self.waiting()

    def waiting(self) -> list[str]:
        waiting = [producer.name for producer in self._producers if not producer.finished]
        waiting += self._world.undelivered()
        return waiting + [consumer.name for consumer in self._consumers if not consumer.finished]

    # ---- requests

    def call(self, replica: int | None, request: Request, done: Reply) -> None:
        """Ask a broker; ``done`` is told a result, a KourouError, REFUSED or UNKNOWN."""
        world = self._world
        if replica is None:
            world.timeline.after_ms(50, partial(done, REFUSED))
            return
        call = Call(replica, done)
        self._calls.append(call)
        world.network.carry(CLIENTS, replica, partial(self._arrive, call, request))
        world.timeline.after_ms(TIMEOUT_MS, partial(self._end, call, UNKNOWN))

    def _arrive(self, call: Call, request: Request) -> None:
        host = self._world.hosts[call.replica]
        if host.process is None:
            if host.powered:
                self._back(call, REFUSED)
            return
        host.run(lambda: host.process.answer(request, partial(self._back, call)) if host.process is not None else None)

    def _back(self, call: Call, answer: object) -> None:
        self._world.network.carry(call.replica, CLIENTS, partial(self._end, call, answer))

    def _end(self, call: Call, answer: object) -> None:
        if not call.over:
            call.over = True
            self._calls.remove(call)
            call.done(answer)

    def lost(self, replica: int) -> None:
        """A broker's process has ended: some of its clients hear of it at once, others wait in vain."""
        for call in self._calls:
            if call.replica == replica and self._world.random.random() < 0.7:
                self._back(call, UNKNOWN)

    def asked(self, name: str, place: tuple[int, int]) -> None:
        """A broker wants to know what is to become of a half message."""
        for producer in self._producers:
            if isinstance(producer, HalfProducer):
                producer.asked(name, place)

    # ---- the topic

    def topic_lost(self) -> None:
        """With all else that was in the log."""
        self._world.saw("topic: lost and created again")
        self._create()

    def _create(self) -> None:
        def decide(state: BrokerState) -> list[dict[str, object]]:
            return state.topics.create(TOPIC, TopicType.NORMAL, (Placement("group", QUEUES),), now_ms=START_MS)

        def done(answer: object) -> None:
            if answer in (UNKNOWN, REFUSED) or isinstance(answer, KourouError):
                self._world.timeline.after_ms(100, self._create)
                return
            if self.incarnation:
                return  # it was lost, and is there again
            self.incarnation = 1
            for producer in self._producers:
                producer.next()
            for consumer in self._consumers:
                consumer.next()

        self.call(self._world.directory.master(), lambda process, reply: process.record(decide, reply), done)


class Producer:
    """One send at a time, each to a queue by chance; the queue is the message group."""

    kind = PLAIN
    counts = (1, 1, 2, 5)  # records of a send

    def __init__(self, clients: Clients, world: World, number: int) -> None:
        self.name = f"producer {number}"
        self.finished = False
        self._clients = clients
        self._world = world
        self._number = number
        self._sequence = 0
        self._sent: Sent | None = None
        self._sealed = b""

    def next(self) -> None:
        if self._clients.finishing:
            self.finished = True
            return
        random = self._world.random
        self._sequence += random.choice((1, 1, 1, 2))
        queue = random.randrange(QUEUES)
        count = random.choice(self.counts)
        names = [f"{self._number}/{self._sequence}/{record}".encode() for record in range(count)]
        padding = bytes(random.choice((10, 100, 700)))
        self._sealed = self._seal(queue, [name + b" " + padding for name in names])
        self._sent = Sent(self._number, queue, tuple(name.decode() for name in names), kind=self.kind)
        self._clients.history.sent.append(self._sent)
        self._try()

    def _seal(self, queue: int, records: list[bytes], **more: Any) -> bytes:
        return seal(
            topic=TOPIC, queue_id=queue, records=records, born_ms=START_MS, producer_id=1000 + self._number,
            sequence=self._sequence, **more,
        )  # fmt: skip

    def _try(self) -> None:
        sealed, incarnation = self._sealed, self._clients.incarnation
        master = self._world.directory.master()
        self._clients.call(master, lambda process, reply: requests.produce(process, sealed, incarnation, reply), self._done)

    def _done(self, answer: object) -> None:
        sent, world = self._sent, self._world
        assert sent is not None
        if isinstance(answer, Appended):
            sent.outcome = "ok"
            known = answer.end_offset in world.truth.sums or not world.truth.lost.isdisjoint(sent.names)
            assert known, f"5: {sent.names[0]} is acknowledged, but not confirmed"
        elif answer is UNKNOWN:
            sent.outcome = "unknown"
        elif sent.outcome is None and world.random.random() < 0.1:
            sent.outcome = "refused"
        if sent.outcome in ("ok", "refused"):
            self._settled(sent, answer)
        else:
            world.timeline.after_ms(world.random.choice((10, 50, 300)), self._try)

    def _settled(self, sent: Sent, answer: object) -> None:
        self._rest()

    def _rest(self) -> None:
        world = self._world
        world.timeline.after_ms(2 * world.settings.think_ms * world.random.random(), self.next)


class Consumer:
    """Reads all queues in turn from any replica, and commits now and then; sometimes it begins anew, where that says."""

    def __init__(self, clients: Clients, world: World, number: int) -> None:
        self.name = f"consumer {number}"
        self.finished = False
        self._clients = clients
        self._world = world
        self._group = f"group-{number}"
        self._number = number
        self._places = [0] * QUEUES
        self._queue = 0
        self._empty = 0  # turns without anything, in a row

    def next(self) -> None:
        world, random = self._world, self._world.random
        roll = random.random()
        if self.finished:
            return
        if roll < 0.15:
            self._commit()
            return
        if roll < 0.17 and not self._clients.finishing:
            self._look()
            return
        self._queue = (self._queue + 1) % QUEUES
        queue, place = self._queue, self._places[self._queue]
        key = self._clients.incarnation << 32 | queue
        replica = world.directory.master() if random.random() < 0.6 else random.randrange(3)
        got = partial(self._got, queue, place)
        self._clients.call(replica, lambda process, reply: requests.fetch(process, key, place, reply), got)

    def _got(self, queue: int, place: int, answer: object) -> None:
        world = self._world
        if isinstance(answer, Stored):
            found = [Received(self._number, queue, offset, name) for offset, name in answer.names]
            self._clients.history.received += found
            self._places[queue] = max(place, answer.next_offset)
            self._empty = 0 if found else self._empty + 1
            if self._clients.all_sent and self._empty > 2 * QUEUES and self._all_read():
                self.finished = True
                if not world.settings.true_clocks:  # half messages are not waited for: who is asked decides at any time
                    self._clients.history.ended[self._number] = list(self._places)
                return
        elif isinstance(answer, Deleted):
            self._clients.history.skipped.append(Skipped(self._number, queue, place, answer.low))
            self._places[queue] = max(self._places[queue], answer.low)
        elif isinstance(answer, OffsetOutOfRange) and world.truth.rewinds:
            self._places[queue] = 0  # the log was rewound: it reads what is there now
        think_ms = 20 + world.settings.think_ms * world.random.random()
        hurries = self._clients.finishing and self._empty < QUEUES  # it may have everything to read still, and little time
        world.timeline.after_ms(2 if hurries else think_ms, self.next)

    def _all_read(self) -> bool:
        for host in self._world.hosts:
            if host.process is not None and host.process.leading is not None:
                store = host.process.store
                return all(
                    place >= store.queue_bounds(self._clients.incarnation << 32 | queue)[1]
                    for queue, place in enumerate(self._places)
                )
        return False

    def _commit(self) -> None:
        places = list(enumerate(self._places))
        group, incarnation = self._group, self._clients.incarnation

        def decide(state: BrokerState) -> list[dict[str, object]]:
            return state.offsets.commit(group, incarnation, places)

        def done(answer: object) -> None:
            if answer is None or isinstance(answer, Appended):
                self._clients.history.committed.append(Committed(self._number, tuple(self._places_of(places))))
            self._world.timeline.after_ms(10, self.next)

        self._clients.call(self._world.directory.master(), lambda process, reply: process.record(decide, reply), done)

    def _places_of(self, places: list[tuple[int, int]]) -> list[int]:
        return [offset for _, offset in places]

    def _look(self) -> None:
        """It starts anew: from what the master says is committed."""
        group, incarnation = self._group, self._clients.incarnation

        def read(process: Process, reply: Reply) -> None:
            leading = process.master()
            found = [process.state.offsets.committed(group, incarnation, queue) or 0 for queue in range(QUEUES)]
            leading.wait(process.store.end_offset, reply, found)  # what it saw is confirmed when this is answered

        def done(answer: object) -> None:
            if isinstance(answer, list):
                self._clients.history.committed.append(Looked(self._number, tuple(answer)))
                self._places = list(answer)
            self._world.timeline.after_ms(10, self.next)

        self._clients.call(self._world.directory.master(), read, done)


from tests.sim.sharedclients import SharedConsumer  # noqa: E402  it needs what is above
from tests.sim.waitingclients import DelayedProducer, HalfProducer  # noqa: E402
