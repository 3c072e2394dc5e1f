"""One connection: answers to their requests, errors, pushes, its end, a server that says nonsense."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from kourou.client import Client
from kourou.client.cluster import Cluster
from kourou.client.fork import _in_child
from kourou.core import wire
from kourou.core.errors import Busy, DeadlineExceeded, KourouError, NotConnected, OutcomeUnknown
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code, WireMessage
from kourou.transport import connection as transport
from kourou.transport.connection import Connection, connect
from tests.unit.client.fake_server import FakePeer, FakeServer


async def dial(server: FakeServer, handlers: dict[int, transport.Pushed] | None = None) -> Connection:
    return await connect(parse_endpoint(server.address), client_id="me", handlers=handlers or {})


async def closed(connection: Connection) -> None:
    ended = asyncio.Event()
    connection.on_close(lambda _: ended.set())
    connection.close()
    async with asyncio.timeout(10):
        await ended.wait()


async def test_hello_says_who_and_where() -> None:
    async with FakeServer() as server:
        connection = await dial(server)
        (hello,) = server.asked(Code.HELLO)
        assert hello["client"]["id"] == "me"
        assert hello["dialled"] == server.address
        assert hello["versions"] == [1]
        assert connection.hello["server"]["name"] == "a"
        await closed(connection)


async def test_answers_find_their_requests_in_any_order() -> None:
    async with FakeServer() as server:
        asked: list[tuple[FakePeer, WireMessage]] = []
        server.on_topic_create = lambda peer, message: asked.append((peer, message))  # type: ignore[method-assign]
        connection = await dial(server)
        asking = [asyncio.create_task(connection.ask_json(Code.TOPIC_CREATE, {"n": n})) for n in range(10)]
        await server.until(lambda: len(asked) == 10)
        for peer, message in reversed(asked):
            peer.answer_json(message, {"echo": wire.decode_json(message.body)["n"]})
        assert [answer["echo"] for answer in await asyncio.gather(*asking)] == list(range(10))
        await closed(connection)


async def test_an_error_answer_is_raised() -> None:
    async with FakeServer() as server:

        def refuse(peer: FakePeer, message: WireMessage) -> None:
            raise Busy("full", retry_after_ms=5)

        server.on_topic_create = refuse  # type: ignore[method-assign]
        connection = await dial(server)
        with pytest.raises(Busy, match="full") as caught:
            await connection.ask_json(Code.TOPIC_CREATE, {})
        assert caught.value.retry_after_ms == 5
        with pytest.raises(DeadlineExceeded):
            await connection.ask(Code.PING, timeout_s=0)
        await closed(connection)
        with pytest.raises(NotConnected, match="has ended"):
            await connection.ask(Code.PING)


async def test_what_is_unanswered_at_the_end_is_unknown() -> None:
    async with FakeServer() as server:
        server.on_topic_create = lambda peer, message: peer.transport.abort()  # type: ignore[method-assign]
        connection = await dial(server)
        with pytest.raises(OutcomeUnknown, match="ended before the answer"):
            await connection.ask_json(Code.TOPIC_CREATE, {})
        server.on_topic_create = lambda peer, message: None  # type: ignore[method-assign]
        other = await dial(server)
        with pytest.raises(OutcomeUnknown, match="did not answer TOPIC_CREATE"):
            await other.ask(Code.TOPIC_CREATE, timeout_s=0.01)
        await closed(other)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        wire.encode(Code.TOPIC_CREATE, 2, flags=5, body=b"[not json"),
        wire.encode(Code.ROUTE_CHANGED, 0, flags=2, body=b"[]"),
        b"\xff" * 40,
    ],
)
async def test_a_server_that_says_nonsense_is_left(nonsense: bytes) -> None:
    async with FakeServer() as server:
        server.on_topic_create = lambda peer, message: peer.transport.write(nonsense)  # type: ignore[method-assign]

        def changed(message: WireMessage) -> None:
            wire.decode_json(message.body)

        connection = await dial(server, {Code.ROUTE_CHANGED: changed})
        with pytest.raises(KourouError):
            await connection.ask_json(Code.TOPIC_CREATE, {}, timeout_s=10)
        assert connection.closed or connection.reason is None


async def test_something_else_listens() -> None:
    async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"SSH-2.0-OpenSSH_9.0\r\n")
        writer.close()

    listening = await asyncio.start_server(on_connect, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    with pytest.raises(NotConnected, match="does not answer as Kourou does"):
        await connect(parse_endpoint(f"127.0.0.1:{port}"), client_id="me", handlers={})
    listening.close()
    await listening.wait_closed()


async def test_a_goodbye_is_heeded() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.producer() as producer:
            await producer.send("t", b"x")
            for peer in server.peers:
                peer.push_json(Code.GOAWAY, {"reason": "stopping"})
            while not producer._dispatcher.lanes["a"].connection.going_away:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            await producer.send("t", b"y")
            assert len(server.peers) == 3


async def test_pings_and_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeServer() as server:
        connection = await connect(parse_endpoint(server.address), client_id="me", handlers={}, ping_s=0.01, silent_s=0.05)
        await server.until(lambda: len(server.asked(Code.PING)) > 2)
        monkeypatch.setattr(server, "handle", lambda peer, message: None)
        async with asyncio.timeout(10):
            while not connection.closed:
                await asyncio.sleep(0.01)
        assert connection.reason is not None
        assert "nothing was heard" in connection.reason


async def test_a_loop_that_is_held_up_all_the_time_sees_that_the_other_end_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeServer() as server:
        connection = await connect(parse_endpoint(server.address), client_id="me", handlers={}, ping_s=0.02, silent_s=0.1)
        monkeypatch.setattr(server, "handle", lambda peer, message: None)
        async with asyncio.timeout(20):
            while not connection.closed:
                time.sleep(0.05)  # holds the loop up
                await asyncio.sleep(0)


async def test_a_loop_that_was_held_up_has_not_heard_yet() -> None:
    """What it did not read is no silence of the other end."""
    async with FakeServer() as server:
        connection = await connect(parse_endpoint(server.address), client_id="me", handlers={}, ping_s=0.02, silent_s=0.1)
        pings = len(server.asked(Code.PING))
        time.sleep(0.5)  # holds the loop up
        await server.until(lambda: len(server.asked(Code.PING)) > pings + 2)
        assert not connection.closed
        connection.close()


async def test_large_requests_wait_for_the_socket() -> None:
    async with FakeServer() as server:
        connection = await dial(server)
        got: list[int] = []
        server.on_produce = lambda peer, message: got.append(len(message.body))  # type: ignore[method-assign]
        for peer in server.peers:
            peer.transport.pause_reading()
        for _ in range(10):
            connection.push(Code.PRODUCE, parts=(bytes(4 * 1024 * 1024),))
        assert not connection.writable
        called: list[int] = []
        connection.on_writable(lambda: called.append(1))
        for peer in server.peers:
            peer.transport.resume_reading()
        async with asyncio.timeout(20):
            await connection.drained()
        assert (connection.writable, called) == (True, [1])
        await server.until(lambda: len(got) == 10)
        await closed(connection)


async def test_any_nameserver_of_the_list_will_do() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(f"127.0.0.1:1,{server.address}") as client, client.producer() as producer:
            assert (await producer.send("t", b"x")).offset == 0
    with pytest.raises(NotConnected, match=r"127\.0\.0\.1:1.*127\.0\.0\.1:2|127\.0\.0\.1:2.*127\.0\.0\.1:1"):
        await Client("127.0.0.1:1,127.0.0.1:2").open()
    with pytest.raises(NotConnected, match="is not open"):
        Client("127.0.0.1:1").producer()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_makes_connections_of_its_own() -> None:
    """What the fork hook does, with an event loop that the child makes afterwards."""

    async def parent() -> tuple[Cluster, set[int], FakeServer]:
        async with FakeServer() as server:
            server.add_topic("t")
            client = await Client(server.address).open()
            producer = client.producer()
            await producer.send("t", b"1")
            before = producer.id
            kept = list(server.peers)
            connections = [*client._cluster._brokers.values(), client._cluster._nameserver]
            assert client._opened is not None
            _in_child()
            assert producer.id != before
            await producer.send("t", b"2")
            assert [f.header.producer_id for f in server.frames] == [before, producer.id]
            assert len(server.peers) == 4
            assert set(kept) < set(server.peers)
            await client.close()
            for connection in connections:
                assert connection is not None
                await closed(connection)
            return client._opened, {before, producer.id}, server

    assert len(asyncio.run(parent())[1]) == 2
