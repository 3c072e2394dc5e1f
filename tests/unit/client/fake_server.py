"""A data-plane server inside the test's process: does what a standalone node does, or what the test's script says.

    async with FakeServer() as server:
        server.add_topic("t", queues=4)
        server.script.append(Action.LOSE_ANSWER)      # for the next PRODUCE
        async with Client(server.address) as client: ...

It stores what is produced, once for each producer and sequence, and remembers every request. For consumers the test says
what is assigned and delivered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self

from kourou.core import frame, wire
from kourou.core.errors import KourouError, SubscriptionNotFound, TopicNotFound
from kourou.core.frame import SealedHeader
from kourou.core.wire import Code, Flag, FrameReader, WireMessage

STORE_MS = 1_700_000_000_000


class Action(Enum):
    """What becomes of a PRODUCE, other than that it is stored and answered."""

    LOSE_ANSWER = 1  # stored, then the connection ends
    LOSE_REQUEST = 2  # not stored, and the connection ends
    HOLD = 3  # stored; answered when the test calls ``release``
    STORE = 4  # the usual


@dataclass
class Produced:
    """A frame as it came."""

    header: SealedHeader
    sealed: bytes
    bodies: list[bytes]
    offset: int


@dataclass
class Subscribed:
    number: int
    request: dict[str, Any]
    peer: FakePeer
    credit: int = 0
    commits: list[tuple[int, int]] = field(default_factory=list)  # (queue, offset)


class FakePeer(asyncio.Protocol):
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.reader = FrameReader()
        self.hello: dict[str, Any] = {}
        self.waiting: dict[int, Callable[[WireMessage], None]] = {}  # the server's own requests
        self.ended = asyncio.Event()
        self.opaque = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.peers.append(self)

    def data_received(self, data: bytes) -> None:
        for message in self.reader.feed(data):
            if message.is_answer:
                self.waiting.pop(message.opaque)(message)
            else:
                try:
                    self.server.handle(self, message)
                except KourouError as failure:
                    self.transport.write(wire.encode_error(message.code, message.opaque, failure))

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.peers.remove(self)
        self.ended.set()

    def answer(self, message: WireMessage, *, header: bytes = b"", body: bytes = b"") -> None:
        self.transport.write(wire.encode(message.code, message.opaque, flags=Flag.ANSWER, header=header, body=body))

    def answer_json(self, message: WireMessage, value: object) -> None:
        self.answer(message, body=wire.encode_json(value))

    def push(self, code: int, *, header: bytes = b"", body: bytes = b"") -> None:
        self.transport.write(wire.encode(code, 0, flags=Flag.ONE_WAY, header=header, body=body))

    def push_json(self, code: int, value: object) -> None:
        self.push(code, body=wire.encode_json(value))

    def request_json(self, code: int, value: object) -> asyncio.Future[WireMessage]:
        future: asyncio.Future[WireMessage] = asyncio.get_running_loop().create_future()
        self.opaque += 1
        self.waiting[self.opaque] = future.set_result
        self.transport.write(wire.encode(code, self.opaque, body=wire.encode_json(value)))
        return future


class FakeServer:
    def __init__(self, name: str = "a", *, auto_create: bool = False) -> None:
        self.name = name
        self.auto_create = auto_create
        self.peers: list[FakePeer] = []
        self.brokers: dict[str, FakeServer] = {name: self}
        self.topics: dict[str, dict[str, Any]] = {}
        self.script: deque[Action | KourouError] = deque()
        self.requests: list[tuple[int, dict[str, Any]]] = []  # the self-describing ones
        self.frames: list[Produced] = []  # as stored, each once
        self.writes: list[Produced] = []  # as they came, again and again
        self.held: list[Callable[[], None]] = []
        self.subscriptions: list[Subscribed] = []
        self.fenced: set[int] = set()  # queues of which no commit is accepted
        self.changed = asyncio.Event()
        self.watchers: list[FakePeer] = []
        self._results: dict[tuple[int, int], Produced] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def listen(self) -> None:
        """Start, or start again at the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: FakePeer(self), "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
            await self.cut()
            await self._server.wait_closed()
            self._server = None

    async def cut(self) -> None:
        """End all connections."""
        peers = list(self.peers)
        for peer in peers:
            peer.transport.abort()
        for peer in peers:
            await peer.ended.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that requests bring about is so."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    # ---- routes

    def add_topic(
        self, topic: str, *, queues: int = 1, type: str = "normal", placement: dict[str, int] | None = None
    ) -> None:
        shares = placement or {self.name: queues}
        self.topics[topic] = {"type": type, "placement": sorted(shares.items())}
        self.push_routes()

    def push_routes(self) -> None:
        for peer in self.watchers:
            if peer in self.peers:
                peer.push_json(Code.ROUTE_CHANGED, self.routes(list(self.topics)))

    def routes(self, topics: Iterable[str]) -> dict[str, Any]:
        masters = {name: server.address if server._server is not None else None for name, server in self.brokers.items()}
        asked = list(topics)
        return {
            "routes": [
                {
                    "topic": topic,
                    "type": self.topics[topic]["type"],
                    "version": 1,
                    "brokers": [
                        {"broker": broker, "queues": count, "epoch": 1, "master": masters[broker], "replicas": []}
                        for broker, count in self.topics[topic]["placement"]
                    ],
                }
                for topic in asked
                if topic in self.topics
            ],
            "missing": [topic for topic in asked if topic not in self.topics],
            "auto_create": self.auto_create,
            "brokers": [{"broker": name, "epoch": 1, "master": master} for name, master in sorted(masters.items())],
        }

    # ---- requests

    def handle(self, peer: FakePeer, message: WireMessage) -> None:
        handlers: dict[int, Callable[[FakePeer, WireMessage], None]] = {
            Code.HELLO: self.on_hello,
            Code.PING: lambda peer, message: peer.answer_json(message, {}),
            Code.ROUTE: self.on_route,
            Code.TOPIC_CREATE: self.on_topic_create,
            Code.PRODUCE: self.on_produce,
            Code.SUBSCRIBE: self.on_subscribe,
            Code.UNSUBSCRIBE: self.on_unsubscribe,
            Code.CREDIT: self.on_credit,
            Code.COMMIT: self.on_commit,
            Code.SEEK: self.on_seek,
            Code.PAUSE: lambda peer, message: peer.answer_json(message, {}),
        }
        if message.code not in (Code.PRODUCE, Code.CREDIT, Code.COMMIT):
            self.requests.append((message.code, wire.decode_json(message.body)))
        handlers[message.code](peer, message)
        self.changed.set()

    def asked(self, code: int) -> list[dict[str, Any]]:
        return [value for found, value in self.requests if found == code]

    def on_hello(self, peer: FakePeer, message: WireMessage) -> None:
        peer.hello = wire.decode_json(message.body)
        server = {"role": "standalone", "name": self.name, "cluster": "c", "version": "0"}
        peer.answer_json(message, {"version": 1, "server": server, "limits": {}, "compressions": ["zlib"]})

    def on_route(self, peer: FakePeer, message: WireMessage) -> None:
        value = wire.decode_json(message.body)
        if value.get("watch"):
            self.watchers.append(peer)
        peer.answer_json(message, self.routes(value["topics"]))

    def on_topic_create(self, peer: FakePeer, message: WireMessage) -> None:
        value = wire.decode_json(message.body)
        created = value["topic"] not in self.topics
        peer.answer_json(message, {"created": created, "incarnation": 1})
        if created:
            self.add_topic(value["topic"], type=value["type"], placement=dict(value["placement"]))

    def on_produce(self, peer: FakePeer, message: WireMessage) -> None:
        action = self.script.popleft() if self.script else Action.STORE
        body, at, results = bytes(message.body), 0, []
        while at < len(body):
            header = frame.parse_sealed(body, at)
            sealed = body[at : at + header.size]
            frame.check_sealed_crc(sealed, 0, header.size)
            at += header.size
            written = Produced(header, sealed, self._bodies(sealed, header), -1)
            self.writes.append(written)
            if isinstance(action, KourouError):
                raise action
            if header.topic not in self.topics:
                raise TopicNotFound(f"there is no topic {header.topic}")
            if action is not Action.LOSE_REQUEST:
                results.append(self._store(written))
        if action in (Action.LOSE_ANSWER, Action.LOSE_REQUEST):
            peer.transport.abort()
            return
        count = wire.PRODUCE_ANSWER.pack(len(results), 0)

        def answer() -> None:
            peer.answer(message, header=count, body=b"".join(results))

        if action is Action.HOLD:
            self.held.append(answer)
        else:
            answer()

    def release(self) -> None:
        held, self.held = self.held, []
        for answer in held:
            answer()

    def _store(self, written: Produced) -> bytes:
        header = written.header
        key = (header.producer_id, header.sequence)
        known = self._results.get(key)
        if known is None:
            place = (header.topic, header.queue_id)
            written.offset = self._ends.get(place, 0)
            self._ends[place] = written.offset + header.record_count
            self._results[key] = written
            self.frames.append(written)
        stored = known or written
        return wire.PRODUCE_RESULT.pack(0, known is not None, header.queue_id, stored.offset, 0, STORE_MS)

    @staticmethod
    def _bodies(sealed: bytes, header: SealedHeader) -> list[bytes]:
        if header.compression:
            return []
        bounds = frame.record_bounds(sealed, 0, header)
        sizes = frame.column(sealed, 0, header, frame.Column.PROPERTY_SIZES) or [0] * header.record_count
        at = header.records_at
        return [sealed[at + bounds[i] + sizes[i] : at + bounds[i + 1]] for i in range(header.record_count)]

    # ---- subscriptions

    def on_subscribe(self, peer: FakePeer, message: WireMessage) -> None:
        value = wire.decode_json(message.body)
        found = Subscribed(len(self.subscriptions) + 1, value, peer, value["credit"])
        self.subscriptions.append(found)
        peer.answer_json(message, {"subscription": found.number})

    def on_unsubscribe(self, peer: FakePeer, message: WireMessage) -> None:
        peer.answer_json(message, {})

    def on_credit(self, peer: FakePeer, message: WireMessage) -> None:
        number, count = wire.CREDIT_HEAD.unpack(message.header)
        self.subscriptions[number - 1].credit += count

    def on_commit(self, peer: FakePeer, message: WireMessage) -> None:
        number, _ = wire.COMMIT_REQUEST.unpack(message.header)
        if not 0 < number <= len(self.subscriptions):
            raise SubscriptionNotFound(f"there is no subscription {number}")
        fenced: list[int] = []
        for queue, _, _, offset in wire.COMMIT_ENTRY.iter_unpack(message.body):
            if queue in self.fenced:
                fenced.append(queue)
            else:
                self.subscriptions[number - 1].commits.append((queue, offset))
        peer.answer_json(message, {"fenced": fenced})

    def on_seek(self, peer: FakePeer, message: WireMessage) -> None:
        value = wire.decode_json(message.body)
        peer.answer_json(message, {"session": 99, "offset": value["to"]["offset"]})

    async def subscribed(self, count: int = 1) -> Subscribed:
        await self.until(lambda: len(self.subscriptions) >= count)
        return self.subscriptions[count - 1]

    def assign(self, to: Subscribed, *queues: int, session: int = 1, n: int = 1, offset: int = 0) -> None:
        entries = [{"queue": queue, "epoch": 1, "n": n, "session": session, "offset": offset} for queue in queues]
        to.peer.push_json(Code.ASSIGN, {"subscription": to.number, "queues": entries})

    def deliver(self, to: Subscribed, queue: int, frames: bytes, next_offset: int, *, session: int = 1, n: int = 1) -> None:
        header = wire.DELIVER_HEAD.pack(to.number, queue, 1, n, session, next_offset)
        to.credit -= len(frames)
        to.peer.push(Code.DELIVER, header=header, body=frames)

    def end(self, to: Subscribed, queue: int, *, n: int = 1) -> None:
        """Take a queue away without asking."""
        entry = {"queue": queue, "epoch": 1, "n": n}
        to.peer.push_json(Code.REVOKE, {"subscription": to.number, "queues": [entry], "deadline_ms": 0})

    def revoke(self, to: Subscribed, *queues: int, n: int = 1) -> asyncio.Future[WireMessage]:
        entries = [{"queue": queue, "epoch": 1, "n": n} for queue in queues]
        return to.peer.request_json(Code.REVOKE, {"subscription": to.number, "queues": entries, "deadline_ms": 5_000})


def logged(sealed: bytes, *, queue_offset: int, log_offset: int = 0) -> bytes:
    """A sealed part with the prefix that a broker puts before it."""
    prefix = frame.make_prefix(
        sealed_size=len(sealed),
        sealed_crc=int.from_bytes(sealed[-4:], "little"),
        log_offset=log_offset,
        epoch=1,
        incarnation=1,
        queue_offset=queue_offset,
        store_ms=STORE_MS,
    )
    return prefix + sealed


def plain(*bodies: bytes, queue_offset: int = 0, topic: str = "t", queue: int = 0) -> bytes:
    """A delivered frame of records without properties."""
    sealed = frame.seal(topic=topic, queue_id=queue, records=list(bodies), born_ms=STORE_MS, producer_id=7, sequence=1)
    return logged(sealed, queue_offset=queue_offset)
