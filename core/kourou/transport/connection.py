"""The dialling end of the data plane, for asyncio: one connection, requests matched to answers, pushes handed on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from kourou.core import wire
from kourou.core.errors import DeadlineExceeded, KourouError, NotConnected, OutcomeUnknown
from kourou.core.limits import WIRE_BYTES_MAX
from kourou.core.route import Endpoint
from kourou.core.version import VERSION
from kourou.core.wire import Code, Flag, FrameReader, WireMessage

Part = bytes | bytearray | memoryview
Answered = Callable[[WireMessage | KourouError], None]
Pushed = Callable[[WireMessage], None]

CONNECT_TIMEOUT_S = 5.0
PING_S = 3.0  # of silence, then an answer is asked for
SILENT_S = 15.0  # then the other end is taken for dead
HELD_UP_TIMES = 2  # some event loops run timers before they read
WRITE_HIGH_BYTES = 1024 * 1024  # asyncio moves what is unsent to the front at each write: little should wait there
_ANSWER, _ONE_WAY, _ERROR = int(Flag.ANSWER), int(Flag.ONE_WAY), int(Flag.ERROR)


class Connection(asyncio.BufferedProtocol):
    """Made by ``connect``. Belongs to the event loop and the process that made it."""

    def __init__(self, endpoint: Endpoint, handlers: Mapping[int, Pushed]) -> None:
        self.endpoint = endpoint
        self.handlers = dict(handlers)  # by code: one-way messages and requests of the server
        self.hello: dict[str, Any] = {}
        self.closed = False
        self.reason: str | None = None  # why it ended
        self.going_away = False
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, Answered] = {}
        self._opaque = 0
        self._on_close: list[Callable[[Connection], None]] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._on_writable: list[Callable[[], None]] = []
        self._heard_at = self._sent_at = self._loop.time()
        self._pinger: asyncio.TimerHandle | None = None
        self._ping_s, self._silent_s = PING_S, SILENT_S
        self._held_up = 0  # pings in a row that came too late to say that the other end is silent
        self._pid = os.getpid()

    # ---- asking

    def request(self, code: int, answered: Answered, *, header: bytes = b"", parts: Iterable[Part] = ()) -> int:
        """Send a request; ``answered`` is called once, with the answer or an error. Never called from within.

        Raises NotConnected when nothing was written.
        """
        self._check()
        self._opaque = opaque = (self._opaque + 1) & 0xFFFFFFFF
        self._waiting[opaque] = answered
        self._send(code, opaque, 0, header, parts)
        return opaque

    async def ask(
        self,
        code: int,
        *,
        header: bytes = b"",
        parts: Iterable[Part] = (),
        timeout_s: float = 10.0,
        arrived: Callable[[WireMessage], None] | None = None,
    ) -> WireMessage:
        """Send a request and wait for the answer; ``arrived`` is called with it before anything that came behind it is read.
        Raises what the server answers, NotConnected, DeadlineExceeded when the deadline had passed before, OutcomeUnknown
        when the answer did not come."""
        if timeout_s <= 0:
            raise DeadlineExceeded(f"the deadline passed before {Code(code).name} was sent to {self.endpoint}")
        future: asyncio.Future[WireMessage] = self._loop.create_future()

        def answered(result: WireMessage | KourouError) -> None:
            if future.done():
                return
            if isinstance(result, KourouError):
                future.set_exception(result)
                return
            try:
                if arrived is not None:
                    arrived(result)
            except Exception as failure:  # whoever waits has it, a bug too
                future.set_exception(failure)
            else:
                future.set_result(result)

        opaque = self.request(code, answered, header=header, parts=parts)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise OutcomeUnknown(f"{self.endpoint} did not answer {Code(code).name} within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(opaque, None)

    async def ask_json(
        self,
        code: int,
        value: object,
        *,
        timeout_s: float = 10.0,
        arrived: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {}

        def read(message: WireMessage) -> None:
            nonlocal answer
            answer = wire.decode_json(message.body, what=f"answer to {Code(code).name}", bytes_max=WIRE_BYTES_MAX)
            if arrived is not None:
                arrived(answer)

        await self.ask(code, parts=(wire.encode_json(value),), timeout_s=timeout_s, arrived=read)
        return answer

    def push(self, code: int, *, header: bytes = b"", parts: Iterable[Part] = ()) -> None:
        """Send a one-way message; nothing happens when the connection has ended."""
        if not self.closed:
            self._send(code, 0, _ONE_WAY, header, parts)

    def answer_json(self, message: WireMessage, value: object) -> None:
        """Answer a request of the server's."""
        if not self.closed and not message.is_one_way:
            self._send(message.code, message.opaque, _ANSWER, b"", (wire.encode_json(value),))

    async def drained(self) -> None:
        """Wait until the socket takes more."""
        if not self._writable.is_set():
            await self._writable.wait()

    @property
    def writable(self) -> bool:
        return self._writable.is_set()

    def on_close(self, callback: Callable[[Connection], None]) -> None:
        if self.closed:
            self._loop.call_soon(callback, self)
        else:
            self._on_close.append(callback)

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Call back once, when the socket takes more."""
        self._on_writable.append(callback)

    def close(self) -> None:
        if self._transport is not None and self._pid == os.getpid():
            self._transport.close()

    def abort(self, reason: str) -> None:
        self.reason = self.reason or reason
        if self._transport is not None and self._pid == os.getpid():
            self._transport.abort()

    # ---- inside

    def _check(self) -> None:
        if self.closed:
            raise NotConnected(f"the connection to {self.endpoint} has ended: {self.reason}")
        if self._pid != os.getpid():
            raise NotConnected("the connection belongs to the process before the fork; make a new client in this one")

    def _send(self, code: int, opaque: int, flags: int, header: bytes, parts: Iterable[Part]) -> None:
        pieces = list(parts)
        size = sum(map(len, pieces))
        head = wire.encode_head(code, opaque, flags=flags, header=header, body_size=size)
        assert self._transport is not None
        if size < 65_536:
            self._transport.write(b"".join((head, *pieces)))
        else:
            self._transport.write(head)
            for piece in pieces:
                self._transport.write(piece)
        self._sent_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._take(self._reader.received(nbytes))
        except KourouError as failure:
            self.abort(f"what it sent can't be read: {failure}")

    def _take(self, messages: list[WireMessage]) -> None:
        self._heard_at = self._loop.time()
        waiting = self._waiting
        for message in messages:
            if message.flags & _ANSWER:
                answered = waiting.pop(message.opaque, None)
                if answered is not None:
                    answered(self._error(message) if message.flags & _ERROR else message)
                elif message.flags & _ERROR and not message.opaque:
                    self.reason = str(wire.decode_error(message))
            elif message.code == Code.GOAWAY:
                self.going_away = True
                self.reason = f"the server said goodbye: {wire.decode_json(message.body).get('reason')}"
            else:
                handler = self.handlers.get(message.code)
                if handler is not None:
                    handler(message)

    def _error(self, message: WireMessage) -> KourouError:
        try:
            return wire.decode_error(message)
        except KourouError as failure:
            self.abort(f"what it sent can't be read: {failure}")
            return OutcomeUnknown(f"{self.endpoint} answered with an error that can't be read: {failure}")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        callbacks, self._on_writable = self._on_writable, []
        for callback in callbacks:
            callback()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.reason is None:
            self.reason = str(exc) if exc is not None else "it was closed"
        if self._pinger is not None:
            self._pinger.cancel()
        self._writable.set()
        waiting, self._waiting = self._waiting, {}
        for answered in waiting.values():
            answered(OutcomeUnknown(f"the connection to {self.endpoint} ended before the answer came: {self.reason}"))
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback(self)

    def start_pings(self, ping_s: float, silent_s: float) -> None:
        if self._pinger is not None:
            self._pinger.cancel()
        self._ping_s, self._silent_s = ping_s, silent_s
        if not self.closed:
            self._next_ping()

    def _next_ping(self) -> None:
        due = self._loop.time() + self._ping_s
        self._pinger = self._loop.call_at(due, self._ping, due)

    def _ping(self, due: float) -> None:
        now = self._loop.time()
        quiet_s = now - self._heard_at
        silent = quiet_s > self._silent_s
        # What was said while the loop was held up has not been read yet; but some loops are held up again and again.
        self._held_up = self._held_up + 1 if silent and now - due > self._ping_s / 2 else 0
        if silent and not 0 < self._held_up <= HELD_UP_TIMES:
            self.abort(f"nothing was heard for {self._silent_s:g} s")
            return
        if max(quiet_s, now - self._sent_at) >= self._ping_s * 0.9:
            self.request(Code.PING, _ignore)
        self._next_ping()


def _ignore(result: WireMessage | KourouError) -> None:
    """For answers nobody waits for."""


async def connect(
    endpoint: Endpoint,
    *,
    client_id: str,
    handlers: Mapping[int, Pushed],
    compressions: tuple[str, ...] = ("zlib",),
    timeout_s: float = CONNECT_TIMEOUT_S,
    ping_s: float = PING_S,
    silent_s: float = SILENT_S,
) -> Connection:
    """Dial and say HELLO. ``ping_s``: of silence, after which an answer is asked for; ``silent_s``: after which the
    connection is given up. Raises NotConnected, with the reason, or what the server answers to HELLO."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(
                lambda: Connection(endpoint, handlers), endpoint.host, endpoint.port
            )
    except TimeoutError:
        raise NotConnected(f"{endpoint} did not accept a connection within {timeout_s:g} s") from None
    except OSError as failure:
        raise NotConnected(f"can't connect to {endpoint}: {failure.strerror or failure}; is Kourou running there?") from None
    try:
        connection.hello = await connection.ask_json(
            Code.HELLO,
            {
                "versions": [wire.PROTOCOL_VERSION],
                "client": {"id": client_id, "version": VERSION},
                "dialled": str(endpoint),
                "compressions": list(compressions),
            },
            timeout_s=timeout_s,
        )
    except OutcomeUnknown as failure:
        connection.abort("no answer to HELLO")
        raise NotConnected(f"{endpoint} does not answer as Kourou does: {failure}") from None
    except (KourouError, asyncio.CancelledError):
        connection.abort("HELLO was refused, or nobody waits for its answer any more")
        raise
    connection.start_pings(ping_s, silent_s)
    return connection
