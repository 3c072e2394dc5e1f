"""Handlers that fail with nothing but a status of the official API, in an answer of the call's own type."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from kourou.core.errors import KourouError
from kourou.gateway.status import Refused, status_of
from kourou.http2.call import Call, GrpcError, Method, Service, StatusCode, StreamCall

PACKAGE = "apache.rocketmq.v2"
Unary = Callable[[bytes, Call], bytes | Awaitable[bytes]]
Stream = Callable[[StreamCall], Awaitable[None]]


class Log(Protocol):
    def error(self, event: str, **fields: Any) -> Any: ...

    def info(self, event: str, **fields: Any) -> Any: ...


def guarded_unary(name: str, handler: Unary, answer: Callable[..., Message], log: Log) -> Unary:
    async def awaited(coroutine: Awaitable[bytes]) -> bytes:
        try:
            return await coroutine
        except Exception as failure:  # a bug of ours too is that call's answer, and is logged
            return _failed(name, failure, answer, log)

    def handle(data: bytes, call: Call) -> bytes | Awaitable[bytes]:
        try:
            answered = handler(data, call)
        except Exception as failure:  # a bug of ours too is that call's answer, and is logged
            return _failed(name, failure, answer, log)
        if isinstance(answered, bytes | asyncio.Future):
            return answered
        return awaited(answered)

    return handle


def guarded_stream(name: str, handler: Stream, answer: Callable[..., Message], log: Log) -> Stream:
    async def handle(call: StreamCall) -> None:
        try:
            await handler(call)
        except Exception as failure:  # the same
            call.send(_failed(name, failure, answer, log))
            await call.drain()

    return handle


def until(is_over: Callable[[], bool], served: Service, why: Callable[[], KourouError]) -> Service:
    """A service that serves these until it is over; then each new call ends as at a broker whose port is closed, by gRPC's
    UNAVAILABLE: clients go to another one, whatever the call."""

    def in_time(method: Method) -> Method:
        unary, stream = method.unary, method.stream

        def answer(data: bytes, call: Call) -> bytes | Awaitable[bytes]:
            check()
            assert unary is not None
            return unary(data, call)

        async def serve(call: StreamCall) -> None:
            check()
            assert stream is not None
            await stream(call)

        return Method(method.kind, unary=unary and answer, stream=stream and serve)

    def check() -> None:
        if is_over():
            raise GrpcError(StatusCode.UNAVAILABLE, str(why()))

    return {path: in_time(method) for path, method in served.items()}


def _failed(name: str, failure: Exception, answer: Callable[..., Message], log: Log) -> bytes:
    if isinstance(failure, GrpcError):
        raise failure
    if isinstance(failure, DecodeError):
        raise GrpcError(StatusCode.INVALID_ARGUMENT, "the request does not parse")
    if not isinstance(failure, Refused | KourouError):
        log.error("call_failed", call=name, exc_info=failure)
    return answer(status=status_of(failure)).SerializeToString()
