"""What the registration service makes of a report, and of grpc's names for peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import BadRequest, ClientFault, IllegalName
from kourou.nameserver.edge.registration import RegistrationService, peer_host
from kourou.nameserver.table import CLAIM_MS, RouteTable
from kourou.proto.v1 import nameserver_pb2


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.events.append((event, fields))


def service() -> tuple[RegistrationService, Log]:
    log = Log()
    table = RouteTable(cluster="kourou", auto_create=False)
    return RegistrationService(table, name="ns", clock=ManualClock(), log=log, changed=lambda: None), log


def report(**fields: Any) -> Any:
    value = {"cluster": "kourou", "broker": "b1", "master": True, "advertised": "auto", "port": 10911, "version": "1"}
    return nameserver_pb2.BrokerReport(**{**value, **fields})


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"cluster": "other"}, BadRequest),
        ({"broker": ""}, IllegalName),
        ({"broker": "../b"}, IllegalName),
        ({"port": 0}, BadRequest),
        ({"port": 70_000}, BadRequest),
        ({"advertised": "host:"}, BadRequest),
        ({"advertised": ""}, BadRequest),
        ({"advertised": "ho\nst:5"}, BadRequest),
        ({"advertised": "ho st:5"}, BadRequest),
        ({"official_advertised": "\x00:5"}, BadRequest),
    ],
)
def test_a_broken_report_is_refused(fields: dict[str, Any], error: type[ClientFault]) -> None:
    with pytest.raises(error):
        service()[0]._parse(report(**fields))


def test_one_topic_that_is_not_understood_does_not_take_the_others_away() -> None:
    """A newer broker may have a type that this version does not know."""
    place = [nameserver_pb2.Placement(broker="b1", queues=2)]
    huge = [nameserver_pb2.Placement(broker="b2", queues=4_294_967_295)]
    topics = [
        nameserver_pb2.TopicDefinition(name="orders", type="fifo", placement=place, created_ms=5),
        nameserver_pb2.TopicDefinition(name="newer", type="quantum", placement=place),
        nameserver_pb2.TopicDefinition(name="bad name", type="normal", placement=place),
        nameserver_pb2.TopicDefinition(name="huge", type="normal", placement=[*place, *huge]),
    ]
    made, log = service()
    assert [topic.name for topic in made._parse(report(topics=topics)).topics] == ["orders"]
    assert [(event, fields["topic"]) for event, fields in log.events] == [
        ("topic_ignored", "newer"),
        ("topic_ignored", "bad name"),
        ("topic_ignored", "huge"),
    ]


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.5:4711", "10.0.0.5"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[fd00::5]:4711", "fd00::5"),
        ("ipv6:%5B::ffff:10.0.0.5%5D:4711", "::ffff:10.0.0.5"),
        ("unix:/tmp/socket", None),
        ("", None),
    ],
)
def test_peer_host(peer: str, host: str | None) -> None:
    assert peer_host(peer) == host


class Refused(Exception):
    pass


class Context:
    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    async def abort(self, code: object, details: str) -> None:
        raise Refused(details)


class Stream:
    """A broker's, step by step."""

    def __init__(self, made: RegistrationService, host: str) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.answers = made.Register(self._read(), Context(f"ipv4:{host}:1"))

    async def _read(self) -> AsyncIterator[Any]:
        while True:
            yield await self.messages.get()

    async def say(self, **content: Any) -> Any:
        self.messages.put_nowait(nameserver_pb2.BrokerMessage(**content))
        return await anext(self.answers)


async def test_a_process_that_was_displaced_is_told_at_its_next_heartbeat() -> None:
    """First that it may ask who has its place, then why its stream ends."""
    clock = ManualClock()
    table = RouteTable(cluster="kourou", auto_create=False)
    made = RegistrationService(table, name="ns", clock=clock, log=Log(), changed=lambda: None)
    first, second = Stream(made, "10.0.0.5"), Stream(made, "10.0.0.6")
    beat = nameserver_pb2.Heartbeat(sequence=1)
    await first.say(report=report())
    assert (await first.say(heartbeat=beat)).version
    clock.advance(CLAIM_MS)
    table.tick(clock.monotonic_ms())
    assert (await second.say(report=report())).version
    told = await first.say(heartbeat=beat)
    assert (told.nameserver, told.version) == ("ns", 0)
    with pytest.raises(Refused, match=r"registered from another address, 10\.0\.0\.6"):
        await anext(first.answers)
    assert (await second.say(heartbeat=beat)).version
