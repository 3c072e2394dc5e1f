"""The asyncio side of a connection: reads, writes once a turn, and looks after the peer that says nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from kourou.http2 import reply
from kourou.http2.connection import Connection
from kourou.http2.control import NotHttp2
from kourou.http2.engine import Engine

_HTTP_1: Final = re.compile(rb"[A-Z]{3,10} [^\r\n]* HTTP/1\.[01]\r?\n")
_DRAIN_ROUND_TRIP_S: Final = 1.0


class Owner(Protocol):
    """The server, as its connections see it."""

    engine: Engine
    bytes_received: int
    bytes_sent: int
    draining: bool

    def opened(self, protocol: ServerProtocol) -> None: ...

    def closed(self, protocol: ServerProtocol) -> None: ...


class ServerProtocol(asyncio.Protocol):
    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._engine = owner.engine
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._connection: Connection | None = None
        self._scheduled = False
        self._halted = False
        now = owner.engine.now()
        self._made_s = self._heard_s = self._busy_s = now
        self._last_stream_id = -1  # when last looked
        self._asked_s = 0.0  # when we asked whether somebody is there
        self._drain_s = 0.0  # when the drain began
        self._closing_s = 0.0  # when it was first seen to be closing
        self._unsent = 0
        self._unsent_s = now

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._connection = Connection(
            self._engine,
            peer=_address(transport.get_extra_info("peername")),
            local=_address(transport.get_extra_info("sockname")),
            secure=transport.get_extra_info("ssl_object") is not None,
            wake=self._wake,
        )
        self._transport.set_write_buffer_limits(high=self._engine.limits.turn_bytes)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        assert connection is not None
        self._owner.bytes_received += len(data)
        self._receive(connection, data)

    def _receive(self, connection: Connection, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._scheduled = True  # calls need not ask for a turn of their own
        try:
            connection.receive(data)
        except NotHttp2:
            self._not_http2(transport, data)
            return
        finally:
            self._scheduled = False
        if connection.halted and not self._halted:
            self._halted = True
            transport.pause_reading()
            self._loop.call_soon(self._go_on)
        self._flush()

    def _go_on(self) -> None:
        """Take more of what a client sent in one go, now that the others had their turn."""
        self._halted = False
        connection, transport = self._connection, self._transport
        if connection is None or transport is None or transport.is_closing():
            return
        self._receive(connection, b"")
        if not self._halted and not transport.is_closing():
            transport.resume_reading()

    def eof_received(self) -> bool:
        return False  # a client that stops sending has gone

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.outflow.blocked = True
            self._unsent_s = self._engine.now()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.outflow.blocked = False
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        connection = self._connection
        if connection is not None:
            connection.lost()
            connection.outflow.out.clear()
        self._connection = self._transport = None  # no cycle is left for the collector
        self._owner.closed(self)

    # ---- writing

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._connection is not None:
            self._flush()

    def _flush(self) -> None:
        connection, transport = self._connection, self._transport
        if connection is None or transport is None or transport.is_closing():
            return
        outflow = connection.outflow
        if outflow.waiting:
            outflow.proceed()
        if outflow.out:
            data = connection.take()
            self._owner.bytes_sent += len(data)
            transport.write(data)
            if outflow.waiting and outflow.window > 0 and not outflow.blocked:
                self._wake()
            if outflow.blocked or outflow.pending_bytes:
                self._check_unsent(transport, connection)
        if connection.closing or connection.control.over:
            transport.close()

    def _check_unsent(self, transport: asyncio.Transport, connection: Connection) -> None:
        unsent = connection.outflow.pending_bytes + transport.get_write_buffer_size()
        if unsent > self._engine.limits.output_bytes_max:
            self._cut_off("the peer reads too little of what it asks for")

    def _not_http2(self, transport: asyncio.Transport, data: bytes) -> None:
        if _HTTP_1.match(data):
            transport.write(reply.HTTP_1)
        transport.close()

    # ---- what the server asks for

    def sweep(self, now: float) -> None:
        """Called about once a second, or more often where there are few."""
        connection, transport = self._connection, self._transport
        if connection is None or transport is None:
            return
        limits = self._engine.limits
        if transport.is_closing():  # what is written still waits to be read
            self._closing_s = self._closing_s or now
            if now - self._closing_s > limits.unsent_timeout_s:
                transport.abort()
            return
        if connection.heard:
            connection.heard = False
            self._heard_s = now
            self._asked_s = 0.0
        if connection.streams or connection.last_stream_id != self._last_stream_id:
            self._last_stream_id = connection.last_stream_id
            self._busy_s = now
        if not connection.control.greeted:
            if now - self._made_s > limits.handshake_timeout_s:
                self._cut_off("no HTTP/2 preface in time")
        elif self._stuck(now, transport, connection):
            self._cut_off("the peer reads nothing")
        elif self._asked_s and now - self._asked_s > limits.keepalive_timeout_s:
            self._cut_off("the peer doesn't answer")
        elif not self._asked_s and now - self._heard_s > limits.keepalive_s:
            self._asked_s = now
            connection.control.ask_alive()
        if now - self._busy_s > limits.idle_timeout_s:
            self.drain()
        if self._drain_s and now - self._drain_s > _DRAIN_ROUND_TRIP_S:
            connection.control.drained()

    def _stuck(self, now: float, transport: asyncio.Transport, connection: Connection) -> bool:
        unsent = transport.get_write_buffer_size()
        if not connection.outflow.blocked or unsent != self._unsent:
            self._unsent, self._unsent_s = unsent, now
        return now - self._unsent_s > self._engine.limits.unsent_timeout_s

    def drain(self) -> None:
        """Serve what is under way, then close."""
        connection, transport = self._connection, self._transport
        if connection is None or transport is None:
            return
        if not connection.control.greeted:
            transport.close()
        elif not self._drain_s:
            self._drain_s = self._engine.now()
            connection.control.drain()

    def end(self) -> None:
        """End every call now, then close."""
        connection, transport = self._connection, self._transport
        if connection is None or transport is None:
            return
        if connection.control.greeted:
            connection.control.drained()
            for call in list(connection.streams.values()):
                call.shut_down()
        connection.closing = True
        self._flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _cut_off(self, reason: str) -> None:
        connection = self._connection
        if connection is not None and not connection.fault:
            connection.fault = reason
            self._engine.faults += 1
        self.abort()


def _address(name: Any) -> str:
    if not isinstance(name, tuple) or len(name) < 2:
        return str(name or "")
    host = str(name[0]).removeprefix("::ffff:") if "." in str(name[0]) else str(name[0])
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


Factory = Callable[[], ServerProtocol]
