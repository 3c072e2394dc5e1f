"""Brokers and nameservers over real gRPC on loopback: registration, streams that end, restarts, several nameservers.

Everything waits for conditions; the nameserver's clock is moved by hand, so nothing here depends on how fast it runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from kourou.app.nameserver import NameserverOptions, NameserverProcess
from kourou.broker.edge import registration as registrar_module
from kourou.broker.edge.registration import Registrar
from kourou.core.clock import ManualClock
from kourou.core.errors import BadRequest
from kourou.core.route import Endpoint
from kourou.core.wire import Code
from kourou.nameserver.edge.registration import RegistrationService
from kourou.nameserver.table import ADDRESS_MS, CLAIM_MS, RouteTable
from kourou.proto.v1 import health_pb2, health_pb2_grpc, nameserver_pb2, nameserver_pb2_grpc
from kourou.runtime.grpc_server import GrpcServer
from kourou.transport.connection import Connection, connect
from tests.integration.node import environment


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._written = asyncio.Event()

    def __getattr__(self, level: str) -> Any:
        return self._write

    def _write(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))
        written, self._written = self._written, asyncio.Event()
        written.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await self._written.wait()

    def names(self) -> list[str]:
        return [event for event, _ in self.events]

    def reasons(self, event: str) -> list[str]:
        return [str(fields.get("reason")) for name, fields in self.events if name == event]


class Nameserver:
    """A nameserver's registration alone: table, service and gRPC listener; a clock that the test moves."""

    def __init__(self, name: str = "ns") -> None:
        self.name = name
        self.clock = ManualClock()
        self.log = Log()
        self.port = 0
        self.endpoint = Endpoint("127.0.0.1", 1)
        self._moved = asyncio.Event()

    async def start(self, port: int = 0) -> None:
        self.table = RouteTable(cluster="kourou", auto_create=False)
        service = RegistrationService(self.table, name=self.name, clock=self.clock, log=self.log, changed=self._changed)
        self.server = GrpcServer(serving=lambda: True)
        nameserver_pb2_grpc.add_NameserverServicer_to_server(service, self.server.grpc)
        self.port = await self.server.listen("127.0.0.1", port)
        self.endpoint = Endpoint("127.0.0.1", self.port)

    async def stop(self) -> None:
        await self.server.close(grace_s=0)

    def _changed(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a fact after which the condition holds."""
        async with asyncio.timeout(60):
            while True:
                moved = self._moved
                if condition():
                    return
                await moved.wait()

    def masters(self) -> dict[str, str]:
        views = self.table.brokers(dialled="ns:1", now_ms=self.clock.monotonic_ms())
        return {view.report.broker: str(view.address) for view in views if view.master}

    def topics(self) -> list[str]:
        return [topic.name for topic in self.table.topics()]


@asynccontextmanager
async def nameservers(count: int) -> AsyncIterator[list[Nameserver]]:
    made = [Nameserver(f"ns{n}") for n in range(count)]
    for nameserver in made:
        await nameserver.start()
    try:
        yield made
    finally:
        for nameserver in made:
            await nameserver.stop()


class Facts:
    """What a broker says about itself."""

    def __init__(self, broker: str = "b1", **fields: Any) -> None:
        self.topics: list[str] = []
        self.fields: dict[str, Any] = {"cluster": "kourou", "broker": broker, "epoch": 1, "master": True}
        self.fields |= {"advertised": "auto"} | fields
        self.asked = 0

    def report(self) -> Any:
        self.asked += 1
        topics = [
            nameserver_pb2.TopicDefinition(
                name=name, type="normal", placement=[nameserver_pb2.Placement(broker="b1", queues=2)], created_ms=1
            )
            for name in self.topics
        ]
        return nameserver_pb2.BrokerReport(**self.fields, port=10911, version="1", topics=topics)


@asynccontextmanager
async def broker(facts: Facts, *servers: Nameserver, log: Log | None = None, **more: Any) -> AsyncIterator[Registrar]:
    registrar = Registrar([server.endpoint for server in servers], report=facts.report, log=log or Log(), **more)
    registrar.start()
    try:
        yield registrar
    finally:
        await registrar.close()


async def test_a_broker_registers_and_tells_changes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No heartbeat is due for an hour: what arrives is the change itself."""
    monkeypatch.setattr(registrar_module, "HEARTBEAT_S", 3_600.0)
    facts = Facts()
    async with nameservers(1) as [ns], broker(facts, ns) as registrar:
        await ns.until(lambda: ns.masters() == {"b1": "ns:10911"})
        await registrar.registered()
        assert registrar.versions[ns.endpoint] > 0
        for name in ("one", "two"):
            facts.topics.append(name)
            registrar.changed()
            await ns.until(lambda: ns.topics() == sorted(facts.topics))


async def test_heartbeats_keep_it_and_silence_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar_module, "HEARTBEAT_S", 0.01)
    async with nameservers(1) as [ns], broker(Facts(), ns):
        await ns.until(lambda: bool(ns.masters()))
        for _ in range(5):
            ns.clock.advance(CLAIM_MS - 1)
            heard = [known.heard_ms for known in ns.table._brokers.values()]
            await ns.until(lambda heard=heard: [k.heard_ms for k in ns.table._brokers.values()] != heard)  # type: ignore[misc]
            ns.table.tick(ns.clock.monotonic_ms())
            assert ns.masters()
        ns.clock.advance(ADDRESS_MS)
        ns.table.tick(ns.clock.monotonic_ms())
        assert ns.masters() == {}
        await ns.until(lambda: bool(ns.masters()))


async def test_a_stream_that_ends_is_noticed_at_once() -> None:
    """The nameserver's clock stands still: only the end of the stream can take the broker away."""
    facts = Facts()
    facts.topics.append("orders")
    async with nameservers(1) as [ns]:
        async with broker(facts, ns):
            await ns.until(lambda: bool(ns.masters()))
        await ns.until(lambda: not ns.masters())
        assert ns.topics() == ["orders"]
        route = ns.table.route("orders", dialled="ns:1")
        assert route is not None
        assert [(b.broker, b.queues, b.master, b.replicas) for b in route.brokers] == [("b1", 2, None, ())]


PROGRAM = """
import asyncio, sys
from kourou.broker.edge.registration import Registrar
from kourou.core.route import parse_endpoint
from kourou.proto.v1 import nameserver_pb2
from kourou.runtime import log

def report():
    return nameserver_pb2.BrokerReport(
        cluster="kourou", broker="b1", epoch=1, master=True, advertised="auto", port=10911, version="1")

async def main():
    registrar = Registrar([parse_endpoint(sys.argv[1])], report=report, log=log.logger())
    registrar.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_process_is_noticed_at_once() -> None:
    """kill -9 of the broker's process; the clock stands still again."""
    async with nameservers(1) as [ns]:
        command = [sys.executable, "-c", PROGRAM, str(ns.endpoint)]
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        try:
            await ns.until(lambda: bool(ns.masters()))
            process.send_signal(signal.SIGKILL)
            await ns.until(lambda: not ns.masters())
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


async def test_a_process_that_hangs_is_noticed_by_its_silence() -> None:
    """SIGSTOP: the socket stays open, nothing comes; after SIGCONT it is back."""
    async with nameservers(1) as [ns]:
        command = [sys.executable, "-c", PROGRAM, str(ns.endpoint)]
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        try:
            await ns.until(lambda: bool(ns.masters()))
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            ns.clock.advance(ADDRESS_MS)
            ns.table.tick(ns.clock.monotonic_ms())
            assert ns.masters() == {}
            os.kill(process.pid, signal.SIGCONT)
            await ns.until(lambda: bool(ns.masters()))
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


async def test_nameservers_are_independent() -> None:
    """One that is away, and one that refuses, don't keep the broker from the others."""
    facts, log = Facts(), Log()
    async with nameservers(3) as [first, second, third]:
        await second.stop()
        third.table.cluster = "another"
        async with broker(facts, first, second, third, log=log) as registrar:
            await first.until(lambda: bool(first.masters()))
            facts.topics.append("orders")
            registrar.changed()
            await first.until(lambda: first.topics() == ["orders"])
            await second.start(second.port)
            await second.until(lambda: second.topics() == ["orders"])
            assert third.masters() == {}
            assert registrar.versions[third.endpoint] == 0
            await log.until(lambda: any("UNAVAILABLE" in reason for reason in log.reasons("nameserver_lost")))
            await log.until(lambda: any("serves cluster 'another'" in reason for reason in log.reasons("nameserver_lost")))
        assert third.log.reasons("broker_refused")


async def test_who_is_refused_hears_why_and_who_answered() -> None:
    """Another process with the same id: refused as long as the first one is there."""
    log, reasons = Log(), list[str]()
    async with nameservers(1) as [ns]:
        async with broker(Facts(epoch=3), ns):
            await ns.until(lambda: ns.masters() == {"b1": "ns:10911"})
            other = Facts(epoch=4, advertised="10.0.0.9:1")
            async with broker(other, ns, log=log, on_refused=reasons.append) as registrar:
                await log.until(lambda: "registration_refused" in log.names())
                assert "another address" in reasons[0]
                assert registrar._names == {ns.endpoint: "ns0"}  # it may be asked who is there
                assert registrar.versions[ns.endpoint] == 0
                assert ns.masters() == {"b1": "ns:10911"}
        async with broker(other, ns):
            await ns.until(lambda: ns.masters() == {"b1": "10.0.0.9:1"})


async def test_a_nameserver_that_starts_anew_knows_everything_again() -> None:
    facts, log = Facts(), Log()
    facts.topics.append("orders")
    async with nameservers(1) as [ns], broker(facts, ns, log=log):
        for starts in (1, 2, 3):
            if starts > 1:
                await ns.stop()
                await ns.start(ns.port)
            await ns.until(lambda: ns.topics() == ["orders"] and bool(ns.masters()))
            await log.until(lambda starts=starts: log.names().count("registered") == starts)  # type: ignore[misc]
    assert log.names() == ["registered", "nameserver_lost", "registered", "nameserver_lost", "registered"]


async def test_a_nameserver_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts the connection and says nothing; the broker gives up, says why, and tries again."""
    monkeypatch.setattr(registrar_module, "ANSWER_S", 0.05)
    log, again = Log(), asyncio.Event()
    facts = Facts()

    def report() -> Any:
        if facts.asked == 2:
            again.set()
        return facts.report()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        registrar = Registrar([Endpoint("127.0.0.1", listener.getsockname()[1])], report=report, log=log)
        registrar.start()
        await again.wait()
        await registrar.close()
    assert log.reasons("nameserver_lost") == ["no answer within 0.05 s"]


async def test_a_bug_in_the_report_is_not_swallowed() -> None:
    log, told = Log(), asyncio.Event()

    def broken() -> Any:
        raise ZeroDivisionError("a bug")

    async with nameservers(1) as [ns]:
        registrar = Registrar([ns.endpoint], report=broken, log=log, on_bug=lambda reason: told.set())
        registrar.start()
        await told.wait()
        await registrar.close()
    assert log.names() == ["registration_crashed"]


async def talk(endpoint: Endpoint, *messages: Any) -> grpc.aio.AioRpcError | int:
    """Send messages on a stream of one's own; how many answers came, or how it was refused."""
    async with grpc.aio.insecure_channel(str(endpoint)) as channel:
        stub: Any = nameserver_pb2_grpc.NameserverStub(channel)
        call = stub.Register(iter(messages))
        count = 0
        try:
            async for _ in call:
                count += 1
        except grpc.aio.AioRpcError as failure:
            return failure
        return count


async def test_bad_streams_are_refused_and_harm_nobody() -> None:
    report = nameserver_pb2.BrokerMessage(report=Facts("b2").report())
    other = nameserver_pb2.BrokerMessage(report=Facts("b3").report())
    heartbeat = nameserver_pb2.BrokerMessage(heartbeat=nameserver_pb2.Heartbeat(sequence=1))
    async with nameservers(1) as [ns], broker(Facts(), ns):
        await ns.until(lambda: bool(ns.masters()))
        for messages, code, words in (
            ([heartbeat], grpc.StatusCode.FAILED_PRECONDITION, "first message must be a report"),
            ([nameserver_pb2.BrokerMessage()], grpc.StatusCode.FAILED_PRECONDITION, "first message must be a report"),
            ([report, other], grpc.StatusCode.INVALID_ARGUMENT, "can't become another's"),
            (
                [nameserver_pb2.BrokerMessage(report=Facts("b2", advertised="x:y").report())],
                grpc.StatusCode.INVALID_ARGUMENT,
                "not host:port",
            ),
            (
                [nameserver_pb2.BrokerMessage(report=Facts("b1", epoch=0).report())],
                grpc.StatusCode.INVALID_ARGUMENT,
                "registered with epoch 1",
            ),
        ):
            refused = await talk(ns.endpoint, *messages)
            assert isinstance(refused, grpc.aio.AioRpcError), messages
            assert refused.code() == code
            assert words in (refused.details() or "")
        assert await talk(ns.endpoint, report, heartbeat, nameserver_pb2.BrokerMessage()) == 3
        assert ns.masters() == {"b1": "ns:10911"}


# ---- the whole process


@asynccontextmanager
async def process() -> AsyncIterator[tuple[dict[str, str], NameserverProcess]]:
    options = NameserverOptions(port=0, grpc_port=0, http_port=0)
    running = NameserverProcess(options, log=Log())
    try:
        yield await running.start(), running
    finally:
        await running.stop()


def endpoint(address: str) -> Endpoint:
    host, port = address.rsplit(":", 1)
    return Endpoint(host, int(port))


async def dial(address: str, pushes: asyncio.Queue[Any] | None = None, host: str = "127.0.0.1") -> Connection:
    handlers = {} if pushes is None else {int(Code.ROUTE_CHANGED): pushes.put_nowait}
    return await connect(Endpoint(host, endpoint(address).port), client_id="c", handlers=handlers)


async def test_routes_are_pushed_to_those_who_watch() -> None:
    """Through both of the nameserver's ports: what a broker says on one, a client hears on the other."""
    facts, pushes = Facts(), asyncio.Queue[Any]()
    facts.topics.append("orders")
    async with process() as (addresses, _):
        client = await dial(addresses["data plane"], pushes, host="localhost")
        answer = await client.ask_json(Code.ROUTE, {"topics": ["orders"], "watch": True})
        assert (answer["routes"], answer["missing"], answer["brokers"]) == ([], ["orders"], [])
        registrar = Registrar([endpoint(addresses["gRPC"])], report=facts.report, log=Log())
        registrar.start()
        push = decode(await pushes.get())
        told = f"localhost:{10911}"  # the broker is on a loopback address: the name that this client dialled
        served = {"broker": "b1", "queues": 2, "epoch": 1, "master": told, "replicas": [], "official": None}
        assert push["routes"][0]["brokers"] == [served]
        cluster = await client.ask_json(Code.CLUSTER, {})
        assert [(b["broker"], b["address"], b["master"]) for b in cluster["brokers"]] == [("b1", told, True)]
        status = await client.ask_json(Code.STATUS, {})
        assert (status["topics"], status["masters"], status["watchers"]) == (1, 1, 1)
        await registrar.close()
        push = decode(await pushes.get())
        assert push["routes"][0]["brokers"][0]["master"] is None
        assert push["brokers"] == []
        client.close()


def decode(message: Any) -> dict[str, Any]:
    from kourou.core.wire import decode_json

    return decode_json(message.body)


async def test_http_and_health_of_a_nameserver() -> None:
    async with process() as (addresses, _):
        host, port = addresses["http"].removeprefix("http://").rsplit(":", 1)
        for page, words in (
            ("healthz", b"ok"),
            ("readyz", b"ready"),
            ("metrics", b'rocketmq_topic_number{cluster="kourou"'),
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET /{page} HTTP/1.1\r\n\r\n".encode())
            body = await reader.read()
            assert body.startswith(b"HTTP/1.1 200 ")
            assert words in body
            writer.close()
            await writer.wait_closed()
        async with grpc.aio.insecure_channel(addresses["gRPC"]) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Check(health_pb2.HealthCheckRequest(service="other"))
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND
            for service, status in (
                ("", health_pb2.HealthCheckResponse.SERVING),
                ("other", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN),
            ):
                watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
                assert (await watch.read()).status == status
                watch.cancel()


async def test_health_is_watched() -> None:
    """Those who watch are told, also when nobody calls ``changed``."""
    serving = True
    server = GrpcServer(serving=lambda: serving)
    port = await server.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        serving = False
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        serving = True
        server.health.changed()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    await server.close(grace_s=0)


@pytest.mark.parametrize("taken", ["port", "grpc_port", "http_port"])
async def test_a_port_that_is_taken_is_named_and_the_rest_let_go(taken: str) -> None:
    ports: dict[str, Any] = {"port": 0, "grpc_port": 0, "http_port": 0}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports[taken] = listener.getsockname()[1]
        running = NameserverProcess(NameserverOptions(**ports), log=Log())
        with pytest.raises(BadRequest, match=str(ports[taken])):
            await running.start()
        await running.stop()
