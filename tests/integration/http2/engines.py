"""The service that both engines serve in the tests, and a way to start either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from kourou.http2 import tls
from kourou.http2.call import Call, GrpcError, Kind, Method, Service, StatusCode, StreamCall
from kourou.http2.limits import Http2Limits
from kourou.http2.server import Http2Server
from kourou.runtime.grpcio_host import GrpcioHost

MESSAGE_BYTES_MAX = 8 * 1024 * 1024


class Handlers:
    """``events`` tells a test what happened inside: it waits for them instead of for time."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.calls: list[Call] = []

    def echo(self, message: bytes, call: Call) -> bytes:
        self.calls.append(call)
        return message

    async def echo_task(self, message: bytes, call: Call) -> bytes:
        await asyncio.sleep(0)
        return message

    def echo_future(self, message: bytes, call: Call) -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        loop.call_soon(future.set_result, message)
        return future

    def fail(self, message: bytes, call: Call) -> bytes:
        raise GrpcError(StatusCode(int(message)), "tell me: ä\n%")

    async def fail_task(self, message: bytes, call: Call) -> bytes:
        raise GrpcError(StatusCode(int(message)), "tell me: ä\n%")

    def bug(self, message: bytes, call: Call) -> bytes:
        raise ValueError("a secret")

    async def hang(self, message: bytes, call: Call) -> bytes:
        call.on_cancel(lambda: self.events.put_nowait("cancelled"))
        self.events.put_nowait("running")
        try:
            await asyncio.Event().wait()
        finally:
            self.events.put_nowait("stopped")
        raise AssertionError

    async def numbers(self, call: StreamCall) -> None:
        count, size = map(int, (await call.receive() or b"").split())
        assert await call.receive() is None
        for number in range(count):
            call.send(number.to_bytes(4, "big") + bytes(size))
            await call.drain()

    async def fail_late(self, call: StreamCall) -> None:
        await call.receive()
        call.send(b"one")
        raise GrpcError(StatusCode.ABORTED, "after one")

    async def chat(self, call: StreamCall) -> None:
        self.calls.append(call)
        while (message := await call.receive()) is not None:
            call.send(message)
        call.send(b"bye")

    async def early(self, call: StreamCall) -> None:
        call.on_cancel(lambda: self.events.put_nowait("cancelled"))
        call.start()
        try:
            await call.receive()
            await asyncio.Event().wait()
        finally:
            self.events.put_nowait("stopped")

    @property
    def service(self) -> Service:
        unary = ("echo", "echo_task", "echo_future", "fail", "fail_task", "bug", "hang")
        found = {f"/test/{name}": Method(Kind.UNARY, unary=getattr(self, name)) for name in unary}
        for name, kind in (
            ("numbers", Kind.SERVER_STREAM),
            ("fail_late", Kind.SERVER_STREAM),
            ("chat", Kind.BIDI_STREAM),
            ("early", Kind.BIDI_STREAM),
        ):
            found[f"/test/{name}"] = Method(kind, stream=getattr(self, name))
        return found


class Served:
    """A running engine with a channel to it."""

    def __init__(self, engine: Http2Server | GrpcioHost, channel: Any, handlers: Handlers, port: int) -> None:
        self.engine = engine
        self.channel = channel
        self.handlers = handlers
        self.port = port
        self.errors: list[tuple[str, BaseException]] = []

    async def unary(self, name: str, message: bytes, **options: Any) -> bytes:
        return bytes(await self.channel.unary_unary(f"/test/{name}")(message, **options))


@asynccontextmanager
async def served(kind: str, *, limits: Http2Limits | None = None) -> AsyncIterator[Served]:
    """``kind``: own, own-tls, grpcio or grpcio-tls."""
    handlers = Handlers()
    certificate, key = tls.make_certificate(("localhost",))
    errors: list[tuple[str, BaseException]] = []
    engine: Http2Server | GrpcioHost
    if kind.startswith("own"):
        engine = Http2Server(
            handlers.service,
            limits=limits or Http2Limits(message_bytes_max=MESSAGE_BYTES_MAX),
            ssl_context=tls.from_pem(certificate, key),
            on_error=lambda path, failure: errors.append((path, failure)),
        )
    else:
        engine = GrpcioHost(
            handlers.service,
            message_bytes_max=MESSAGE_BYTES_MAX,
            certificate=(certificate, key) if kind.endswith("tls") else None,
            on_error=lambda path, failure: errors.append((path, failure)),
        )
    port = await engine.listen("127.0.0.1", 0)
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.default_authority", "localhost"),
    ]
    if kind.endswith("tls"):
        credentials = grpc.ssl_channel_credentials(root_certificates=certificate)
        channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
    else:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
    running = Served(engine, channel, handlers, port)
    running.errors = errors
    try:
        yield running
    finally:
        await channel.close()
        await engine.close(0)
