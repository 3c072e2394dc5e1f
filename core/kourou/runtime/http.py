"""A small HTTP server for ``/metrics``, ``/healthz`` and ``/readyz``: GET only, one request a connection, all bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

HEAD_BYTES_MAX = 8 * 1024
REQUEST_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 256

Page = Callable[[], tuple[int, str, bytes]]  # status, content type, body

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def text_page(status: int, text: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", (text + "\n").encode()


class HttpServer:
    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = dict(pages)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self, host: str, port: int) -> int:
        """The port that was bound."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_BYTES_MAX)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and drop who is connected: nothing here is worth waiting for."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                writer.close()
                await writer.wait_closed()  # all was sent, or the time is up
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # slow, too long, or gone: nothing is owed
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            status, kind, body = text_page(400, "bad request")
        elif parts[0] not in ("GET", "HEAD"):
            status, kind, body = text_page(405, "only GET is served")
        else:
            page = self._pages.get(parts[1].partition("?")[0])
            try:
                status, kind, body = page() if page is not None else text_page(404, "no such page")
            except Exception as failure:  # the root of a request: the asker is told, the loop's handler logs it
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"the page {parts[1][:100]} failed", "exception": failure}
                )
                status, kind, body = text_page(500, "the page failed; the log says why")
        lines = [
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "",
            "",
        ]
        return "\r\n".join(lines).encode("latin-1") + (b"" if parts[0] == "HEAD" else body)
