"""The listener: two protocols on one port, strangers, time-outs, certificates, many idle streams."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kourou.http2 import frames, tls
from kourou.http2.hpack import encode
from kourou.http2.limits import Http2Limits
from kourou.http2.reply import start
from kourou.http2.server import Http2Server
from kourou.proto.v1 import health_pb2
from kourou.runtime.grpc_server import Health
from kourou.runtime.health_service import CHECK, WATCH, health_service
from tests.integration.http2.engines import served
from tests.unit.http2.peer import frame, headers


async def exchange(port: int, sent: bytes, *, context: ssl.SSLContext | None = None) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
    )
    try:
        writer.write(sent)
        return await reader.read()
    finally:
        writer.close()


def trusting(*, alpn: str = "h2") -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


@pytest.mark.parametrize("secure", [False, True])
async def test_http_1_is_told_off(secure: bool) -> None:
    async with served("own") as running:
        answer = await exchange(running.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", context=trusting() if secure else None)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"gRPC" in answer


@pytest.mark.parametrize("sent", [b"\0\0\0\0", b"INVALID CONNECTION PREFACE\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(30)])
async def test_strangers_are_closed_on(sent: bytes) -> None:
    async with served("own", limits=Http2Limits(handshake_timeout_s=1.0)) as running:
        answer = await exchange(running.port, sent)
        assert b"HTTP" not in answer
        assert await running.unary("echo", b"x") == b"x"


async def test_alpn_is_h2() -> None:
    async with served("own") as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=trusting())
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.close()


async def test_tls_without_a_certificate_is_closed_on() -> None:
    server = Http2Server({})
    port = await server.listen("127.0.0.1", 0)
    with pytest.raises(OSError, match=r".*"):
        await exchange(port, b"", context=trusting())
    assert server.handshakes_failed == 1
    await server.close(0)


@pytest.mark.parametrize("sent", [b"", b"P", b"PRI * HT", b"\x16", frames.PREFACE])
async def test_who_doesnt_finish_the_handshake_is_closed_on(sent: bytes) -> None:
    async with served("own", limits=Http2Limits(handshake_timeout_s=0.2)) as running:
        await exchange(running.port, sent)
        while running.engine.connections:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)


async def test_who_is_silent_is_asked_and_then_cut_off() -> None:
    limits = Http2Limits(keepalive_s=0.1, keepalive_timeout_s=0.1)
    async with served("own", limits=limits) as running:
        answer = await exchange(running.port, frames.PREFACE + frames.settings({}))
        assert answer.endswith(frames.ping(b"alive?\0\0", ack=False))
        assert running.engine.engine.faults == 1  # type: ignore[union-attr]


async def test_an_idle_connection_is_drained() -> None:
    async with served("own", limits=Http2Limits(idle_timeout_s=0.1)) as running:
        answer = await exchange(running.port, frames.PREFACE + frames.settings({}))
        assert frames.goaway(0, frames.NO_ERROR, "shutting down") in answer


async def test_more_connections_than_allowed_are_closed() -> None:
    async with served("own", limits=Http2Limits(connections_max=1)) as running:
        assert await running.unary("echo", b"x") == b"x"
        assert await exchange(running.port, b"") == b""
        assert await running.unary("echo", b"y") == b"y"


async def test_a_thousand_idle_streams() -> None:
    async with served("own") as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        block = encode(headers("/test/early"))
        opened = [frame(frames.HEADERS, frames.END_HEADERS, 2 * n + 1, block) for n in range(1_000)]
        writer.write(frames.PREFACE + frames.settings({}) + b"".join(opened))
        await reader.readuntil(start(1_999))
        assert len(running.engine.engine.tasks) == 1_000  # type: ignore[union-attr]
        assert await running.unary("echo", b"x") == b"x"
        writer.close()
        for _ in range(2_000):
            await running.handlers.events.get()
        assert await running.unary("echo", b"x") == b"x"
        assert not running.errors


async def certificate_of(port: int) -> bytes | None:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting())
    try:
        return bytes(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    finally:
        writer.close()


async def test_certificates_from_files_and_their_reload(tmp_path: Path) -> None:
    def write() -> None:
        for path, content in zip(paths, tls.make_certificate(("localhost",)), strict=True):
            path.write_bytes(content)

    paths = (tmp_path / "certificate.pem", tmp_path / "key.pem")
    write()
    context = tls.own(str(paths[0]), str(paths[1]))
    server = Http2Server({}, ssl_context=context)
    port = await server.listen("127.0.0.1", 0)
    first = await certificate_of(port)
    write()
    assert await certificate_of(port) == first
    tls.reload(context, str(paths[0]), str(paths[1]))
    second = await certificate_of(port)
    assert second != first
    paths[1].write_bytes(b"nonsense")
    with pytest.raises(OSError, match=r".*"):
        tls.reload(context, str(paths[0]), str(paths[1]))
    assert await certificate_of(port) == second
    await server.close(0)


async def test_health_over_our_engine() -> None:
    serving = True
    health = Health(lambda: serving)
    server = Http2Server(health_service(health))
    port = await server.listen("127.0.0.1", 0)
    kinds = health_pb2.HealthCheckResponse
    channel: Any
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary(CHECK, response_deserializer=kinds.FromString)
        assert (await check(b"")).status == kinds.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await check(health_pb2.HealthCheckRequest(service="x").SerializeToString())
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        watch = channel.unary_stream(WATCH, response_deserializer=kinds.FromString)(b"")
        assert (await watch.read()).status == kinds.SERVING
        serving = False
        health.changed()
        assert (await watch.read()).status == kinds.NOT_SERVING
    await server.close(0)
