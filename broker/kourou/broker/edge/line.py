"""Requests that may take long: those of one connection are carried out one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kourou.core import wire
from kourou.core.errors import NotConnected, TooManyRequests
from kourou.transport.server import Peer

WAITING_MAX = 1_024  # of one connection


class _Line:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


@asynccontextmanager
async def in_line(peer: Peer) -> AsyncIterator[None]:
    """Wait until the connection's other long requests are done; NotConnected when it has ended meanwhile."""
    line: _Line = peer.attachments.setdefault("line", _Line())
    if line.waiting >= WAITING_MAX:
        raise TooManyRequests(f"{WAITING_MAX} long requests of this connection wait already", retry_after_ms=1_000)
    line.waiting += 1
    try:
        async with line.lock:
            if peer.closed:
                raise NotConnected("the connection has ended")
            yield
    finally:
        line.waiting -= 1


async def with_list(value: dict[str, Any], name: str, portions: AsyncIterable[list[dict[str, Any]]]) -> bytes:
    """JSON of an object with one more field: a long list, encoded as its portions come."""
    parts = [wire.encode_json(portion)[1:-1] async for portion in portions]
    head = wire.encode_json({**value, name: []})
    return b"".join((head[:-2], b",".join(parts), b"]}"))
