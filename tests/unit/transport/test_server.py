"""What one connection can do to the server and to the others: over loopback, with handlers that only count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kourou.core import wire
from kourou.core.errors import LimitExceeded
from kourou.core.limits import HELLO_BYTES_MAX
from kourou.core.wire import Code, Flag, FrameReader, WireMessage
from kourou.transport.load import STARTS_MAX
from kourou.transport.server import DataPlaneServer, Handler, Peer, ServerIdentity, ServerLimits

MIB = 1024 * 1024


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    info = error = warning

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


class Wire:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = FrameReader()
        self._inbox: list[WireMessage] = []

    def send(self, code: int, opaque: int = 1, *, flags: int = 0, body: bytes = b"") -> None:
        self.writer.write(wire.encode(code, opaque, flags=flags, body=body))

    async def receive(self) -> WireMessage:
        while not self._inbox:
            data = await self.reader.read(65_536)
            if not data:
                raise EOFError
            self._inbox += self._frames.feed(data)
        return self._inbox.pop(0)

    async def ping(self) -> None:
        self.send(Code.PING, 77)
        assert (await self.receive()).opaque == 77

    async def ended(self) -> None:
        """Wait until the server has closed."""
        try:
            while True:
                await self.receive()
        except (EOFError, ConnectionError):
            pass


class World:
    def __init__(self, server: DataPlaneServer, port: int, log: Log) -> None:
        self.server, self.port, self.log = server, port, log
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self, *, hello: bool = True) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        client = Wire(reader, writer)
        if hello:
            client.send(Code.HELLO, body=wire.encode_json({"versions": [1], "client": {"id": "test"}}))
            assert not (await client.receive()).is_error
        return client

    def peer(self) -> Peer:
        (peer,) = self.server.peers
        return peer

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def serving(
    handlers: dict[int, Handler], now: Callable[[], float] = time.monotonic, **bounds: int
) -> AsyncIterator[World]:
    log = Log()
    identity = ServerIdentity("standalone", "b", "c", "1")
    server = DataPlaneServer(handlers, identity=identity, log=log, bounds=ServerLimits(**bounds), now=now)
    world = World(server, await server.listen("127.0.0.1", 0), log)
    try:
        yield world
    finally:
        world.hang_up()
        await server.close(grace_s=1.0)
    assert server.load.in_flight == 0
    assert server.load.partial == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_one_way_requests_are_not_answered() -> None:
    def sync(peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, {"body": "for nobody"})

    async def later(peer: Peer, message: WireMessage) -> None:
        await asyncio.sleep(0)
        peer.reply(message, parts=(bytes(10_000),))

    async with serving({Code.TOPIC_LIST: sync, Code.FETCH: later}) as world:
        client = await world.dial()
        for code in (Code.TOPIC_LIST, Code.FETCH, Code.PING, 999):
            client.send(code, flags=Flag.ONE_WAY)
        await until(lambda: world.peer().in_flight == 0)
        await client.ping()


async def test_a_peer_is_cut_off_once_and_what_it_asked_for_is_dropped() -> None:
    handled: list[int] = []

    def deaf(peer: Peer, message: WireMessage) -> None:
        handled.append(message.opaque)
        peer.reply(message, parts=(bytes(MIB),))

    async with serving({Code.FETCH: deaf}, unsent_bytes_max=4 * MIB) as world:
        client = await world.dial()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(b"".join(wire.encode(Code.FETCH, opaque) for opaque in range(5_000)))
        await until(lambda: not world.server.peers)
        assert len(world.log.named("peer_cut_off")) == 1
        assert world.server.cut_off == 1
        assert len(handled) < 100


async def test_one_way_requests_are_under_way_until_they_are_handled() -> None:
    """Somebody who sends more of them than are worked off is not read from meanwhile."""
    waiting: list[tuple[Peer, WireMessage]] = []

    def store(peer: Peer, message: WireMessage) -> None:
        waiting.append((peer, message))

    async with serving({Code.PRODUCE: store}, in_flight_bytes=MIB) as world:
        client = await world.dial()
        client.writer.write(wire.encode(Code.PRODUCE, 0, flags=Flag.ONE_WAY, body=bytes(100_000)) * 60)
        await until(lambda: world.peer().in_flight > MIB)
        await (await world.dial()).ping()
        assert len(waiting) * 100_000 < 3 * MIB
        total = 0
        while total < 60:
            await until(lambda: bool(waiting))
            total += len(waiting)
            for peer, message in waiting:
                peer.reply(message)
            waiting.clear()
        await client.ping()


@pytest.mark.parametrize("code", [Code.CREDIT, Code.RECEIVE_CANCEL])
async def test_what_has_no_answer_is_settled_when_handled(code: Code) -> None:
    """Also when it isn't marked as one-way."""

    async with serving({code: lambda peer, message: None}) as world:
        client = await world.dial()
        client.send(code, body=bytes(1_000))
        client.send(code, flags=Flag.ONE_WAY, body=bytes(1_000))
        await client.ping()
        assert world.peer().in_flight == 0


async def test_a_long_greeting_is_refused_before_it_has_arrived() -> None:
    async with serving({}) as world:
        client = await world.dial(hello=False)
        client.writer.write(wire.encode_head(Code.HELLO, 1, body_size=HELLO_BYTES_MAX))
        answer = await client.receive()
        assert isinstance(wire.decode_error(answer), LimitExceeded)
        await client.ended()


async def test_what_follows_the_greeting_at_once_may_be_long() -> None:
    async with serving({Code.TOPIC_LIST: lambda peer, message: peer.reply_json(message, {})}) as world:
        client = await world.dial(hello=False)
        hello = wire.encode(Code.HELLO, 1, body=wire.encode_json({"versions": [1], "client": {"id": "test"}}))
        client.writer.write(hello + wire.encode(Code.TOPIC_LIST, 2, body=bytes(MIB)))
        assert [(await client.receive()).opaque for _ in range(2)] == [1, 2]


async def test_a_greeting_in_drips_has_no_more_time_than_others() -> None:
    clock = [0.0]
    async with serving({}, now=lambda: clock[0]) as world:
        client = await world.dial(hello=False)
        client.writer.write(wire.encode_head(Code.HELLO, 1, body_size=100))
        for _ in range(6):
            client.writer.write(b"x")
            await until(lambda: not world.server.peers or world.peer().heard_at == clock[0])
            clock[0] += 1.0
        await client.ended()
        assert "no HELLO" in world.log.named("peer_cut_off")[0]["reason"]


async def test_parts_of_messages_are_bounded_together() -> None:
    """Many begin long messages: all together hold no more than the bound and one message; small requests are served."""
    async with serving({}, in_flight_total_bytes=4 * MIB) as world:
        hoarders = [await world.dial() for _ in range(12)]
        polite = await world.dial()
        part = wire.encode_head(Code.PRODUCE, 1, body_size=2 * MIB) + bytes(MIB)
        for client in hoarders:
            client.writer.write(part)
        await until(lambda: world.server.in_flight_bytes > 4 * MIB)
        await polite.ping()
        assert world.server.in_flight_bytes < 8 * MIB
        await until(lambda: bool(world.log.named("peer_cut_off")))  # the silent ones make room for the others
        await polite.ping()
        assert world.server.in_flight_bytes < 8 * MIB


async def test_long_messages_all_get_through_when_memory_is_short() -> None:
    stored = 0

    def store(peer: Peer, message: WireMessage) -> None:
        nonlocal stored
        stored += 1
        peer.reply(message)

    async def produce(client: Wire) -> None:
        for _ in range(3):
            client.writer.write(wire.encode(Code.PRODUCE, 1, body=bytes(2 * MIB)))
            await client.writer.drain()
            await client.receive()

    async with serving({Code.PRODUCE: store}, in_flight_total_bytes=3 * MIB) as world:
        clients = [await world.dial() for _ in range(8)]
        async with asyncio.timeout(60):
            await asyncio.gather(*map(produce, clients))
        assert stored == 24
        assert not world.log.named("peer_cut_off")


async def test_many_requests_of_one_connection_are_handled_in_slices() -> None:
    """By a clock on which each request takes a millisecond: others are served in between."""
    clock, order = [0.0], []

    def work(peer: Peer, message: WireMessage) -> None:
        clock[0] += 0.001
        order.append(peer.number)
        peer.reply(message)

    async with serving({Code.FETCH: work}, now=lambda: clock[0]) as world:
        greedy, polite = await world.dial(), await world.dial()
        greedy.writer.write(b"".join(wire.encode(Code.FETCH, opaque) for opaque in range(1_000)))
        await until(lambda: len(order) > 10)
        polite.send(Code.FETCH, 5)
        assert (await polite.receive()).opaque == 5
        assert len(order) < 1_000
        assert [(await greedy.receive()).opaque for _ in range(1_000)] == list(range(1_000))


async def test_few_tasks_are_started_in_a_turn() -> None:
    began = 0
    seen: list[int] = []

    async def look(peer: Peer, message: WireMessage) -> None:
        nonlocal began
        began += 1
        await asyncio.sleep(0)
        peer.reply(message)

    async with serving({Code.FETCH: look}) as world:
        client = await world.dial()
        client.writer.write(b"".join(wire.encode(Code.FETCH, opaque) for opaque in range(500)))
        while began < 500:
            before = began
            await asyncio.sleep(0)
            seen.append(began - before)
        assert max(seen) <= 2 * STARTS_MAX
        assert sorted([(await client.receive()).opaque for _ in range(500)]) == list(range(500))


async def test_tasks_of_a_connection_that_is_gone_do_not_begin() -> None:
    began: list[int] = []

    async def slow(peer: Peer, message: WireMessage) -> None:
        began.append(message.opaque)
        if len(began) == 3:
            peer.abort("gone")

    handlers: dict[int, Callable[[Peer, WireMessage], Awaitable[None] | None]] = {Code.FETCH: slow}
    async with serving(handlers) as world:
        client = await world.dial()
        client.writer.write(b"".join(wire.encode(Code.FETCH, opaque) for opaque in range(500)))
        await client.ended()
        await until(lambda: not world.server.peers)
        assert began == [0, 1, 2]
