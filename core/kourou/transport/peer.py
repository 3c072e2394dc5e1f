"""One accepted connection of the data plane: reads requests, hands them to handlers, sends what these answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from kourou.core import wire
from kourou.core.errors import (
    BadRequest,
    InternalError,
    KourouError,
    NotConnected,
    NotSupported,
    ShuttingDown,
    UnsupportedVersion,
)
from kourou.core.limits import HELLO_BYTES_MAX
from kourou.core.names import check_client_id
from kourou.core.wire import HEAD_SIZE, Code, Flag, FrameReader, WireMessage
from kourou.transport.direct import Direct, Piece, direct
from kourou.transport.load import SLICE_S, SMALL_BYTES

if TYPE_CHECKING:
    from kourou.transport.server import DataPlaneServer

Handler = Callable[["Peer", WireMessage], Awaitable[None] | None]
Part = bytes | bytearray | memoryview

LAST_WORDS = frozenset({Code.COMMIT, Code.ACK, Code.CHANGE_INVISIBLE})  # still taken while the server shuts down
UNANSWERED = frozenset({Code.CREDIT, Code.RECEIVE_CANCEL, Code.REPLICA_BATCH, Code.REPLICA_ACK, Code.REPLICA_PING})
_ANSWER = int(Flag.ANSWER)
_ONE_WAY = int(Flag.ONE_WAY)
_CUT_MAX = 512  # messages that are cut from what was received at a time
_UNFINISHED_TIMEOUT_S = 1.0  # silence in the middle of a message while others wait for the memory it takes


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
        self.in_flight = 0  # bytes of requests that are not settled
        self.partial = 0  # bytes of a message that is not whole yet
        self._server = server
        self._load = server.load
        self._reader = FrameReader(first_bytes_max=HELLO_BYTES_MAX, count_max=_CUT_MAX)
        self._transport: asyncio.Transport | None = None
        self._direct: Direct | None = None  # made when it is first asked for
        self._accepted_at = self.heard_at
        self._greeted = False
        self._backlog: deque[WireMessage] = deque()  # received, not yet begun
        self._behind = False  # waits for its turn to handle the backlog
        self._ending = False  # closes when everything is sent
        self._held = False  # has too much under way
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
        """Answer a request, or say that a one-way request is done with. Parts are sent as they are, without a copy."""
        self._settle(message)
        if not message.flags & _ONE_WAY:
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

    def push_file(self, code: int, *, header: bytes, file: Piece, at: int, size: int) -> None:
        """The same for a body that lies in a file, which should be in memory: it is not copied on its way, if possible.

        A file that can't be read ends this connection alone: whoever pushes to others goes on.
        """
        if self.closed or self._transport is None:
            return
        if self._direct is None:
            self._direct = direct(self._transport)
        try:
            if self._direct is None:
                self._send(code, 0, _ONE_WAY, header, [file.read(at, size)])
                return
            self._direct.write_file(wire.encode_head(code, 0, flags=_ONE_WAY, header=header, body_size=size), file, at, size)
        except (OSError, KourouError) as failure:
            self.abort(f"what is to be sent can't be read: {failure}")
            return
        self._check_unsent()

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
        """Say GOAWAY, send what waits, close. Requests that have not begun are dropped."""
        if not self.closed and self._transport is not None and not self._transport.is_closing():
            self.push_json(Code.GOAWAY, {"reason": reason})
            self._end()

    def abort(self, reason: str) -> None:
        """Cut the connection off, dropping what waits to be sent and requests that have not begun."""
        if not self.closed and self._transport is not None:
            self.closed = True
            self._backlog.clear()
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
        buffer, load = self._reader.get_buffer(), self._load
        if load.in_flight + load.partial > load.total_max:
            return load.portion(self, buffer)
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.closed:
            return
        load, backlog = self._load, self._backlog
        now = self.heard_at = self._server.now()
        messages = self._cut(nbytes, now)
        if len(messages) == 1 and not backlog and not self._behind:  # the most frequent case, without the detour
            message = messages[0]
            if message.flags & _ANSWER:
                self._answered(message)
            else:
                self._received(message)
        elif messages:
            backlog.extend(messages)
            if not self._behind:
                self.work(now + SLICE_S)
        if load.in_flight + load.partial > load.total_max or self.in_flight > load.own_max:
            self._hold_back()

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
        if self._direct is not None:
            self._direct.close()
        self._backlog.clear()
        self._server.lost(self)
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
        self._settle(message)
        future = self._asked.pop(message.opaque, None)
        if future is not None and not future.done():
            if message.is_error:
                try:
                    future.set_exception(wire.decode_error(message))
                except KourouError as failure:
                    future.set_exception(failure)
            else:
                future.set_result(message)

    def _hold_back(self) -> None:
        if not self.closed and self._load.must_wait(self):
            self._held = True
            self._read_or_not()

    def _cut(self, nbytes: int, now: float) -> list[WireMessage]:
        """The messages that are whole now, with ``nbytes`` more that were received."""
        try:
            messages = self._reader.received(nbytes)
        except KourouError as failure:
            self._server.log.warning("stream_unreadable", peer=self.number, remote=self.remote, reason=str(failure))
            self._write(wire.encode_error(0, 0, failure))
            self._end()
            return []
        partial = self._reader.pending_bytes
        arrived = nbytes + self.partial - partial
        self.in_flight += arrived
        self._load.in_flight += arrived
        if partial or self.partial:
            self._unfinished(partial, bool(messages), now)
        return messages

    def _unfinished(self, partial: int, whole: bool, now: float) -> None:
        """Some of a message was received, or the rest of it."""
        self._load.partial += partial - self.partial
        self.partial = partial
        if whole:
            self._load.whole(self)
        if whole or not self._partial_since:
            self._partial_since = now if partial else 0.0

    def work(self, until: float) -> None:
        """Handle what was received; what is left when it is late has its turn later, and nothing is read until then."""
        backlog, load, reader = self._backlog, self._load, self._reader
        starts = load.starts
        while backlog or (reader.more and self._cut_more()):
            message = backlog.popleft()
            if message.flags & _ANSWER:
                self._answered(message)
            elif self._received(message):
                starts -= 1
            if (backlog or reader.more) and (starts <= 0 or self._server.now() >= until):
                load.get_in_line(self)
                if not self._behind:
                    self._behind = True
                    self._read_or_not()
                return
        if self._behind:
            self._behind = False
            self._read_or_not()

    def _cut_more(self) -> bool:
        if self.closed or self._ending:
            return False
        self._backlog.extend(self._cut(0, self._server.now()))
        return bool(self._backlog)

    def _received(self, message: WireMessage) -> bool:
        """Handle a request; whether a task was started for it."""
        if not self._greeted:
            self._greet(message)
            return False
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
                return True
            if message.code in UNANSWERED:
                self._settle(message)
        return False

    async def _finish(self, message: WireMessage, pending: Awaitable[None]) -> None:
        if self.closed:  # before it began
            if isinstance(pending, Coroutine):
                pending.close()
            return
        try:
            await pending
        except KourouError as failure:
            self.reply_error(message, failure)
        except Exception as failure:
            self._bug(message, failure)
        else:
            if message.code in UNANSWERED:
                self._settle(message)

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
            self._end()
            return
        self._greeted = True
        self.reply_json(message, self._server.hello())

    def _settle(self, message: WireMessage) -> None:
        """A message is done with. Those of a connection that has ended were settled all at once."""
        if self.closed:
            return
        size = HEAD_SIZE + len(message.header) + len(message.body)
        self.in_flight -= size
        self._load.in_flight -= size
        if self._held:
            self._load.settled(self)

    def release(self) -> None:
        """There is room again: go on receiving."""
        self._held = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        wanted = not (self._held or self._behind)
        if wanted == self._reading or self.closed or self._transport is None or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self.heard_at = self._server.now()  # its silence was ours
            if self._partial_since:
                self._partial_since = self.heard_at
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _end(self) -> None:
        """Send what waits, close; drop what has not begun."""
        self._ending = True
        self._backlog.clear()
        if self._transport is not None:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """Cut the peer off when one of the time limits has passed."""
        bounds = self._server.limits
        if not self._greeted and (now - self._accepted_at) * 1000 > bounds.hello_timeout_ms:
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
        elif self.partial > SMALL_BYTES and self._load.short and now - self.heard_at > _UNFINISHED_TIMEOUT_S:
            self.abort("silent in the middle of a message while memory is short")
        elif (now - self.heard_at) * 1000 > bounds.idle_timeout_ms:
            self.abort(f"silent for {bounds.idle_timeout_ms} ms")
