"""Which clients are known, for how long, and who is asked."""

from __future__ import annotations

import pytest

from kourou.core.clock import ManualClock
from kourou.core.errors import TooManyRequests
from kourou.gateway import clients as module
from kourou.gateway.clients import SILENT_MS, STREAM_GRACE_MS, Clients, GatewayClient
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.unit.gateway.call import FakeCall


class Registry:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.gone: list[str] = []
        self.clients = Clients(clock=self.clock, gone=lambda client: self.gone.append(client.id))

    def comes(self, client: str, *topics: str, group: str = "", stream: FakeCall | None = None) -> GatewayClient:
        return self.clients.settled(
            client, pb.Settings(), topics=frozenset(topics), group=group, subscriptions={}, stream=stream, peer="p"
        )


def test_silent_clients_are_let_go_of() -> None:
    registry = Registry()
    registry.comes("silent", group="g")
    registry.comes("beats", group="g")
    registry.clock.advance(SILENT_MS)
    registry.clients.heard("beats")
    assert registry.clients.expire() == []
    registry.clock.advance(1)
    assert registry.clients.expire() == ["silent"]
    assert registry.gone == ["silent"]
    assert [client.id for client in registry.clients.members("g")] == ["beats"]
    assert registry.clients.find("silent") is None
    assert len(registry.clients) == 1


def test_an_open_stream_is_a_sign_of_life() -> None:
    registry = Registry()
    stream = FakeCall()
    registry.comes("c", stream=stream)
    registry.clock.advance(10 * SILENT_MS)
    assert registry.clients.expire() == []
    registry.clients.stream_ended("c", stream)
    registry.clock.advance(STREAM_GRACE_MS)
    assert registry.clients.expire() == []
    registry.clock.advance(1)
    assert registry.clients.expire() == ["c"]


def test_a_heartbeat_after_the_stream_ended_keeps_a_client() -> None:
    """C# never opens it again; Python may take five minutes."""
    registry = Registry()
    stream = FakeCall()
    registry.comes("c", stream=stream)
    registry.clients.stream_ended("c", stream)
    for _ in range(60):
        registry.clock.advance(10_000)
        registry.clients.heard("c")
        assert registry.clients.expire() == []
    registry.clock.advance(SILENT_MS + 1)
    assert registry.clients.expire() == ["c"]


def test_the_newest_stream_counts() -> None:
    registry = Registry()
    old, new = FakeCall(), FakeCall()
    client = registry.comes("c", stream=old)
    assert registry.comes("c", stream=new) is client
    registry.clients.stream_ended("c", old)
    assert client.tell(service.TelemetryCommand())
    assert (len(old.sent), len(new.sent)) == (0, 1)
    registry.clients.stream_ended("c", new)
    assert not client.tell(service.TelemetryCommand())


def test_new_settings_replace_the_old() -> None:
    registry = Registry()
    registry.comes("c", "a", "b", stream=FakeCall())
    registry.comes("c", "b", "d", group="g")
    assert [bool(registry.clients.producers(topic)) for topic in "abd"] == [False, True, True]
    registry.comes("c", group="h")
    assert registry.clients.members("g") == []
    assert registry.clients.producers("b") == []
    assert len(registry.clients) == 1


def test_producers_take_turns_and_must_have_a_stream() -> None:
    registry = Registry()
    for name in "abc":
        registry.comes(name, "t", stream=FakeCall())
    registry.comes("d", "t")
    asked = [registry.clients.producers("t")[0].id for _ in range(6)]
    assert sorted(asked) == ["a", "a", "b", "b", "c", "c"]
    assert {client.id for client in registry.clients.producers("t")} == {"a", "b", "c"}
    registry.clients.left("a")
    assert {client.id for client in registry.clients.producers("t")} == {"b", "c"}
    assert registry.clients.producers("u") == []


def test_goodbye() -> None:
    registry = Registry()
    registry.comes("c", "t", group="g", stream=FakeCall())
    assert registry.clients.left("c") is not None
    assert registry.clients.left("c") is None
    assert registry.gone == ["c"]
    assert registry.clients.heard("c") is None


def test_those_whose_settings_never_come_do_not_hold_messages_for_ever() -> None:
    registry = Registry()
    registry.clients.holds("c")
    assert registry.clients.heard("c") is None  # a heartbeat: it is not known, but it lives
    registry.clock.advance(SILENT_MS)
    assert registry.clients.heard("c") is None
    registry.clock.advance(SILENT_MS)
    assert registry.clients.expire() == []
    registry.clock.advance(1)
    assert registry.clients.expire() == ["c"]
    assert registry.gone == ["c"]
    registry.clients.holds("d")
    registry.comes("d")
    registry.clients.holds("d")
    assert registry.clients.left("d") is not None
    assert registry.gone == ["c", "d"]
    registry.clients.holds("e")
    assert registry.clients.left("e") is None
    assert registry.gone == ["c", "d", "e"]


def test_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENTS_MAX", 2)
    registry = Registry()
    registry.comes("a")
    registry.comes("b")
    registry.comes("a")
    with pytest.raises(TooManyRequests):
        registry.comes("c")
    for name in "xy":
        registry.clients.holds(name)
    with pytest.raises(TooManyRequests):
        registry.clients.holds("z")


async def test_commands_that_are_answered() -> None:
    registry = Registry()
    stream = FakeCall()
    client = registry.comes("c", stream=stream)
    nonce = registry.clients.next_nonce()
    future = registry.clients.ask(client, service.TelemetryCommand(), nonce)
    registry.clients.answered("nobody asked", service.TelemetryCommand())
    assert not future.done()
    registry.clients.answered(nonce, service.TelemetryCommand())
    assert future.done()
    registry.clients.answered(nonce, service.TelemetryCommand())
    registry.clients.stream_ended("c", stream)
    assert registry.clients.ask(client, service.TelemetryCommand(), registry.clients.next_nonce()).cancelled()
