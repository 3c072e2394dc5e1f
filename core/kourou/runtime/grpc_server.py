"""The gRPC listener of a process: bounded, with the standard health service, stopping cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from kourou.core.errors import BadRequest
from kourou.proto.v1 import health_pb2, health_pb2_grpc

WATCH_S = 1.0
MESSAGE_BYTES_MAX = 64 * 1024 * 1024  # a report of a hundred thousand topics
OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),  # a second process on the port is a mistake, and must be told so
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class Health(health_pb2_grpc.HealthServicer):
    """Answers for the whole process ("") as ``serving`` says."""

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Tell those who watch."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self) -> Any:
        kinds = health_pb2.HealthCheckResponse
        return kinds(status=kinds.SERVING if self._serving() else kinds.NOT_SERVING)

    async def Check(self, request: Any, context: Any) -> Any:
        if request.service:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:100]!r} is known here")
        return self._status()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The status now and whenever it differs. An unknown service is answered, not refused, as the spec says."""
        kinds = health_pb2.HealthCheckResponse
        last: Any = None
        while True:
            changed = self._changed
            status = kinds(status=kinds.SERVICE_UNKNOWN) if request.service else self._status()
            if status != last:
                yield status
                last = status
            try:
                async with asyncio.timeout(WATCH_S):
                    await changed.wait()
            except TimeoutError:
                continue  # look again: nobody has to remember to call ``changed``


class GrpcServer:
    def __init__(self, *, serving: Callable[[], bool]) -> None:
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=10_000)
        self.health = Health(serving)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)

    @property
    def grpc(self) -> Any:
        """For adding services to."""
        return self._server

    async def listen(self, host: str, port: int) -> int:
        """The port that was bound. Raises BadRequest when it can't be."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError:
            raise BadRequest(f"can't listen on port {port} (gRPC): it is in use, or the address is not ours") from None
        if bound == 0:
            raise BadRequest(f"can't listen on port {port} (gRPC): it is in use, or the address is not ours")
        await self._server.start()
        return int(bound)

    async def close(self, *, grace_s: float = 1.0) -> None:
        self.health.changed()
        await self._server.stop(grace_s)
