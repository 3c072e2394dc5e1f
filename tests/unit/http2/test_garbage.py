"""The collector is tamed in our processes, so nothing may depend on it."""

from __future__ import annotations

import asyncio
import gc
import weakref

from kourou.http2 import frames
from kourou.http2.calls import ServerCall
from kourou.http2.inflow import Incoming
from kourou.http2.outflow import Outgoing
from tests.unit.http2.peer import Peer, headers, message
from tests.unit.http2.services import Handlers


def alive() -> int:
    return sum(isinstance(found, ServerCall | Outgoing | Incoming) for found in gc.get_objects())


async def test_connections_and_calls_go_without_the_collector() -> None:
    """Goal: no cycles. Method: calls of every kind and end, the collector off, weak references that must be dead."""
    gc.collect()
    gc.disable()
    before = alive()
    try:
        handlers = Handlers()
        peer = Peer(handlers.service, settings={frames.INITIAL_WINDOW_SIZE: 100})
        for path in ("/test/echo", "/test/later", "/test/failing", "/test/broken", "/test/nowhere", "/test/large"):
            peer.call(b"300", headers(path, ("grpc-timeout", "5S")))
        peer.send(frames.window_update(peer.open(headers("/test/silent")), 10))
        stream_id = peer.open(headers("/test/stream"))
        peer.data(stream_id, message(bytes(300)))
        for _ in range(3):
            await asyncio.sleep(0)
        connection = weakref.ref(peer.connection)
        assert alive() > before + 7
        peer.connection.lost()
        await asyncio.gather(*peer.engine.tasks, return_exceptions=True)
        await asyncio.sleep(0)
        handlers.calls.clear()
        handlers.future = None
        peer.errors.clear()
        peer.connection.outflow.out.clear()
        del peer.connection
        assert connection() is None
        assert alive() == before
    finally:
        gc.enable()
