"""Calls that come when a broker is not the master any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from kourou.core.errors import NotMaster
from kourou.gateway.calls import until
from kourou.http2.call import Call, GrpcError, Kind, Method, StatusCode, StreamCall
from tests.unit.gateway.call import FakeCall


def at_once(data: bytes, call: Call) -> bytes:
    return data * 2


def later(data: bytes, call: Call) -> Awaitable[bytes]:
    return asyncio.sleep(0, data * 3)


async def echo(call: StreamCall) -> None:
    call.send(await call.receive() or b"")


SERVICE = {
    "/s/AtOnce": Method(Kind.UNARY, unary=at_once),
    "/s/Later": Method(Kind.UNARY, unary=later),
    "/s/Echo": Method(Kind.BIDI_STREAM, stream=echo),
}


async def answers(method: Method) -> bytes:
    call = FakeCall(message=b"x")
    if method.stream is not None:
        await method.stream(call)
        return b"".join(call.sent)
    assert method.unary is not None
    answered = method.unary(b"x", call)
    return answered if isinstance(answered, bytes) else await answered


async def test_each_kind_of_call_is_served_until_it_is_over() -> None:
    over = False
    guarded = until(lambda: over, SERVICE, lambda: NotMaster("somebody else leads"))
    assert {path: method.kind for path, method in guarded.items()} == {path: m.kind for path, m in SERVICE.items()}
    assert [await answers(method) for method in guarded.values()] == [b"xx", b"xxx", b"x"]
    over = True
    for method in guarded.values():
        with pytest.raises(GrpcError, match="somebody else leads") as caught:
            await answers(method)
        assert caught.value.code is StatusCode.UNAVAILABLE
