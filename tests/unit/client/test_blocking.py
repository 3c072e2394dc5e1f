"""The blocking client: a portal that callers run themselves, threads, the pump, forks."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
import warnings
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from kourou.client import SendFailed
from kourou.client.blocking import Client, Message
from kourou.client.blocking.portal import Portal
from kourou.core.errors import BadRequest, FrameInvalid, NotConnected, TopicNotFound
from tests.unit.client.fake_server import FakeServer, plain

T = TypeVar("T")


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made

    async def nothing() -> None:
        return None

    made.close(nothing())


class Served:
    """A scripted server on a loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        self.server = self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    @staticmethod
    async def _start() -> FakeServer:
        server = FakeServer()
        await server.listen()
        return server

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as running:
        running.server.topics["t"] = {"type": "normal", "placement": [("a", 4)]}
        yield running


def test_a_lone_caller_runs_the_loop_itself(portal: Portal) -> None:
    async def where() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    assert {portal.run(where()) for _ in range(100)} == {threading.get_ident()}


def test_errors_come_to_the_caller(portal: Portal) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        portal.run(fail())

    async def fine() -> int:
        return 5

    assert portal.run(fine()) == 5


def test_the_pump_runs_the_loop_while_nobody_calls(portal: Portal) -> None:
    happened: queue.Queue[int] = queue.Queue()

    async def later() -> None:
        asyncio.get_running_loop().call_later(0.01, lambda: happened.put(threading.get_ident()))

    for _ in range(3):
        portal.run(later())
        assert happened.get(timeout=20) != threading.get_ident()


def test_the_lead_is_passed_on(portal: Portal) -> None:
    """A caller that waits for another's action is served whoever leads: each waits for the one behind it."""
    count = 16
    events: list[asyncio.Event] = portal.call(lambda: [asyncio.Event() for _ in range(count + 1)])

    async def step(number: int) -> int:
        await events[number + 1].wait()
        events[number].set()
        return number

    with ThreadPoolExecutor(count) as pool:
        results = [pool.submit(portal.run, step(number)) for number in range(count)]
        portal.call(events[count].set)
        assert [result.result(30) for result in results] == list(range(count))


def test_many_threads_at_once(portal: Portal) -> None:
    async def work(value: int) -> int:
        for _ in range(value % 5):
            await asyncio.sleep(0)
        if value % 7 == 0:
            await asyncio.sleep(0.001)
        return value

    def caller(base: int) -> list[int]:
        found = [portal.run(work(base + i)) for i in range(200)]
        found.append(portal.now(lambda: -1))
        return found

    with ThreadPoolExecutor(12) as pool:
        for base, found in enumerate(pool.map(caller, range(0, 12_000, 1_000))):
            assert found == [*range(base * 1_000, base * 1_000 + 200), -1]


def test_an_interrupt_in_the_leader_leaves_the_portal_usable(portal: Portal) -> None:
    cancelled: list[bool] = []

    async def interrupted() -> None:
        asyncio.get_running_loop().call_soon(raise_it)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    def raise_it() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        portal.run(interrupted())

    async def fine() -> int:
        await asyncio.sleep(0)
        return 5

    assert portal.run(fine()) == 5
    assert cancelled == [True]


async def test_it_is_refused_where_a_loop_runs(portal: Portal) -> None:
    async def nothing() -> None:
        return None

    with pytest.raises(BadRequest, match=r"use kourou\.client there"):
        portal.run(nothing())


def test_send_post_and_receipts(served: Served) -> None:
    with Client(served.server.address) as client, client.producer(batch_bytes=100) as producer:
        assert producer.send("t", b"x", key="k", tag="a").topic == "t"
        assert len(producer.send_many("t", [b"%d" % i for i in range(500)])) == 500
        for i in range(100):
            producer.post("t", b"%d" % i)
        producer.post("t", b"tagged", tag="a", properties={"a": "b"})
        producer.flush()
        producer.send_many("t", [Message(b"m", key="k"), "text"])
        with pytest.raises(TopicNotFound):
            producer.send("nope", b"x")
        served.server.script.append(FrameInvalid("bad"))
        producer.post("t", b"x")
        with pytest.raises(SendFailed):
            producer.flush()
    assert sum(len(f.bodies) for f in served.server.frames) == 604


def test_posts_go_out_though_nobody_waits(served: Served) -> None:
    with Client(served.server.address) as client, client.producer() as producer:
        producer.send("t", b"first")
        for i in range(50):
            producer.post("t", b"%d" % i)
        deadline = time.monotonic() + 20
        while sum(len(f.bodies) for f in served.server.frames) < 51:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_posts_while_the_connection_is_down(served: Served) -> None:
    """The caller notices it while the loop stands still, and connecting is left to the loop."""
    with Client(served.server.address) as client, client.producer() as producer:
        producer.send("t", b"first")
        served.run(served.server.cut())
        inner = producer._ready()[1]
        deadline = time.monotonic() + 20
        while inner._dispatcher.lanes["a"].usable:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        for i in range(50):
            producer.post("t", b"%d" % i)
        producer.flush()
    assert sum(len(f.bodies) for f in served.server.frames) == 51


def test_threads_share_a_producer(served: Served) -> None:
    with Client(served.server.address) as client, client.producer() as producer, ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda i: producer.send("t", b"%d" % i), range(800)))
    assert len({receipt.id for receipt in receipts}) == 800
    stored = {(f.header.queue_id, f.offset + i): body for f in served.server.frames for i, body in enumerate(f.bodies)}
    assert [stored[r.queue, r.offset] for r in receipts] == [b"%d" % i for i in range(800)]


def test_consume_with_automatic_commit(served: Served) -> None:
    server = served.server

    async def feed(number: int) -> None:
        to = await server.subscribed(number)
        server.assign(to, 0)
        server.deliver(to, 0, plain(b"0", b"1", b"2"), 3)
        server.deliver(to, 0, plain(b"3", queue_offset=3), 4)

    with Client(server.address) as client:
        with client.consumer("t", group="g") as consumer:
            served.run(feed(1))
            bodies: list[bytes] = []
            for message in consumer:
                bodies.append(message.body)
                if len(bodies) == 2:
                    break
            assert consumer.assignment == [("a", 0)]
        assert bodies == [b"0", b"1"]
        assert server.subscriptions[0].commits[-1] == (0, 2)
        with client.consumer("t", group="g", auto_commit=False) as consumer:
            served.run(feed(2))
            for batch in consumer.batches():
                assert batch.bodies() == [b"0", b"1", b"2"]
                batch.commit()
                break
            again = consumer.receive(timeout_s=20)
            assert again is not None
            assert (again.bodies(), len(again)) == ([b"3"], 1)
            assert consumer.receive(timeout_s=0.01) is None
        assert server.subscriptions[1].commits == [(0, 3)]


def test_clear_errors() -> None:
    with pytest.raises(NotConnected, match="is Kourou running there"):
        Client("127.0.0.1:1").open()


def test_a_closed_client_says_so(served: Served) -> None:
    client = Client(served.server.address).open()
    producer = client.producer()
    producer.send("t", b"x")
    client.close()
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_identity_and_connections(served: Served) -> None:
    """Parent and child go on with the same objects; sequences and sockets are never shared."""
    with Client(served.server.address) as client, client.producer() as producer:
        producer.send("t", b"parent 1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks in threaded processes
            child = os.fork()
        if child == 0:
            try:
                producer.send("t", b"child")
                os._exit(0)
            except BaseException:
                os._exit(1)
        for i in range(20):
            producer.send("t", b"parent %d" % (i + 2))
        assert os.waitpid(child, 0)[1] == 0
    frames = served.server.frames
    ids = {f.header.producer_id for f in frames if f.bodies != [b"child"]}
    (child_id,) = {f.header.producer_id for f in frames if f.bodies == [b"child"]}
    assert len(ids) == 1
    assert child_id not in ids
    assert len(frames) == 22
