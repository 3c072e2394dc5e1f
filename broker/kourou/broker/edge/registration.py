"""Keeping a broker registered with every nameserver: a stream to each, heartbeats, changes at once, back-off when away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from kourou.core.backoff import Backoff
from kourou.core.route import Endpoint
from kourou.proto.v1 import nameserver_pb2, nameserver_pb2_grpc

HEARTBEAT_S = 1.0
ANSWER_S = 5.0  # of connecting, sending and being answered together
OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
)


class Registrar:
    """``report`` gives the broker's current report (a BrokerReport message); ``changed`` is to be called when it differs.

    A nameserver that is away or refuses us is asked again for ever. A bug of ours is logged and handed to ``on_bug``.
    """

    def __init__(
        self,
        nameservers: Sequence[Endpoint],
        *,
        report: Callable[[], Any],
        log: Any,
        on_bug: Callable[[str], None] | None = None,
        on_refused: Callable[[str], None] | None = None,
        on_named: Callable[[], None] | None = None,
    ) -> None:
        self._nameservers = tuple(dict.fromkeys(nameservers))
        self._report = report
        self._log = log
        self._on_bug = on_bug
        self._on_refused = on_refused
        self._on_named = on_named
        self._versions = dict.fromkeys(nameservers, 0)
        self._changed: dict[Endpoint, asyncio.Event] = {endpoint: asyncio.Event() for endpoint in nameservers}
        self._tasks: list[asyncio.Task[None]] = []
        self._names: dict[Endpoint, str] = {}  # how those that have answered call themselves
        self._refusals: dict[Endpoint, str] = {}  # the last of each, so that each is said once
        self._registered = asyncio.Event()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(endpoint), name=f"register {endpoint}") for endpoint in self._nameservers]

    def changed(self) -> None:
        """The report differs from the last one: tell every nameserver now."""
        for event in self._changed.values():
            event.set()

    async def registered(self) -> None:
        """Wait until some nameserver has answered."""
        await self._registered.wait()

    @property
    def versions(self) -> dict[Endpoint, int]:
        """The version of each nameserver's route table, as it last answered; 0 while it is away."""
        return dict(self._versions)

    def data_planes(self) -> tuple[Endpoint, ...]:
        """Where the nameservers that have answered serve native clients: on the host that we dial, at their own port."""
        found: list[Endpoint] = []
        for endpoint, name in self._names.items():
            port = name.rpartition(":")[2]
            if port.isascii() and port.isdigit() and 0 < int(port) < 65536:
                found.append(Endpoint(endpoint.host, int(port)))
        return tuple(found)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self, endpoint: Endpoint) -> None:
        try:
            await self._keep(endpoint)
        except Exception as failure:  # the root of a task: logged, and the owner decides
            self._log.error("registration_crashed", nameserver=str(endpoint), exc_info=failure)
            if self._on_bug is not None:
                self._on_bug(f"registration with {endpoint}: {failure!r}")

    async def _keep(self, endpoint: Endpoint) -> None:
        backoff = Backoff(random.Random(), first_ms=100)
        async with grpc.aio.insecure_channel(str(endpoint), options=OPTIONS) as channel:
            stub: Any = nameserver_pb2_grpc.NameserverStub(channel)
            task = asyncio.current_task()
            assert task is not None
            while True:
                reason = await self._register(endpoint, stub.Register(), backoff)
                if task.cancelling():  # grpcio raises the stream's end instead, when that comes at the same time
                    return
                if self._versions[endpoint] or backoff.attempts == 0:
                    self._log.warning("nameserver_lost", nameserver=str(endpoint), reason=reason)
                self._versions[endpoint] = 0
                await asyncio.sleep(backoff.next_ms() / 1000)

    async def _register(self, endpoint: Endpoint, call: Any, backoff: Backoff) -> str:
        """One stream, from the first report to its end; why it ended. Each message waits for its answer, so there is never
        more than one under way and a nameserver that hangs is noticed."""
        event = self._changed[endpoint]
        event.clear()
        call.add_done_callback(lambda _: event.set())  # a stream that ends is noticed at once, not at the next heartbeat
        message = nameserver_pb2.BrokerMessage(report=self._report())
        sequence = 0
        try:
            while True:
                async with asyncio.timeout(ANSWER_S):
                    if not call.done():
                        await call.write(message)
                    answer = await call.read()
                    if answer is not grpc.aio.EOF and not answer.version:
                        self._named(endpoint, answer.nameserver)  # why we are refused comes next
                        answer = await call.read()
                if answer is grpc.aio.EOF:
                    return "the stream ended"
                self._answered(endpoint, answer)
                backoff.reset()
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await event.wait()
                except TimeoutError:
                    sequence += 1
                    message = nameserver_pb2.BrokerMessage(heartbeat=nameserver_pb2.Heartbeat(sequence=sequence))
                else:
                    event.clear()
                    message = nameserver_pb2.BrokerMessage(report=self._report())
        except TimeoutError:
            return f"no answer within {ANSWER_S:g} s"
        except grpc.aio.AioRpcError as failure:
            if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
                self._refused_by(endpoint, str(failure.details()))
            return f"{failure.code().name}: {failure.details()}"
        finally:
            call.cancel()

    def _refused_by(self, endpoint: Endpoint, reason: str) -> None:
        if self._refusals.get(endpoint) != reason:
            self._log.warning("registration_refused", nameserver=str(endpoint), reason=reason)
        self._refusals[endpoint] = reason
        if self._on_refused is not None:
            self._on_refused(reason)

    def _named(self, endpoint: Endpoint, name: str) -> None:
        """It says where it serves native clients."""
        if self._names.get(endpoint) != name:
            self._names[endpoint] = name
            if self._on_named is not None:
                self._on_named()

    def _answered(self, endpoint: Endpoint, answer: Any) -> None:
        self._named(endpoint, answer.nameserver)
        if not self._versions[endpoint]:
            self._log.info("registered", nameserver=str(endpoint), name=answer.nameserver, version=answer.version)
        self._refusals.pop(endpoint, None)
        self._versions[endpoint] = answer.version
        self._registered.set()
