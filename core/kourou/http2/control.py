"""The frames of a connection as a whole: preface, SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, GOAWAY; and its drain."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from kourou.http2 import frames
from kourou.http2.frames import ACK, PREFACE, SETTING, STREAM_ID_LIMIT, ConnectionFault
from kourou.http2.rates import Allowance

if TYPE_CHECKING:
    from kourou.http2.connection import Connection

_DRAIN_PING: Final = b"draining"
_ALIVE_PING: Final = b"alive?\0\0"
_HEADER_TABLE_MAX: Final = 4096
_TABLE_OF_NOTHING: Final = b"\x20"


class NotHttp2(Exception):
    """The first bytes are something else's."""


class Control:
    def __init__(self, connection: Connection) -> None:
        limits = connection.engine.limits
        now = connection.engine.now()
        self.greeted = False
        self.draining = False
        self.drained_to = STREAM_ID_LIMIT  # the last stream that is served
        self._connection: Connection = weakref.proxy(connection)  # it owns us; a cycle would wait for the collector
        self.table_shrunk = False  # the peer wants a smaller HPACK table, and doesn't know yet that we use none
        self._table_told = False
        self._preface = False
        self._settings = Allowance(limits.settings_rate, now)
        self._pings = Allowance(limits.pings_rate, now)
        self._empty = Allowance(limits.empty_rate, now)
        self._pinged_at = -1

    # ---- the beginning

    def _hello(self) -> bytes:
        """What we say first."""
        limits = self._connection.engine.limits
        return frames.settings(
            {
                frames.MAX_CONCURRENT_STREAMS: limits.streams_max,
                frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                frames.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
            }
        ) + frames.window_update(0, max(1, limits.connection_window_bytes - frames.WINDOW_DEFAULT))

    def greet(self, data: bytes) -> int:
        """The preface and the first SETTINGS; how much of ``data`` is used up. Raises NotHttp2."""
        connection = self._connection
        at = 0
        if not self._preface:
            if not data.startswith(PREFACE[: len(data)]):
                raise NotHttp2
            if len(data) < len(PREFACE):
                return 0
            self._preface = True
            connection.outflow.out.append(self._hello())
            at = len(PREFACE)
        if len(data) - at < frames.HEAD_BYTES:
            return at
        word, flags, stream_id = frames.HEAD.unpack_from(data, at)
        if word & 0xFF != frames.SETTINGS or flags & ACK or stream_id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame has to be SETTINGS")
        if word >> 8 > frames.FRAME_BYTES:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a frame larger than allowed")
        if len(data) - at - frames.HEAD_BYTES < word >> 8:
            return at
        self.greeted = True
        return connection._frames(data, at)

    # ---- one frame

    def frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) > frames.FRAME_BYTES:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a frame larger than allowed")
        stream_id &= STREAM_ID_LIMIT
        if kind == frames.WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == frames.RST_STREAM:
            _check(len(payload) == 4, frames.FRAME_SIZE_ERROR, "RST_STREAM of another size than 4")
            self._connection.stream_reset(stream_id)
        elif kind == frames.PING:
            self._ping(stream_id, flags, payload)
        elif kind == frames.SETTINGS:
            self._setting(stream_id, flags, payload)
        elif kind == frames.PRIORITY:
            self._priority(stream_id, payload)
        elif kind == frames.GOAWAY:
            _check(not stream_id, frames.PROTOCOL_ERROR, "GOAWAY of a stream")
            _check(len(payload) >= 8, frames.FRAME_SIZE_ERROR, "GOAWAY cut off")
            self.count_empty()
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        else:
            self.count_empty()  # extensions are ignored

    def count_empty(self) -> None:
        """A frame that does nothing."""
        if not self._empty.spend(self._connection.engine.now()):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many frames that do nothing")

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        _check(len(payload) == 4, frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4")
        increment = int.from_bytes(payload, "big") & STREAM_ID_LIMIT
        if stream_id:
            self._connection.stream_widened(stream_id, increment)
            return
        _check(increment > 0, frames.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        self._connection.outflow.widened(increment)

    def _ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        _check(not stream_id, frames.PROTOCOL_ERROR, "PING of a stream")
        _check(len(payload) == 8, frames.FRAME_SIZE_ERROR, "PING of another size than 8")
        connection = self._connection
        if flags & ACK:
            if payload == _DRAIN_PING and self.draining:
                self.drained()
            return
        # Clients measure bandwidth with a PING for every burst of data: those cost nothing beside the data.
        sent = connection.outflow.sent_bytes
        if sent == self._pinged_at and not self._pings.spend(connection.engine.now()):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too_many_pings")
        self._pinged_at = sent
        connection.outflow.out.append(frames.ping(payload, ack=True))

    def _setting(self, stream_id: int, flags: int, payload: bytes) -> None:
        _check(not stream_id, frames.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & ACK:
            _check(not payload, frames.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        _check(len(payload) % 6 == 0, frames.FRAME_SIZE_ERROR, "SETTINGS cut off")
        connection = self._connection
        if not self._settings.spend(connection.engine.now()):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many SETTINGS")
        for key, value in SETTING.iter_unpack(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                _check(value <= frames.WINDOW_LIMIT, frames.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
                connection.stream_window_changed(value)
            elif key == frames.MAX_FRAME_SIZE:
                fits = frames.FRAME_BYTES <= value <= frames.FRAME_BYTES_LIMIT
                _check(fits, frames.PROTOCOL_ERROR, "a frame size beyond its bounds")
                connection.outflow.frame_bytes = frames.FRAME_BYTES  # larger frames gain us nothing
            elif key == frames.HEADER_TABLE_SIZE:
                self.table_shrunk = value < _HEADER_TABLE_MAX and not self._table_told
            elif key == frames.ENABLE_PUSH:
                _check(value <= 1, frames.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        connection.outflow.out.append(frames.SETTINGS_ACK)
        connection.outflow.proceed()  # a wider window

    def tell_table(self, data: bytes) -> bytes:
        """Whole frames, the first HEADERS among them now with the change of size (to 0, for good) that RFC 7541, 4.2,
        demands after the peer has made its table smaller."""
        at = 0
        while at < len(data):
            word, flags, stream_id = frames.HEAD.unpack_from(data, at)
            body = at + frames.HEAD_BYTES
            if word & 0xFF == frames.HEADERS:
                self.table_shrunk, self._table_told = False, True
                head = frames.HEAD.pack(word + (1 << 8), flags, stream_id)
                return data[:at] + head + _TABLE_OF_NOTHING + data[body:]
            at = body + (word >> 8)
        return data

    def _priority(self, stream_id: int, payload: bytes) -> None:
        _check(stream_id > 0, frames.PROTOCOL_ERROR, "PRIORITY of no stream")
        self.count_empty()
        if len(payload) != 5:
            self._stream_fault(stream_id, frames.FRAME_SIZE_ERROR)
        elif int.from_bytes(payload[:4], "big") & STREAM_ID_LIMIT == stream_id:
            self._stream_fault(stream_id, frames.PROTOCOL_ERROR)

    def _stream_fault(self, stream_id: int, code: int) -> None:
        call = self._connection.streams.get(stream_id)
        if call is not None:
            self._connection.offended(call, code)
        else:
            self._connection.reset(stream_id, code)

    # ---- is the peer there; the end

    def ask_alive(self) -> None:
        self._connection.outflow.out.append(frames.ping(_ALIVE_PING, ack=False))
        self._connection.wake()

    def drain(self) -> None:
        """Take no more calls. Those that are under way when the peer learns of it are still served: the first GOAWAY has
        the highest stream id, and only after a round trip the second has the last one."""
        if not self.draining:
            self.draining = True
            out = self._connection.outflow.out
            out.append(frames.goaway(STREAM_ID_LIMIT, frames.NO_ERROR, "shutting down"))
            out.append(frames.ping(_DRAIN_PING, ack=False))
            self._connection.wake()

    def drained(self) -> None:
        """The round trip is over, or has taken too long."""
        connection = self._connection
        if self.drained_to == STREAM_ID_LIMIT:
            self.drained_to = max(0, connection.last_stream_id)
            connection.outflow.out.append(frames.goaway(self.drained_to, frames.NO_ERROR, "shutting down"))
            connection.wake()

    @property
    def over(self) -> bool:
        """Drained, and no call is left."""
        return self.drained_to != STREAM_ID_LIMIT and not self._connection.streams


def _check(holds: bool, code: int, reason: str) -> None:
    if not holds:
        raise ConnectionFault(code, reason)
