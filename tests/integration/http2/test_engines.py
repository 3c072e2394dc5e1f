"""One behaviour, whichever engine serves: grpcio's client against ours and against grpcio's own server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from kourou.http2.call import StatusCode
from tests.integration.http2.engines import MESSAGE_BYTES_MAX, served

engines = pytest.mark.parametrize("kind", ["own", "own-tls", "grpcio", "grpcio-tls"])


@engines
@pytest.mark.parametrize("name", ["echo", "echo_task", "echo_future"])
async def test_unary(kind: str, name: str) -> None:
    async with served(kind) as running:
        assert await running.unary(name, b"") == b""
        assert await running.unary(name, b"hello") == b"hello"
        answers = await asyncio.gather(*(running.unary(name, b"%d" % number) for number in range(200)))
        assert answers == [b"%d" % number for number in range(200)]
        assert running.engine.calls_started == 202
        assert running.engine.calls_failed == 0


@engines
async def test_large_messages_both_ways(kind: str) -> None:
    async with served(kind) as running:
        for size in (16_379, 65_535, 1_000_000, MESSAGE_BYTES_MAX):
            content = size.to_bytes(4, "big") * (size // 4)
            assert await running.unary("echo", content) == content
        contents = [bytes([number]) * 1_500_000 for number in range(16)]
        assert await asyncio.gather(*(running.unary("echo", content) for content in contents)) == contents
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await running.unary("echo", bytes(MESSAGE_BYTES_MAX + 1))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await running.unary("echo", b"still there") == b"still there"


@engines
@pytest.mark.parametrize("name", ["fail", "fail_task"])
async def test_every_status(kind: str, name: str) -> None:
    async with served(kind) as running:
        for code in grpc.StatusCode:
            if code is grpc.StatusCode.OK:
                continue
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await running.unary(name, b"%d" % code.value[0])
            assert failure.value.code() is code
            assert failure.value.details() == "tell me: ä\n%"
        assert not running.errors


@engines
async def test_a_bug_is_told_to_the_log_alone(kind: str) -> None:
    async with served(kind) as running:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await running.unary("bug", b"")
        assert failure.value.code() is grpc.StatusCode.INTERNAL
        assert failure.value.details() == "the server failed to handle the call; its log says why"
        assert [(path, str(error)) for path, error in running.errors] == [("/test/bug", "a secret")]


@engines
async def test_an_unknown_path(kind: str) -> None:
    async with served(kind) as running:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await running.unary("nowhere", b"")
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


@engines
async def test_what_the_handler_sees(kind: str) -> None:
    async with served(kind) as running:
        metadata = (("x-mq-language", "PYTHON"), ("x-mq-language", "other"), ("x-blob-bin", b"\0\1"), ("empty", ""))
        await running.unary("echo", b"", metadata=metadata, timeout=30)
        (call,) = running.handlers.calls
        seen = dict(call.metadata)
        assert "grpc-python-asyncio" in seen.pop("user-agent")
        assert seen == {"x-mq-language": "PYTHON", "empty": ""}
        assert call.secure == kind.endswith("tls")
        assert call.peer.startswith("127.0.0.1:")
        assert call.local == f"127.0.0.1:{running.port}"
        if kind.startswith("own"):  # grpcio doesn't tell
            assert call.authority == "localhost"
        remaining_s = call.remaining_s()
        assert remaining_s is not None
        assert 0 < remaining_s < 31  # gRPC counts from a time it has read a little earlier, and rounds up
        await running.unary("echo", b"")
        assert running.handlers.calls[1].remaining_s() is None


@engines
async def test_compressed_requests(kind: str) -> None:
    async with served(kind) as running:
        content = b"again and " * 50_000
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            assert await running.unary("echo", content, compression=compression) == content


@engines
async def test_a_cancelled_call_stops_its_handler(kind: str) -> None:
    async with served(kind) as running:
        call = running.channel.unary_unary("/test/hang")(b"")
        asking = asyncio.ensure_future(call)
        assert await running.handlers.events.get() == "running"
        call.cancel()
        assert {await running.handlers.events.get() for _ in range(2)} == {"cancelled", "stopped"}
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not running.errors


@engines
async def test_a_deadline_stops_the_handler(kind: str) -> None:
    async with served(kind) as running:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await running.unary("hang", b"", timeout=0.2)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert {await running.handlers.events.get() for _ in range(3)} == {"running", "cancelled", "stopped"}
        assert await running.unary("echo", b"next") == b"next"
        assert running.engine.calls_failed == 1


@engines
@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 0), (1_000, 10), (40, 500_000)])
async def test_server_stream(kind: str, count: int, size: int) -> None:
    async with served(kind) as running:
        call = running.channel.unary_stream("/test/numbers")(b"%d %d" % (count, size))
        numbers = [(int.from_bytes(message[:4], "big"), len(message)) async for message in call]
        assert numbers == [(number, 4 + size) for number in range(count)]
        assert await call.code() is grpc.StatusCode.OK


@engines
async def test_a_status_after_messages(kind: str) -> None:
    async with served(kind) as running:
        call = running.channel.unary_stream("/test/fail_late")(b"")
        assert await call.read() == b"one"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call.read()
        assert failure.value.code() is grpc.StatusCode.ABORTED
        assert failure.value.details() == "after one"


@engines
async def test_bidi_stream_message_by_message(kind: str) -> None:
    async with served(kind) as running:
        call = running.channel.stream_stream("/test/chat")()
        for content in (b"", b"two", bytes(300_000)):
            await call.write(content)
            assert await call.read() == content
        await call.done_writing()
        assert await call.read() == b"bye"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


@engines
async def test_bidi_stream_with_an_iterator(kind: str) -> None:
    async def contents() -> AsyncIterator[bytes]:
        for number in range(500):
            yield b"%d" % number

    async with served(kind) as running:
        call = running.channel.stream_stream("/test/chat")(contents())
        assert [message async for message in call] == [*(b"%d" % number for number in range(500)), b"bye"]


@engines
async def test_early_headers_and_cancel(kind: str) -> None:
    async with served(kind) as running:
        call = running.channel.stream_stream("/test/early")()
        await call.initial_metadata()  # there before any message
        call.cancel()
        assert {await running.handlers.events.get() for _ in range(2)} == {"cancelled", "stopped"}
        assert not running.errors


@engines
async def test_close_ends_what_doesnt_end_by_itself(kind: str) -> None:
    async with served(kind) as running:
        call = running.channel.stream_stream("/test/early")()
        await call.initial_metadata()
        await running.engine.close(0.05)
        assert await running.handlers.events.get() in ("cancelled", "stopped")
        assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@engines
async def test_close_lets_calls_end(kind: str) -> None:
    async with served(kind) as running:
        call = running.channel.stream_stream("/test/chat")()
        await call.write(b"first")
        assert await call.read() == b"first"
        closing = asyncio.ensure_future(running.engine.close(30))
        await asyncio.sleep(0)
        await call.write(b"second")
        assert await call.read() == b"second"
        await call.done_writing()
        assert await call.read() == b"bye"
        assert await call.code() is grpc.StatusCode.OK
        await closing


@engines
async def test_an_address_that_is_taken(kind: str) -> None:
    async with served(kind) as one, served(kind) as other:
        with pytest.raises(OSError, match=r".+"):
            await type(other.engine)({}).listen("127.0.0.1", one.port)


def test_the_codes_are_grpcs() -> None:
    assert {code.name: int(code) for code in StatusCode} == {code.name: code.value[0] for code in grpc.StatusCode}
