"""What a client knows of the cluster, and its connections: one to a nameserver, one to each broker it talks to.

Routes are pushed by the nameserver. When all nameservers are gone the last routes stay in use; a broker's connection
lives on its own. Connections are made when they are first needed and made again, with back-off, by whoever needs them.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import zlib
from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import partial
from typing import Any

from kourou.client import fork
from kourou.client.dialling import SILENCE, first_of
from kourou.client.logic.routes import RouteTable
from kourou.core import wire
from kourou.core.backoff import Backoff
from kourou.core.compression import available
from kourou.core.errors import (
    AlreadyExists,
    BadRequest,
    DeadlineExceeded,
    KourouError,
    NotConnected,
    NotMaster,
    OutcomeUnknown,
    TopicNotFound,
)
from kourou.core.names import check_topic
from kourou.core.route import Endpoint, Placement, TopicRoute
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection, Pushed, connect

QUEUES_DEFAULT = 8  # of topics that are created automatically
LEAVE_S = 0.5  # what a former master has not answered by then it will not answer


class Cluster:
    def __init__(self, servers: tuple[Endpoint, ...], *, client_id: str | None = None, timeout_s: float = 10.0) -> None:
        self.servers = servers
        self.client_id = client_id or f"{socket.gethostname()}-{secrets.token_hex(6)}"
        self.timeout_s = timeout_s
        self.rng = random.Random()
        self._table = RouteTable()
        self.handlers: dict[int, Pushed] = {}  # of broker connections
        self._auto_create = False
        self._nameserver: Connection | None = None
        self._dialling: dict[str, asyncio.Task[Connection]] = {}
        self._brokers: dict[str, Connection] = {}  # by broker name
        self._listeners: list[Callable[[], None]] = []
        self._replaced: list[Connection] = []  # to former masters; answers may still come
        self._asking: dict[str, asyncio.Task[Any]] = {}  # about topics
        self._keeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.lite_members: set[tuple[str, str]] = set()  # (topic, group) of consumers: brokers know one a client
        self.closed = self._forked = False
        fork.watch(self)

    def forked(self) -> None:
        """Connections, tasks and what waits for them stay with the parent; here all begins anew at the next use."""
        fork.bury(self._nameserver, self._brokers, self._dialling, self._asking, self._tasks, self._keeper, self._changed)
        self._forked = True
        self.lite_members.clear()
        self._nameserver = self._keeper = None
        self._table = RouteTable()
        self._dialling, self._brokers, self._asking, self._tasks, self._replaced = {}, {}, {}, set(), []
        self._changed = asyncio.Event()

    @property
    def routes(self) -> dict[str, TopicRoute]:
        return self._table.routes

    @property
    def masters(self) -> dict[str, Endpoint | None]:
        return self._table.masters

    # ---- the nameserver

    async def open(self) -> None:
        """Connect to the first nameserver that answers. Raises NotConnected naming each that does not."""
        await self.nameserver()

    async def nameserver(self) -> Connection:
        """The connection to a nameserver; made when there is none."""
        known = self._nameserver
        if known is not None and not known.closed:
            return known
        connection = await self._dial("", self._connect_nameserver)
        if self._keeper is None and not self.closed:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        return connection

    async def _connect_nameserver(self) -> Connection:
        order = self.rng.sample(self.servers, len(self.servers))
        first: list[Endpoint] = []  # the one that has answered
        self._nameserver = await first_of([partial(self._greet, endpoint, first) for endpoint in order], spawn=self.spawn)
        return self._nameserver

    async def _greet(self, endpoint: Endpoint, first: list[Endpoint]) -> Connection:
        """What one says counts, that is watched from then on. Raises KourouError."""

        def arrived(answer: dict[str, Any]) -> None:
            if first:
                raise NotConnected(f"{first[0]} was faster")
            self._routes_arrived(answer)
            first.append(endpoint)

        def pushed(message: WireMessage) -> None:
            if first == [endpoint]:
                self._route_changed(message)

        silence = SILENCE if len(self.servers) > 1 else {}  # where there is no other one, haste is of no use
        connection = await self._connect(endpoint, {Code.ROUTE_CHANGED: pushed}, **silence)
        try:
            value = {"topics": list(self.routes), "watch": True}
            await connection.ask_json(Code.ROUTE, value, timeout_s=self.timeout_s, arrived=arrived)
        except BaseException:
            connection.close()
            raise
        return connection

    def now_known(self, servers: tuple[Endpoint, ...]) -> None:
        """These are the nameservers, from now on."""
        if len(servers) > 1 and len(self.servers) == 1 and self._nameserver is not None:
            self._nameserver.start_pings(**SILENCE)
        self.servers = servers

    async def ask_nameserver(
        self, code: int, value: object, *, arrived: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Ask for something that changes nothing: another nameserver, when the first one goes meanwhile."""
        connection = await self.nameserver()
        try:
            return await connection.ask_json(code, value, timeout_s=self.timeout_s, arrived=arrived)
        except (NotConnected, OutcomeUnknown):
            if not connection.closed or self.closed:
                raise
        connection = await self.nameserver()
        return await connection.ask_json(code, value, timeout_s=self.timeout_s, arrived=arrived)

    async def _keep(self) -> None:
        """Stay connected to some nameserver, so that changes are heard of."""
        backoff = Backoff(self.rng)
        while not self.closed:
            try:
                connection = await self.nameserver()
            except KourouError:
                await asyncio.sleep(backoff.next_ms() / 1000)
                continue
            backoff.reset()
            ended = asyncio.Event()
            connection.on_close(lambda gone, ended=ended: ended.set())  # type: ignore[misc]
            await ended.wait()

    def _route_changed(self, message: WireMessage) -> None:
        self._take_routes(wire.decode_json(message.body, what="ROUTE_CHANGED"))

    def _routes_arrived(self, answer: dict[str, Any]) -> None:
        self._auto_create = bool(answer.get("auto_create", self._auto_create))
        self._take_routes(answer)

    def _take_routes(self, answer: dict[str, Any]) -> None:
        self._table.take(answer)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for listener in list(self._listeners):
            listener()
        for broker, connection in self._brokers.items():
            if self._is_former(broker, connection):
                self._loop.call_later(LEAVE_S, self._leave, broker, connection)

    def _is_former(self, broker: str, connection: Connection) -> bool:
        """Is another process the master now?"""
        master = self.masters.get(broker)
        return not connection.closed and master is not None and connection.endpoint != master

    def _leave(self, broker: str, connection: Connection) -> None:
        """One that is frozen or cut off never ends a connection, and whoever uses it would wait."""
        if self._is_former(broker, connection):
            connection.abort("another process is the master now")

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call back after each change of a route."""
        self._listeners.append(listener)

    def off_change(self, listener: Callable[[], None]) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    async def route(self, topic: str, *, deadline: float | None = None) -> TopicRoute:
        """Where a topic is; created when it is missing and that is switched on. Raises TopicNotFound."""
        known = self.routes.get(topic)
        if known is not None:
            return known
        check_topic(topic)
        deadline = self.deadline() if deadline is None else deadline
        await self._once(f"find {topic}", lambda: self._find_or_create(topic))
        return await self.await_route(topic, deadline=deadline)

    async def _find_or_create(self, topic: str) -> None:
        await self._look_up(topic)
        if topic not in self.routes:
            if not self._auto_create:
                raise TopicNotFound(
                    f"topic {topic!r} does not exist and automatic creation is switched off; "
                    f"create it with 'kourou topic create {topic}'"
                )
            await self.define_topic(topic, "normal", QUEUES_DEFAULT, automatic=True)

    async def _once(self, name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Several who ask for the same at a time share one request."""
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = self.spawn(make())
            task.add_done_callback(lambda done: self._asked(name, done))
        await asyncio.shield(task)

    def _asked(self, name: str, task: asyncio.Task[Any]) -> None:
        self._asking.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may be left

    async def await_route(self, topic: str, *, deadline: float | None = None) -> TopicRoute:
        """The route of a topic that has just been created: nameservers learn of it from the brokers."""
        deadline = self.deadline() if deadline is None else deadline
        while (known := self.routes.get(topic)) is None:
            changed = self._changed
            try:
                async with asyncio.timeout_at(deadline):
                    await self._look_up(topic)
                    if topic not in self.routes:
                        await changed.wait()
            except TimeoutError:
                raise TopicNotFound(f"topic {topic!r} was created, but no nameserver lists it yet") from None
        return known

    async def _look_up(self, topic: str) -> None:
        await self.ask_nameserver(Code.ROUTE, {"topics": [topic], "watch": True}, arrived=self._routes_arrived)

    async def forget(self, topic: str) -> None:
        """The route proved wrong: ask again. A nameserver that is away leaves the old one in place."""
        try:
            await self._once(f"look up {topic}", lambda: self._look_up(topic))
        except KourouError:
            return

    # ---- brokers

    async def define_topic(self, topic: str, kind: str, queues: int, *, automatic: bool = False) -> bool:
        """Define a topic on every broker group: ``queues`` in all, spread evenly. True if it was new anywhere."""
        await self.refresh_brokers()
        if not self.masters:
            raise NotConnected("no broker is registered; start one, or wait until it is")
        names = sorted(name for name, master in self.masters.items() if master is not None or not automatic)
        if not names:
            raise NotConnected("no broker has a master at present; wait until one is back")
        each, more = divmod(queues, len(names))
        start = zlib.crc32(topic.encode()) % len(names) if automatic else 0  # the same for all who create it at a time
        shares = {names[(start + i) % len(names)]: each + (i < more) for i in range(len(names))}
        placement = [Placement(name, count) for name, count in sorted(shares.items()) if count]
        value = {
            "topic": topic,
            "type": kind,
            "placement": [[p.broker, p.queues] for p in placement],
            "auto": automatic,
        }
        created = False
        for place in placement:
            try:
                answer = await self.ask_broker(place.broker, Code.TOPIC_CREATE, value)
            except AlreadyExists:
                if not automatic:
                    raise
                continue  # somebody was quicker, and its definition counts
            created |= bool(answer.get("created"))
        return created

    async def refresh_brokers(self) -> None:
        try:
            await self.ask_nameserver(Code.ROUTE, {"topics": []}, arrived=self._routes_arrived)
        except NotConnected:
            if not self.masters:
                raise

    async def ask_broker(self, broker: str, code: int, value: object) -> dict[str, Any]:
        connection = await self.broker(broker)
        return await connection.ask_json(code, value, timeout_s=self.timeout_s)

    def connected(self, broker: str) -> Connection | None:
        """The connection to a broker's master, if there is one that can be used now."""
        known = self._brokers.get(broker)
        if known is None or known.closed or known.going_away:
            return None
        if known.endpoint != (self.masters.get(broker) or known.endpoint):
            return None  # another process is the master now
        return known

    async def broker(self, broker: str) -> Connection:
        """The connection to a broker group's master; made when there is none. Raises NotConnected."""
        return self.connected(broker) or await self._dial(broker, lambda: self._connect_broker(broker))

    async def _connect_broker(self, broker: str) -> Connection:
        while True:
            endpoint = self.masters.get(broker)
            if endpoint is None:
                raise NotConnected(f"broker {broker} has no master at present")
            connection = await self._connect_master(broker, endpoint)
            if connection is not None:
                break
        name = connection.hello.get("server", {}).get("name")
        if name != broker:
            connection.close()
            raise NotMaster(f"{endpoint} is broker {name}, not {broker}")
        former = self._brokers.get(broker)
        self._replaced = [old for old in (*self._replaced, former) if old is not None and not old.closed]
        self._brokers[broker] = connection
        return connection

    async def _connect_master(self, broker: str, endpoint: Endpoint) -> Connection | None:
        """None when another one became the master meanwhile: the former one may be cut off, and not even refuse."""
        dialling = asyncio.ensure_future(self._connect(endpoint, self.handlers))
        try:
            while not dialling.done() and self.masters.get(broker) == endpoint:
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((dialling, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        except asyncio.CancelledError:
            await self._give_up(dialling)
            raise
        if self.masters.get(broker) == endpoint:
            return await dialling
        await self._give_up(dialling)
        return None

    @staticmethod
    async def _give_up(dialling: asyncio.Future[Connection]) -> None:
        dialling.cancel()
        await asyncio.wait((dialling,))
        if not dialling.cancelled() and dialling.exception() is None:
            dialling.result().close()

    async def replica(self, broker: str, topic: str, turn: int, *, among: Collection[int] | None = None) -> Connection:
        """A connection to a slave of a broker group that holds a topic, to one ``among`` some if given; whoever asks closes
        it. Raises NotConnected."""
        known = self.routes.get(topic)
        place = next((b for b in known.brokers if b.broker == broker), None) if known is not None else None
        found = place.replicas if place is not None else ()
        endpoints = [endpoint for number, endpoint in found if among is None or number in among]
        if not endpoints:
            raise NotConnected(f"broker {broker} has no slave that is known")
        endpoint = endpoints[turn % len(endpoints)]
        connection = await self._connect(endpoint, {})
        if (name := connection.hello.get("server", {}).get("name")) != broker:
            connection.close()
            raise NotConnected(f"{endpoint} is broker {name}, not {broker}")
        return connection

    async def _connect(self, endpoint: Endpoint, handlers: dict[int, Pushed], **silence: float) -> Connection:
        if self.closed:
            raise NotConnected("the client is closed")
        return await connect(endpoint, client_id=self.client_id, handlers=handlers, compressions=available(), **silence)

    async def _dial(self, name: str, make: Callable[[], Any]) -> Connection:
        """One attempt at a time for each name; whoever comes meanwhile shares it."""
        self.check_loop()
        task = self._dialling.get(name)
        if task is None:
            task = self._dialling[name] = asyncio.get_running_loop().create_task(make())
            task.add_done_callback(lambda done: self._dialled(name, done))
        return await asyncio.shield(task)

    def _dialled(self, name: str, task: asyncio.Task[Connection]) -> None:
        self._dialling.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may be left

    def check_loop(self) -> None:
        """Connections live on the loop in which the client was opened; in a forked child on the first one that uses it."""
        running = asyncio._get_running_loop()
        if running is None or running is self._loop:
            return
        if not self._forked:
            raise BadRequest(
                "the client belongs to the event loop in which it was opened; open one in each loop, "
                "or use kourou.client.blocking from several threads"
            )
        self._loop, self._forked = running, False

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.timeout_s

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run something that the cluster owns: cancelled when it is closed. The loop may stand still meanwhile."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        self.closed = True
        tasks: Iterable[asyncio.Task[Any]] = [t for t in (self._keeper, *self._dialling.values(), *self._tasks) if t]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended = [c for c in (self._nameserver, *self._brokers.values(), *self._replaced) if c is not None and not c.closed]
        for connection in ended:
            connection.close()
        for connection in ended:
            gone = asyncio.Event()
            connection.on_close(lambda _, gone=gone: gone.set())  # type: ignore[misc]
            try:
                async with asyncio.timeout(1.0):
                    await gone.wait()
            except TimeoutError:
                connection.abort("did not close in time")


def is_retryable(failure: KourouError) -> bool:
    return failure.retry and not isinstance(failure, OutcomeUnknown | DeadlineExceeded)
