"""The listening end of the data plane: accepts connections, checks HELLO, hands messages to handlers, keeps bounds.

It knows no messages. A process registers one handler a code (nameserver's, broker's or both); everything a peer can do
to the process is bounded here: connections, bytes under way, unread answers, silence, slow writers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, cast

from kourou.core import limits, wire
from kourou.core.errors import (
    BadRequest,
    InternalError,
    KourouError,
    LimitExceeded,
    NotConnected,
    NotSupported,
    ShuttingDown,
    TooManyRequests,
    UnsupportedVersion,
)
from kourou.core.names import check_client_id
from kourou.core.wire import Code, Flag, FrameReader, WireMessage

Handler = Callable[["Peer", WireMessage], Awaitable[None] | None]
Part = bytes | bytearray | memoryview

LAST_WORDS = frozenset({Code.COMMIT, Code.ACK, Code.CHANGE_INVISIBLE})  # still taken while the server shuts down
_ANSWER = int(Flag.ANSWER)
_ONE_WAY = int(Flag.ONE_WAY)


class Events(Protocol):
    """Where the server reports what happened: structlog's bound logger fits."""

    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...

    def error(self, event: str, **fields: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class ServerLimits:
    connections_max: int = 20_000  # a process's file descriptors are raised to it at start where allowed
    hello_timeout_ms: int = 5_000
    idle_timeout_ms: int = 120_000
    message_timeout_ms: int = 30_000  # a message that has begun must be whole by then (slow writers)
    unsent_timeout_ms: int = 30_000  # a peer must read something of what waits for it by then (slow readers)
    in_flight_bytes: int = 32 * 1024 * 1024  # of one connection's unanswered requests; beyond it reading pauses
    in_flight_total_bytes: int = 256 * 1024 * 1024  # of all connections together
    unsent_bytes_max: int = 64 * 1024 * 1024
    write_high_water_bytes: int = 2 * 1024 * 1024  # deliveries pause above it


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What HELLO answers about this process."""

    role: str  # standalone, nameserver or broker
    name: str
    cluster: str
    version: str
    compressions: tuple[str, ...] = ("zlib",)


class Peer(asyncio.BufferedProtocol):
    """One accepted connection."""

    def __init__(self, server: DataPlaneServer, number: int) -> None:
        self.number = number
        self.client_id = ""
        self.client_version = ""
        self.dialled = ""  # host:port that the client connected to, by its own account
        self.remote = ""
        self.heard_at = server.now()  # monotonic seconds; when anything was last received
        self.closed = False
        self.writable = True
        self.attachments: dict[str, Any] = {}  # per-connection state of the handlers, by their name
        self._server = server
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._in_flight = 0
        self._reading = True
        self._partial_since = 0.0
        self._unsent_seen = 0
        self._unsent_since = 0.0
        self._on_close: list[Callable[[Peer], None]] = []
        self._on_writable: list[Callable[[Peer], None]] = []
        self._opaque = count(1)
        self._asked: dict[int, asyncio.Future[WireMessage]] = {}

    # ---- what handlers use

    def reply(self, message: WireMessage, *, header: bytes = b"", parts: Iterable[Part] = ()) -> None:
        """Answer a request. Parts are sent as they are, without a copy."""
        self._settle(message)
        self._send(message.code, message.opaque, _ANSWER, header, list(parts))

    def reply_json(self, message: WireMessage, value: object) -> None:
        self.reply(message, parts=(wire.encode_json(value),))

    def reply_error(self, message: WireMessage, failure: KourouError) -> None:
        self._settle(message)
        if not message.is_one_way:
            self._write(wire.encode_error(message.code, message.opaque, failure))

    def push(self, code: int, *, header: bytes = b"", parts: Iterable[Part] = ()) -> None:
        """Send a one-way message."""
        self._send(code, 0, _ONE_WAY, header, list(parts))

    def push_json(self, code: int, value: object) -> None:
        self.push(code, parts=(wire.encode_json(value),))

    def request_json(self, code: int, value: object) -> asyncio.Future[WireMessage]:
        return self.request(code, parts=(wire.encode_json(value),))

    def request(self, code: int, *, header: bytes = b"", parts: Iterable[Part] = ()) -> asyncio.Future[WireMessage]:
        """Ask the client something; the future ends with its answer, or NotConnected when the connection ends first."""
        opaque = next(self._opaque)
        future: asyncio.Future[WireMessage] = asyncio.get_running_loop().create_future()
        if self.closed:
            future.set_exception(NotConnected("the connection has ended"))
            return future
        self._asked[opaque] = future
        self._send(code, opaque, 0, header, list(parts))
        return future

    def on_close(self, callback: Callable[[Peer], None]) -> None:
        """Call back once when the connection has ended, for whatever reason."""
        if self.closed:
            callback(self)
        else:
            self._on_close.append(callback)

    def on_writable(self, callback: Callable[[Peer], None]) -> None:
        """Call back each time the send buffer has drained after ``writable`` was False."""
        self._on_writable.append(callback)

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self, reason: str) -> None:
        """Say GOAWAY, send what waits, close."""
        if not self.closed and self._transport is not None and not self._transport.is_closing():
            self.push_json(Code.GOAWAY, {"reason": reason})
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Cut the connection off, dropping what waits to be sent."""
        if not self.closed and self._transport is not None:
            self._server.log.warning("peer_cut_off", peer=self.number, remote=self.remote, reason=reason)
            self._server.cut_off += 1
            self._transport.abort()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport = transport
        peername = transport.get_extra_info("peername")
        self.remote = f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) else str(peername)
        transport.set_write_buffer_limits(high=self._server.limits.write_high_water_bytes)
        self._server.accepted(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        server = self._server
        try:
            messages = self._reader.received(nbytes)
        except KourouError as failure:
            server.log.warning("stream_unreadable", peer=self.number, remote=self.remote, reason=str(failure))
            self._write(wire.encode_error(0, 0, failure))
            if self._transport is not None:
                self._transport.close()
            return
        now = self.heard_at = server.now()
        if self._reader.pending_bytes:
            if messages or not self._partial_since:
                self._partial_since = now
        else:
            self._partial_since = 0.0
        for message in messages:
            if message.flags & _ANSWER:
                self._answered(message)
            else:
                self._received(message)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        for callback in self._on_writable:
            callback(self)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._server.lost(self, self._in_flight)
        self._in_flight = 0
        for future in self._asked.values():
            if not future.done():
                future.set_exception(NotConnected("the connection ended before the client answered"))
                future.exception()  # whoever awaits still gets it; nobody is told off when nobody does
        self._asked.clear()
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback(self)
        self._on_writable.clear()
        self.attachments.clear()

    # ---- inside

    def _send(self, code: int, opaque: int, flags: int, header: bytes, parts: list[Part]) -> None:
        size = sum(map(len, parts))
        head = wire.encode_head(code, opaque, flags=flags, header=header, body_size=size)
        if size < 4096:
            self._write(b"".join((head, *parts)))
        elif not self.closed and self._transport is not None:
            self._transport.writelines([head, *parts])
            self._check_unsent()

    def _write(self, data: bytes) -> None:
        if not self.closed and self._transport is not None:
            self._transport.write(data)
            if not self.writable:
                self._check_unsent()

    def _check_unsent(self) -> None:
        if self.unsent_bytes > self._server.limits.unsent_bytes_max:
            self.abort(f"{self.unsent_bytes} bytes wait to be read; the limit is {self._server.limits.unsent_bytes_max}")

    def _answered(self, message: WireMessage) -> None:
        future = self._asked.pop(message.opaque, None)
        if future is not None and not future.done():
            if message.is_error:
                try:
                    future.set_exception(wire.decode_error(message))
                except KourouError as failure:
                    future.set_exception(failure)
            else:
                future.set_result(message)

    def _received(self, message: WireMessage) -> None:
        if not message.flags & _ONE_WAY:
            self._in_flight += message.size
            self._server.in_flight_bytes += message.size
            if self._reading and self._over():
                self._pause()
        if not self._greeted:
            self._greet(message)
            return
        handler = self._server.handlers.get(message.code)
        try:
            if handler is None:
                known = message.code in Code.__members__.values()
                raise NotSupported(
                    f"{Code(message.code).name if known else f'code {message.code}'} is not served by a "
                    f"{self._server.identity.role}"
                )
            if self._server.draining and message.code not in LAST_WORDS:
                raise ShuttingDown("the server is shutting down; reconnect")
            pending = handler(self, message)
        except KourouError as failure:
            self.reply_error(message, failure)
        except Exception as failure:  # a bug of ours must not take the connection's other requests with it
            self._bug(message, failure)
        else:
            if pending is not None:
                self._server.spawn(self._finish(message, pending))

    async def _finish(self, message: WireMessage, pending: Awaitable[None]) -> None:
        try:
            await pending
        except KourouError as failure:
            self.reply_error(message, failure)
        except Exception as failure:
            self._bug(message, failure)

    def _bug(self, message: WireMessage, failure: Exception) -> None:
        self._server.bugs += 1
        self._server.log.error("handler_failed", code=message.code, remote=self.remote, exc_info=failure)
        self.reply_error(message, InternalError("the server failed to handle the request; its log says why"))

    def _greet(self, message: WireMessage) -> None:
        try:
            if message.code != Code.HELLO:
                raise BadRequest(f"the first message must be HELLO, not code {message.code}")
            value = wire.decode_json(message.body, what="HELLO")
            versions = value.get("versions")
            if not isinstance(versions, list) or wire.PROTOCOL_VERSION not in versions:
                raise UnsupportedVersion(f"this server speaks version {wire.PROTOCOL_VERSION}; HELLO offers {versions}")
            client = value.get("client")
            if not isinstance(client, dict):
                raise BadRequest("HELLO has no client object")
            self.client_id = check_client_id(client.get("id"))
            self.client_version = str(client.get("version", ""))[:64]
            self.dialled = str(value.get("dialled", ""))[:300]
        except KourouError as failure:
            self.reply_error(message, failure)
            if self._transport is not None:
                self._transport.close()
            return
        self._greeted = True
        self.reply_json(message, self._server.hello())

    def _settle(self, message: WireMessage) -> None:
        if message.flags & _ONE_WAY or self.closed:
            return
        self._in_flight -= message.size
        self._server.in_flight_bytes -= message.size
        if not self._reading and self._in_flight <= self._server.limits.in_flight_bytes // 2:
            self._server.resume(self)

    def _over(self) -> bool:
        bounds = self._server.limits
        return self._in_flight > bounds.in_flight_bytes or self._server.in_flight_bytes > bounds.in_flight_total_bytes

    def _pause(self) -> None:
        assert self._transport is not None
        self._reading = False
        self._transport.pause_reading()
        self._server.paused.add(self)

    def resume_reading(self) -> None:
        self._server.paused.discard(self)
        if not self._reading and not self.closed and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def sweep(self, now: float) -> None:
        """Cut the peer off when one of the time limits has passed."""
        bounds = self._server.limits
        if not self._greeted and (now - self.heard_at) * 1000 > bounds.hello_timeout_ms:
            self.abort(f"no HELLO within {bounds.hello_timeout_ms} ms")
            return
        unsent = self.unsent_bytes
        if unsent == 0 or unsent < self._unsent_seen or self._unsent_seen == 0:
            self._unsent_since = now
        elif (now - self._unsent_since) * 1000 > bounds.unsent_timeout_ms:
            self.abort(f"read nothing for {bounds.unsent_timeout_ms} ms while {unsent} bytes wait")
            return
        self._unsent_seen = unsent
        if not self._reading:
            return
        if self._partial_since and (now - self._partial_since) * 1000 > bounds.message_timeout_ms:
            self.abort(f"a message was not whole within {bounds.message_timeout_ms} ms")
        elif (now - self.heard_at) * 1000 > bounds.idle_timeout_ms:
            self.abort(f"silent for {bounds.idle_timeout_ms} ms")


class DataPlaneServer:
    """Listens, and owns the peers and the tasks of their requests."""

    SWEEP_S = 0.1

    def __init__(
        self,
        handlers: Mapping[int, Handler],
        *,
        identity: ServerIdentity,
        log: Events,
        bounds: ServerLimits | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handlers: dict[int, Handler] = {int(Code.PING): self._ping, int(Code.HELLO): self._hello_again}
        self.handlers.update({int(code): handler for code, handler in handlers.items()})
        self.identity = identity
        self.limits = bounds or ServerLimits()
        self.log = log
        self.now = now
        self.in_flight_bytes = 0
        self.cut_off = 0
        self.bugs = 0
        self.draining = False
        self.peers: set[Peer] = set()
        self.paused: set[Peer] = set()
        self._numbers = count(1)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._to_sweep: list[Peer] = []
        self._all_gone: asyncio.Event | None = None  # while closing

    async def listen(self, host: str, port: int) -> int:
        """Bind and start to accept; the port that was bound (of use with port 0). OSError is the caller's to explain."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Peer(self, next(self._numbers)), host, port, backlog=1024, reuse_address=True
        )
        self._sweeper = loop.call_later(self.SWEEP_S, self._sweep)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self, *, grace_s: float = 3.0) -> None:
        """Stop accepting, tell everybody, let requests under way finish for a while, close."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for peer in list(self.peers):
            peer.close("the server is shutting down")
        if self.peers:
            self._all_gone = asyncio.Event()
            try:
                async with asyncio.timeout(grace_s):
                    await self._all_gone.wait()
            except TimeoutError:
                for peer in list(self.peers):
                    peer.abort("did not close in time")
                await self._all_gone.wait()

    def spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hello(self) -> dict[str, Any]:
        me = self.identity
        return {
            "version": wire.PROTOCOL_VERSION,
            "server": {"role": me.role, "name": me.name, "cluster": me.cluster, "version": me.version},
            "limits": {
                "wire_bytes": limits.WIRE_BYTES_MAX,
                "body_bytes": limits.BODY_BYTES_MAX,
                "frame_bytes": limits.FRAME_BYTES_MAX,
                "frames_per_request": limits.FRAMES_PER_REQUEST_MAX,
                "in_flight_bytes": self.limits.in_flight_bytes,
            },
            "compressions": list(me.compressions),
        }

    def accepted(self, peer: Peer) -> None:
        if len(self.peers) >= self.limits.connections_max or self.draining:
            self.peers.add(peer)
            failure: KourouError = (
                ShuttingDown("the server is shutting down; reconnect")
                if self.draining
                else TooManyRequests(f"{len(self.peers)} connections are open; the limit is {self.limits.connections_max}")
            )
            peer._write(wire.encode_error(0, 0, failure))
            peer.close(str(failure))
            return
        self.peers.add(peer)

    def lost(self, peer: Peer, in_flight: int) -> None:
        self.peers.discard(peer)
        self.paused.discard(peer)
        self.in_flight_bytes -= in_flight
        self._resume_others()
        if self._all_gone is not None and not self.peers:
            self._all_gone.set()

    def resume(self, peer: Peer) -> None:
        if self.in_flight_bytes <= self.limits.in_flight_total_bytes:
            peer.resume_reading()
        self._resume_others()

    def _resume_others(self) -> None:
        if self.paused and self.in_flight_bytes <= self.limits.in_flight_total_bytes // 2:
            for peer in list(self.paused):
                if peer._in_flight <= self.limits.in_flight_bytes // 2:
                    peer.resume_reading()

    def _sweep(self) -> None:
        """A twentieth of the peers each time, so that ten thousand idle ones don't hold the loop."""
        if not self._to_sweep:
            self._to_sweep = list(self.peers)
        now = self.now()
        for _ in range(min(len(self._to_sweep), max(32, len(self.peers) // 20))):
            self._to_sweep.pop().sweep(now)
        self._sweeper = asyncio.get_running_loop().call_later(self.SWEEP_S, self._sweep)

    @staticmethod
    def _ping(peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, {})

    @staticmethod
    def _hello_again(peer: Peer, message: WireMessage) -> None:
        raise LimitExceeded("HELLO was already said on this connection")
