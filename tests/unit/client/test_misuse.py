"""What callers get wrong: each is refused where it is passed, with a text that names it, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kourou.client import Client, Consumer, Producer
from kourou.client.blocking import Client as BlockingClient
from kourou.client.client import parse_servers
from kourou.client.message import Message, encode_properties
from kourou.core.errors import BadRequest, KourouError, NotConnected, NotSupported
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.test_blocking import Served, served

__all__ = ["served"]
NAN = float("nan")
HALF_A_PAIR = "\ud800"


@pytest.mark.parametrize("text", [",", "  ", " , "])
def test_a_server_list_without_addresses(text: str) -> None:
    with pytest.raises(BadRequest, match="names no server"):
        parse_servers(text)


@pytest.mark.parametrize("text", ["::1", "[::1", "127.0.0.1:10911:5", "a:b:1", "fe80::1]:5"])
def test_addresses_that_have_too_many_colons(text: str) -> None:
    with pytest.raises(BadRequest, match="in brackets"):
        parse_servers(text)
    assert str(parse_servers("[::1]:5")[0]) == "[::1]:5"
    assert parse_servers("[::1]")[0].port == 10911


async def test_options_are_checked() -> None:
    calls: list[tuple[Callable[[Any], Any], str]] = [
        (lambda c: c.producer(deadline_s=NAN), "deadline_s is nan"),
        (lambda c: c.producer(linger_ms="5"), "linger_ms must be a number, not str"),
        (lambda c: c.producer(batch_bytes=1.5), "batch_bytes must be a whole number"),
        (lambda c: c.producer(buffer_bytes=0), "buffer_bytes is 0"),
        (lambda c: c.consumer("t", group="g", tags=["a", 5]), "there is a int among them"),
        (lambda c: c.consumer("t", group="g", tags=""), "tags has ''"),
        (lambda c: c.consumer("t", group="g", tags=[]), "tags is empty"),
        (lambda c: c.consumer("t", group="g", tags=["a|b"]), r"tags has 'a\|b'"),
        (lambda c: c.consumer("t", group="g", tags=7), "not int"),
        (lambda c: c.consumer("t", group="g", prefetch_bytes=None), "prefetch_bytes"),
        (lambda c: c.shared_consumer("t", group="g", invisible_s=NAN), "invisible_s is nan"),
        (lambda c: c.shared_consumer("t", group="g", renew_max_s=float("inf")), "renew_max_s is inf"),
        (lambda c: c.shared_consumer("t", group="g", concurrency="2"), "concurrency must be a whole number"),
        (lambda c: c.shared_consumer("t", group="g", prefetch=0), "prefetch is 0"),
    ]
    async with FakeServer() as server, Client(server.address) as client:
        for call, text in calls:
            with pytest.raises(BadRequest, match=text):
                call(client)
        with pytest.raises(NotSupported, match="compression 5"):
            client.producer(compression=5)  # type: ignore[arg-type]
        assert client.consumer("t", group="g", tags="a || b").options.tags == frozenset("ab")
    with pytest.raises(BadRequest, match="timeout_s is nan"):
        Client(timeout_s=NAN)
    with pytest.raises(BadRequest, match="not list"):
        Client(["127.0.0.1:1"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"properties": {"a": HALF_A_PAIR}}, "property 'a' can't be written as UTF-8"),
        ({"properties": {HALF_A_PAIR: "a"}}, "can't be written as UTF-8"),
        ({"properties": [1]}, "properties must be a mapping of strings, not list"),
        ({"tag": HALF_A_PAIR}, "can't be written as UTF-8"),
        ({"key": 5}, "a key must be a string, not int"),
    ],
)
def test_properties_are_checked(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        encode_properties(Message(b"", **fields))


async def test_what_is_sent_is_checked() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client, client.producer() as producer:
            with pytest.raises(BadRequest, match="the body can't be written as UTF-8"):
                await producer.send("t", HALF_A_PAIR)
            with pytest.raises(BadRequest, match="topic name must be a string, not list"):
                await producer.send([], b"x")  # type: ignore[arg-type]
            with pytest.raises(BadRequest, match="topic name must be a string, not NoneType"):
                await producer.post(None, b"x")  # type: ignore[arg-type]
        assert not server.frames


@pytest.mark.parametrize("queues", [0, -1, "8", None, 1.0, True, 100_001])
async def test_a_topic_needs_queues(queues: Any) -> None:
    async with FakeServer() as server, Client(server.address) as client:
        with pytest.raises(BadRequest, match="queues"):
            await client.create_topic("t", queues=queues)


async def test_a_client_that_is_not_open_says_so() -> None:
    async with FakeServer() as server:
        client = Client(server.address)
        with pytest.raises(NotConnected, match="not open"):
            client.id  # noqa: B018
        with pytest.raises(NotConnected, match="not open"):
            await client.topics()
        async with client:
            name = client.id
        assert client.id == name
        with pytest.raises(NotConnected, match="client is closed"):
            await client.topics()
        with pytest.raises(NotConnected, match="client is closed"):
            client.producer()


async def test_a_consumer_that_is_not_open_says_so() -> None:
    """Most of all the loop without ``async with`` around it, which would wait for ever."""
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client:
            consumer = client.consumer("t", group="g")
            with pytest.raises(NotConnected, match="consumer is not open"):
                await consumer.receive(timeout_s=1)
            with pytest.raises(NotConnected, match="consumer is not open"):
                async for _ in consumer:
                    pass
            with pytest.raises(NotConnected, match="consumer is not open"):
                async for _ in consumer.batches():
                    pass
            with pytest.raises(NotConnected, match="consumer is not open"):
                await consumer.commit()
            shared = client.shared_consumer("t", group="g")
            with pytest.raises(NotConnected, match="consumer is not open"):
                await shared.receive()
            with pytest.raises(NotConnected, match="consumer is not open"):
                async for _ in shared:
                    pass


async def test_a_closed_consumer_says_so() -> None:
    async with FakeServer() as server:
        server.add_topic("t")
        async with Client(server.address) as client:
            async with client.consumer("t", group="g") as consumer:
                with pytest.raises(BadRequest, match="timeout_s is nan"):
                    await consumer.receive(timeout_s=NAN)
                with pytest.raises(BadRequest, match="not NoneType"):
                    consumer.done(None)  # type: ignore[arg-type]
            for call in (consumer.commit(), consumer.seek(0, "earliest"), consumer.pause(), consumer.resume()):
                with pytest.raises(NotConnected, match="consumer is closed"):
                    await call


def test_another_loop_is_refused(served: Served) -> None:
    """A client is used from a second loop, as threads with a loop each do: refused before anything is put into a batch."""
    made: list[tuple[Client, Producer, Consumer]] = []

    async def first(server: str, second: Callable[[], None]) -> None:
        async with Client(server) as client, client.consumer("t", group="g") as consumer:
            producer = client.producer()
            await producer.send("t", b"x")
            made.append((client, producer, consumer))
            await asyncio.get_running_loop().run_in_executor(None, second)

    async def other() -> list[str]:
        client, producer, consumer = made[0]
        said: list[str] = []
        for call in (lambda: producer.send("t", b"y"), lambda: producer.post("t", b"y"), consumer.receive, client.topics):
            try:
                await call()
            except KourouError as failure:
                said.append(str(failure))
        try:
            client.producer()
        except KourouError as failure:
            said.append(str(failure))
        return said

    said: list[str] = []
    asyncio.run(first(served.server.address, lambda: said.extend(asyncio.run(other()))))
    assert len(served.server.frames) == 1
    assert len(said) == 5
    assert all("event loop" in text for text in said)


def test_a_closed_blocking_client_stays_closed(served: Served) -> None:
    client = BlockingClient(served.server.address)
    with client:
        producer = client.producer()
    for call in (client.topics, client.groups, client.producer, lambda: producer.send("t", b"x")):
        with pytest.raises(NotConnected, match="closed"):
            call()
    with client:  # opened on purpose it works again
        assert client.id
