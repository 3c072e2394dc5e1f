"""Keeping a broker registered with every nameserver: a stream to each, heartbeats, changes at once, back-off when away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from kourou.core.backoff import Backoff
from kourou.core.route import Endpoint
from kourou.proto.v1 import nameserver_pb2, nameserver_pb2_grpc

HEARTBEAT_S = 1.0
OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
)


class Registrar:
    """``report`` gives the broker's current report (a BrokerReport message); ``changed`` is to be called when it differs."""

    def __init__(self, nameservers: Sequence[Endpoint], *, report: Callable[[], Any], log: Any) -> None:
        self._nameservers = nameservers
        self._report = report
        self._log = log
        self._versions = dict.fromkeys(nameservers, 0)
        self._changed: dict[Endpoint, asyncio.Event] = {endpoint: asyncio.Event() for endpoint in nameservers}
        self._tasks: list[asyncio.Task[None]] = []
        self._registered = asyncio.Event()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(endpoint)) for endpoint in self._nameservers]

    def changed(self) -> None:
        """The report differs from the last one: tell every nameserver now."""
        for event in self._changed.values():
            event.set()

    async def registered(self) -> None:
        """Wait until some nameserver has answered."""
        await self._registered.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, endpoint: Endpoint) -> None:
        backoff = Backoff(random.Random(), first_ms=100)
        async with grpc.aio.insecure_channel(str(endpoint), options=OPTIONS) as channel:
            stub: Any = nameserver_pb2_grpc.NameserverStub(channel)
            while True:
                try:
                    async for answer in stub.Register(self._messages(endpoint)):
                        if not self._versions[endpoint]:
                            self._log.info("registered", nameserver=str(endpoint), name=answer.nameserver)
                        self._versions[endpoint] = answer.version
                        self._registered.set()
                        backoff.reset()
                    reason = "the stream ended"
                except grpc.aio.AioRpcError as failure:
                    reason = f"{failure.code().name}: {failure.details()}"
                if self._versions[endpoint] or backoff.attempts == 0:
                    self._log.warning("nameserver_lost", nameserver=str(endpoint), reason=reason)
                self._versions[endpoint] = 0
                await asyncio.sleep(backoff.next_ms() / 1000)

    async def _messages(self, endpoint: Endpoint) -> AsyncIterator[Any]:
        """A full report, then heartbeats, and a full report after each change."""
        event = self._changed[endpoint]
        event.clear()
        yield nameserver_pb2.BrokerMessage(report=self._report())
        sequence = 0
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await event.wait()
            except TimeoutError:
                sequence += 1
                yield nameserver_pb2.BrokerMessage(heartbeat=nameserver_pb2.Heartbeat(sequence=sequence))
            else:
                event.clear()
                yield nameserver_pb2.BrokerMessage(report=self._report())
