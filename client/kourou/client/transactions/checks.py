"""Answering brokers that ask how a transaction ended.

Every broker of the topics is told, anew on each connection, that this client answers for them. A message of a transaction
that this very client has open is answered by what it knows; others by the checkers of its producers, in turn.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from kourou.client import fork
from kourou.client.cluster import Cluster
from kourou.client.fields import MessageFields
from kourou.core import deliveries
from kourou.core.backoff import Backoff
from kourou.core.deliveries import Delivery
from kourou.core.errors import KourouError
from kourou.core.names import check_topic
from kourou.core.records import Field
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection

if TYPE_CHECKING:
    from kourou.client.transactions.transaction import Transaction

OPEN_MAX = 100_000  # half messages that are remembered; the checker answers for the rest
OUTCOMES = ("commit", "rollback", "unknown")
Place = tuple[str, int, int]  # broker, log offset, record
log = logging.getLogger("kourou.client")


class HalfMessage(MessageFields):
    """A message whose transaction has not ended, as far as its broker knows."""

    __slots__ = ("_delivery", "broker", "topic")

    def __init__(self, topic: str, broker: str, delivery: Delivery) -> None:
        self._delivery = delivery
        self._fields = None
        self.topic = topic
        self.broker = broker

    def __repr__(self) -> str:
        return f"HalfMessage(topic={self.topic!r}, id={self.id!r})"

    def _block(self) -> bytes:
        return self._delivery.block

    @property
    def body(self) -> bytes:
        return self._delivery.body

    @property
    def id(self) -> str:
        return self._first(Field.MESSAGE_ID) or self._delivery.native_id

    @property
    def born_ms(self) -> int:
        return self._delivery.born_ms


Checker = Callable[[HalfMessage], Awaitable[str] | str]


class Registration:
    """What one producer answers for."""

    def __init__(self, checks: TransactionChecks, checker: Checker | None, topics: Iterable[str]) -> None:
        self.checker = checker
        self.topics = {check_topic(topic) for topic in topics}
        self.open: dict[Place, Transaction] = {}
        self._checks = checks

    def listen_for(self, topic: str) -> None:
        """A topic that the producer has transactions in; nobody is told where it has no checker."""
        if topic not in self.topics and self.checker is not None:
            self.topics.add(topic)
            self._checks.topics_changed()

    def opened(self, place: Place, transaction: Transaction) -> None:
        if len(self.open) < OPEN_MAX:
            self.open[place] = transaction

    def ended(self, place: Place) -> None:
        self.open.pop(place, None)

    def close(self) -> None:
        self._checks.unregister(self)


class TransactionChecks:
    """One of a client."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._registrations: list[Registration] = []
        self._keepers: dict[str, asyncio.Task[None]] = {}  # by broker
        self._changed = asyncio.Event()  # another set of topics
        self._turn = 0
        cluster.on_change(self._route_changed)
        fork.watch(self)

    def forked(self) -> None:
        fork.bury(self._keepers, self._changed)
        self._keepers, self._changed = {}, asyncio.Event()

    def register(self, checker: Checker | None, topics: Iterable[str]) -> Registration:
        registration = Registration(self, checker, topics if checker is not None else ())
        self._registrations.append(registration)
        if registration.topics:
            self.topics_changed()
        return registration

    def unregister(self, registration: Registration) -> None:
        if registration in self._registrations:
            self._registrations.remove(registration)
            self._changed_now()

    def topics_changed(self) -> None:
        self._changed_now()
        self._cluster.spawn(self._find_brokers())

    def _changed_now(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _topics(self) -> list[str]:
        return sorted({topic for registration in self._registrations for topic in registration.topics})

    async def _find_brokers(self) -> None:
        for topic in self._topics():
            try:
                await self._cluster.route(topic)
            except KourouError as failure:
                log.warning("no broker of topic %s is known, so nobody asks about its transactions: %s", topic, failure)
        self._route_changed()

    def _route_changed(self) -> None:
        for topic in self._topics():
            route = self._cluster.routes.get(topic)
            for place in route.brokers if route is not None else ():
                if place.queues and place.broker not in self._keepers and not self._cluster.closed:
                    self._keepers[place.broker] = self._cluster.spawn(self._keep(place.broker))

    async def _keep(self, broker: str) -> None:
        """Have the broker know the topics, on whatever connection there is."""
        backoff = Backoff(self._cluster.rng)
        while True:
            changed = self._changed
            try:
                connection = await self._cluster.broker(broker)
                connection.handlers[Code.TRANSACTION_CHECK] = self._asked(broker, connection)
                await connection.ask_json(Code.TRANSACTION_LISTEN, {"topics": self._topics()})
            except KourouError:
                await asyncio.sleep(backoff.next_ms() / 1000)
                continue
            backoff.reset()
            connection.on_close(lambda gone, changed=changed: changed.set())  # type: ignore[misc]
            await changed.wait()
            if self._changed is changed:
                self._changed = asyncio.Event()

    def _asked(self, broker: str, connection: Connection) -> Callable[[WireMessage], None]:
        def handle(message: WireMessage) -> None:
            self._cluster.spawn(self._answer(broker, connection, message))

        return handle

    async def _answer(self, broker: str, connection: Connection, message: WireMessage) -> None:
        outcome = "unknown"
        try:
            topic, log_offset, record, delivery = deliveries.decode_check(message.header, message.body)
            outcome = await self._outcome((broker, log_offset, record), HalfMessage(topic, broker, delivery))
        except Exception:
            log.exception("a transaction could not be checked; the broker will ask again")
        connection.answer_json(message, {"outcome": outcome})

    async def _outcome(self, place: Place, message: HalfMessage) -> str:
        for registration in self._registrations:
            transaction = registration.open.get(place)
            if transaction is not None:
                return transaction.outcome or "unknown"
        able = [r.checker for r in self._registrations if r.checker is not None and message.topic in r.topics]
        if not able:
            return "unknown"
        self._turn += 1
        return await _call(able[self._turn % len(able)], message)


async def _call(checker: Checker, message: HalfMessage) -> str:
    answered = checker(message)
    outcome = await answered if inspect.isawaitable(answered) else answered
    if outcome not in OUTCOMES:
        raise ValueError(f"a transaction checker answered {outcome!r}; allowed are {', '.join(OUTCOMES)}")
    return outcome
