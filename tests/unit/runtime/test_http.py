"""The small HTTP server: what it answers, and what it cuts off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kourou.runtime import http
from kourou.runtime.http import HttpServer, text_page


@asynccontextmanager
async def serving(**pages: Any) -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer({f"/{name}": page for name, page in pages.items()})
    port = await server.listen("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.close()


async def talk(port: int, data: bytes) -> bytes:
    """Everything that is answered until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200, b"ok\n"),
        (b"GET /healthz?verbose=1 HTTP/1.0\r\n\r\n", 200, b"ok\n"),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", 200, b""),
        (b"GET /other HTTP/1.1\r\n\r\n", 404, b"no such page\n"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405, b"only GET is served\n"),
        (b"nonsense\r\n\r\n", 400, b"bad request\n"),
        (b"GET /healthz SPDY/3\r\n\r\n", 400, b"bad request\n"),
        (b"\xff\xfe\x00 \r\n\r\n", 400, b"bad request\n"),
    ],
)
async def test_answers(request_: bytes, status: int, body: bytes) -> None:
    async with serving(healthz=lambda: text_page(200, "ok")) as (_, port):
        answer = await talk(port, request_)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in head
    assert rest == body


async def test_a_large_page_arrives_whole() -> None:
    page = b"x" * 3_000_000
    async with serving(metrics=lambda: (200, "text/plain", page)) as (_, port):
        answer = await talk(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == page


async def test_a_page_that_fails_is_told_and_logged() -> None:
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context))

    def broken() -> tuple[int, str, bytes]:
        raise ZeroDivisionError("a bug")

    async with serving(metrics=broken, healthz=lambda: text_page(200, "ok")) as (_, port):
        assert (await talk(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 500 ")
        assert (await talk(port, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert isinstance(logged[0]["exception"], ZeroDivisionError)


async def test_a_head_that_is_too_long_is_cut_off() -> None:
    async with serving() as (_, port):
        assert await talk(port, b"GET / HTTP/1.1\r\nX: " + b"x" * http.HEAD_BYTES_MAX * 4) == b""


async def test_the_slow_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both who send half a head and who never read a page that does not fit the socket's buffers."""
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.05)
    async with serving(metrics=lambda: (200, "text/plain", b"x" * 50_000_000)) as (server, port):
        assert await talk(port, b"GET /healthz HT") == b""
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        while not server._open:
            await asyncio.sleep(0.001)
        while server._open:
            await asyncio.sleep(0.001)
        writer.transport.abort()


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)
    async with serving(healthz=lambda: text_page(200, "ok")) as (server, port):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        while len(server._open) < 2:
            await asyncio.sleep(0.001)
        assert await talk(port, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        while server._open:
            await asyncio.sleep(0.001)
        assert (await talk(port, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_closing_does_not_wait_for_the_idle() -> None:
    async with serving() as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not server._open:
            await asyncio.sleep(0.001)
        async with asyncio.timeout(http.REQUEST_TIMEOUT_S / 2):
            await server.close()
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
        writer.close()
