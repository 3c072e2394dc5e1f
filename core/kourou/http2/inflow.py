"""What comes in on a connection: the windows that we give, and frames put together to messages.

Three bounds hold a connection's memory, and none of them can bring it to a halt:

* a stream may send its window before a handler takes anything; what is taken is given back;
* a message larger than that needs a reservation of its whole length, and waits for it (first come, first served);
* whole messages that handlers are at work on count as unanswered; above the bound the connection's window is not given back.
  What belongs to unfinished messages always is, so the peer can finish them.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Final

from kourou.http2 import frames
from kourou.http2.call import GrpcError, StatusCode
from kourou.http2.compress import too_large
from kourou.http2.frames import ConnectionFault, window_update
from kourou.http2.limits import Http2Limits

_PREFIX: Final = Struct(">BI")
_PREFIX_BYTES: Final = 5


class Unanswered:
    """Bytes of messages that handlers of all connections are at work on."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0


class Inflow:
    """The receive side of one connection."""

    __slots__ = ("_all", "_limits", "_low", "_out", "_reservable", "_reserved", "_waiting", "held", "window")

    def __init__(self, limits: Http2Limits, everyone: Unanswered, out: list[bytes | memoryview]) -> None:
        self.window = limits.connection_window_bytes  # that the peer may still send
        self._low = limits.connection_window_bytes // 2  # to be given back below it
        self.held = 0
        self._limits = limits
        self._all = everyone
        self._out = out
        self._reserved = 0
        self._reservable = max(limits.assembly_bytes_max, limits.message_bytes_max + _PREFIX_BYTES)
        self._waiting: deque[Incoming] = deque()

    def received(self, size: int) -> None:
        """DATA came, padding and all."""
        self.window -= size
        if self.window < self._low:
            if self.window < 0:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window allows")
            self._replenish()

    def _replenish(self) -> None:
        limits = self._limits
        if self.held <= limits.unanswered_bytes_max and (
            not self.held or self._all.size <= limits.unanswered_total_bytes_max
        ):
            self._out.append(window_update(0, limits.connection_window_bytes - self.window))
            self.window = limits.connection_window_bytes

    def hold(self, size: int) -> None:
        """A whole message goes to a handler."""
        self.held += size
        self._all.size += size

    def release(self, size: int) -> None:
        """The handler is done with it."""
        self.held -= size
        self._all.size -= size
        if self.window < self._low:
            self._replenish()

    def reserve(self, incoming: Incoming, size: int) -> None:
        if self._reserved and self._reserved + size > self._reservable:
            self._waiting.append(incoming)
        else:
            self._reserved += size
            self._out.append(incoming.let_in(size))

    def unreserve(self, incoming: Incoming) -> None:
        if not incoming.reserved:
            if incoming.waits:
                self._waiting.remove(incoming)
            return
        self._reserved -= incoming.reserved
        incoming.reserved = 0
        while self._waiting:
            size = self._waiting[0].size
            if self._reserved and self._reserved + size > self._reservable:
                return
            self._reserved += size
            self._out.append(self._waiting.popleft().let_in(size))


class Incoming:
    """The receive side of one stream."""

    __slots__ = (
        "_advanced",
        "_buffer",
        "_inflow",
        "_message_max",
        "_owed",
        "_share",
        "_stream_id",
        "content_left",
        "reserved",
        "size",
        "waits",
        "window",
    )

    def __init__(self, inflow: Inflow, stream_id: int, limits: Http2Limits, content_length: int | None) -> None:
        self.content_left = content_length  # of what content-length announced
        self.window = limits.stream_window_bytes  # that the peer may still send
        self.size = 0  # of the message that is being put together, prefix included; 0 while unknown
        self.reserved = 0
        self.waits = False  # for a reservation
        self._share = limits.stream_window_bytes // 2
        self._message_max = limits.message_bytes_max
        self._inflow = inflow
        self._stream_id = stream_id
        self._buffer = bytearray()
        self._advanced = 0  # given beyond the window, for a large message
        self._owed = 0  # taken, and not given back yet

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The messages that ``data`` completes, each with its flag. Raises GrpcError for one that is too large."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < (self.size or _PREFIX_BYTES):
                return []
            data = bytes(buffer)
            buffer.clear()
            self._inflow.unreserve(self)
        messages: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        self.size = 0
        while end - at >= _PREFIX_BYTES:
            compressed, size = _PREFIX.unpack_from(data, at)
            if compressed > 1:
                raise GrpcError(StatusCode.INTERNAL, "a message has unknown flags")
            if size > self._message_max:
                raise GrpcError(StatusCode.RESOURCE_EXHAUSTED, too_large(self._message_max))
            after = at + _PREFIX_BYTES + size
            if after > end:
                self.size = _PREFIX_BYTES + size
                break
            messages.append((compressed, data[at + _PREFIX_BYTES : after]))
            at = after
        if at < end:
            buffer += memoryview(data)[at:]
            if self.size - len(buffer) > self.window:
                self.waits = True
                self._inflow.reserve(self, self.size)
        return messages

    def let_in(self, reserved: int) -> bytes:
        """The window for the rest of the message that is being put together."""
        self.waits = False
        self.reserved = reserved
        increment = self.size - len(self._buffer) - self.window
        self.window += increment
        self._advanced += increment
        return window_update(self._stream_id, increment)

    def taken(self, size: int) -> bytes:
        """The handler, or nobody, takes so many bytes: the window that the peer gets for them."""
        back = min(size, self._advanced)
        self._advanced -= back
        self._owed += size - back
        if self._owed < self._share:
            return b""
        increment, self._owed = self._owed, 0
        self.window += increment
        return window_update(self._stream_id, increment)

    @property
    def partial(self) -> bool:
        return bool(self._buffer)

    def drop(self) -> None:
        self._inflow.unreserve(self)
        self.waits = False
        self._buffer.clear()
