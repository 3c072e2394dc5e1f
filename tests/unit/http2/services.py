"""Handlers for the tests of the connection: none needs a loop unless it says so."""

from __future__ import annotations

import asyncio

from kourou.http2.call import Call, GrpcError, Kind, Method, Service, StatusCode, StreamCall


class Handlers:
    """A service that remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.future: asyncio.Future[bytes] | None = None

    def echo(self, message: bytes, call: Call) -> bytes:
        self.calls.append(call)
        return message

    def large(self, message: bytes, call: Call) -> bytes:
        return bytes(int(message))

    def failing(self, message: bytes, call: Call) -> bytes:
        raise GrpcError(StatusCode.NOT_FOUND, "nö %")

    def broken(self, message: bytes, call: Call) -> bytes:
        raise ValueError("a secret")

    def later(self, message: bytes, call: Call) -> asyncio.Future[bytes]:
        self.calls.append(call)
        self.future = asyncio.get_running_loop().create_future()
        return self.future

    async def stream(self, call: StreamCall) -> None:
        self.calls.append(call)
        while (message := await call.receive()) is not None:
            call.send(message)
            await call.drain()

    async def silent(self, call: StreamCall) -> None:
        self.calls.append(call)
        call.start()
        await asyncio.Event().wait()

    @property
    def service(self) -> Service:
        return {
            "/test/echo": Method(Kind.UNARY, unary=self.echo),
            "/test/large": Method(Kind.UNARY, unary=self.large),
            "/test/failing": Method(Kind.UNARY, unary=self.failing),
            "/test/broken": Method(Kind.UNARY, unary=self.broken),
            "/test/later": Method(Kind.UNARY, unary=self.later),
            "/test/stream": Method(Kind.BIDI_STREAM, stream=self.stream),
            "/test/silent": Method(Kind.BIDI_STREAM, stream=self.silent),
        }
