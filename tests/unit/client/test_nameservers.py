"""Several nameservers: one that says nothing is done without, and what it last said is not believed for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from kourou.client import Client, cluster, dialling
from kourou.core.errors import KourouError, NotConnected
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection
from tests.unit.client.fake_server import FakePeer, FakeServer


class Nameserver(FakeServer):
    """It may be mute: connections stay, and nothing is answered."""

    mute = False
    behind: dict[str, str] | None = None  # a push that goes out with the answer, right behind it

    def handle(self, peer: FakePeer, message: WireMessage) -> None:
        if not self.mute:
            super().handle(peer, message)

    def on_route(self, peer: FakePeer, message: WireMessage) -> None:
        super().on_route(peer, message)
        if self.behind is not None:
            masters = [{"broker": name, "epoch": 2, "master": master} for name, master in self.behind.items()]
            peer.push_json(Code.ROUTE_CHANGED, {"brokers": masters})


@dataclass
class Site:
    broker: FakeServer
    nameservers: list[Nameserver]

    @property
    def servers(self) -> str:
        return ",".join(one.address for one in self.nameservers)

    def asked(self, client: Client) -> Nameserver:
        """The one that the client is connected to."""
        connection = client._cluster._nameserver
        assert connection is not None
        return next(one for one in self.nameservers if one.address == str(connection.endpoint))


@asynccontextmanager
async def site(count: int = 2) -> AsyncIterator[Site]:
    async with FakeServer("a") as broker:
        made = Site(broker, [Nameserver(f"n{number}") for number in range(count)])
        broker.add_topic("t")
        for one in made.nameservers:
            one.brokers = {"a": broker}
            one.add_topic("t", placement={"a": 1})
            await one.listen()
        try:
            yield made
        finally:
            for one in made.nameservers:
                await one.stop()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SILENCE", {"ping_s": 0.02, "silent_s": 0.1})
    monkeypatch.setattr(dialling, "STAGGER_S", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_a_nameserver_that_goes_silent_is_replaced() -> None:
    """It watches the other one then, without being asked anything."""
    async with site() as made, Client(made.servers) as client, asyncio.timeout(20):
        first = made.asked(client)
        first.mute = True
        while client._cluster._nameserver is None or str(client._cluster._nameserver.endpoint) == first.address:
            await asyncio.sleep(0.01)
        (second,) = (one for one in made.nameservers if one is not first)
        assert second.watchers


@pytest.mark.usefixtures("hasty")
async def test_what_was_asked_of_a_silent_nameserver_is_asked_of_the_other() -> None:
    async with site() as made, Client(made.servers) as client, asyncio.timeout(20):
        made.asked(client).mute = True
        async with client.producer() as producer:
            await producer.send("t", b"x")
        assert len(made.broker.frames) == 1


@pytest.mark.usefixtures("hasty")
async def test_one_that_answers_nothing_holds_up_nobody_who_begins() -> None:
    async with site(3) as made, asyncio.timeout(20):
        for one in made.nameservers[:2]:
            one.mute = True
        for _ in range(5):  # the order is drawn
            async with Client(made.servers) as client:
                assert client._cluster._nameserver is not None
                assert str(client._cluster._nameserver.endpoint) == made.nameservers[2].address
        for one in made.nameservers[:2]:
            while one.peers:  # what was tried in vain is not left open
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("hasty")
async def test_the_only_nameserver_is_not_given_up_in_haste() -> None:
    """Pings would load it, and nobody stands in for it."""
    async with site(1) as made, Client(made.servers) as client:
        connection = client._cluster._nameserver
        assert connection is not None
        assert (connection._ping_s, connection._silent_s) == (3.0, 15.0)


async def test_all_failures_are_named() -> None:
    async with site() as made:
        addresses = [one.address for one in made.nameservers]
        for one in made.nameservers:
            await one.stop()
        with pytest.raises(NotConnected) as failure:
            async with Client(",".join(addresses)):
                pass
    assert all(address in str(failure.value) for address in addresses)


async def test_a_push_behind_an_answer_is_the_newer_one() -> None:
    """Both are read at once; whoever asked goes on later."""
    async with site(1) as made, FakeServer("a") as successor, Client(made.servers) as client:
        (nameserver,) = made.nameservers
        nameserver.behind = {"a": successor.address}
        await client._cluster.refresh_brokers()
        assert str(client._cluster.masters["a"]) == successor.address


class Late(Nameserver):
    """It answers ROUTE when the test lets it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.held_back: list[tuple[FakePeer, WireMessage]] = []

    def on_route(self, peer: FakePeer, message: WireMessage) -> None:
        self.held_back.append((peer, message))

    def answer_all(self) -> None:
        for peer, message in self.held_back:
            super().on_route(peer, message)


@pytest.mark.usefixtures("hasty")
async def test_of_two_that_answer_at_once_the_one_that_is_watched_is_believed() -> None:
    """The other one may be behind, and will not say when it is not any more."""
    for _ in range(10):
        async with FakeServer("a") as broker, FakeServer("a") as former, Late("n0") as one, Late("n1") as other:
            one.brokers, other.brokers = {"a": broker}, {"a": former}
            opening = asyncio.create_task(Client(f"{one.address},{other.address}").__aenter__())
            await one.until(lambda one=one: bool(one.held_back))  # type: ignore[misc]
            await other.until(lambda other=other: bool(other.held_back))  # type: ignore[misc]
            one.answer_all()
            other.answer_all()
            client = await opening
            connection = client._cluster._nameserver
            assert connection is not None
            right = broker if str(connection.endpoint) == one.address else former
            other.push_routes()
            one.push_routes()
            assert str(client._cluster.masters["a"]) == right.address
            await client.close()


async def test_a_second_nameserver_that_is_learnt_of_later_makes_haste() -> None:
    async with site() as made, Client(made.nameservers[0].address) as client:
        connection = client._cluster._nameserver
        assert connection is not None
        client._cluster.now_known(tuple(parse_endpoint(one.address) for one in made.nameservers))
        assert (connection._ping_s, connection._silent_s) == (1.0, 2.5)


async def test_a_bug_where_an_answer_is_taken_is_told_to_whoever_waits() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    async with site(1) as made, Client(made.servers) as client:
        client._cluster.on_change(bug)
        with pytest.raises(ZeroDivisionError):
            await client._cluster.refresh_brokers()
        assert made.asked(client).peers


async def test_a_dial_that_is_too_late_is_closed() -> None:
    class Made:
        closed = False

        def close(self) -> None:
            self.closed = True

    first, late = Made(), Made()
    began = asyncio.Event()

    async def stubborn() -> Connection:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return late  # type: ignore[return-value]
        raise AssertionError

    async def quick() -> Connection:
        await began.wait()
        return first  # type: ignore[return-value]

    async def refused() -> Connection:
        raise KourouError("no")

    found = await dialling.first_of([refused, stubborn, quick], spawn=asyncio.get_running_loop().create_task)
    assert found is first  # type: ignore[comparison-overlap]
    async with asyncio.timeout(20):
        while not late.closed:
            await asyncio.sleep(0)
    assert not first.closed
