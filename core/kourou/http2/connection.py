"""One HTTP/2 connection without I/O: bytes in, calls begun; calls answered, bytes out.

The shell gives ``receive`` what came and writes what ``take`` gives; ``wake`` tells it that something is there (it may be
called at any time, also from within ``receive``). ``closing`` says that the connection is to be closed once that is
written.

What nearly all calls look like — HEADERS in one frame, then DATA with one whole message, which ends the request — is
recognised from the two frame heads and dispatched without a record of the stream. Everything else takes the functions
below it, one per frame type.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from kourou.http2 import control, frames
from kourou.http2.blocks import Blocks, OpenBlock, check_length, fragment, unpadded
from kourou.http2.call import Kind
from kourou.http2.calls import RefusedCall, ServerCall
from kourou.http2.engine import Engine
from kourou.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEAD,
    HEADERS,
    PADDED,
    ConnectionFault,
)
from kourou.http2.inflow import Incoming, Inflow
from kourou.http2.outflow import Outflow
from kourou.http2.rates import Allowance
from kourou.http2.request import Request
from kourou.http2.streams import StreamedCall
from kourou.http2.unary import UnaryCall

_DATA_HEAD: Final = Struct(">IBIBI")  # a DATA frame's head and the prefix of the message in it
_DATA_HEAD_BYTES: Final = 14
assert _DATA_HEAD.size == _DATA_HEAD_BYTES
_RESETS_MAX: Final = 512  # streams that we reset, remembered for the frames still under way


class Connection:
    def __init__(self, engine: Engine, *, peer: str, local: str, secure: bool, wake: Callable[[], None]) -> None:
        limits = engine.limits
        self.engine = engine
        self.peer = peer
        self.local = local
        self.secure = secure
        self.wake = wake
        self.outflow = Outflow(turn_bytes=limits.turn_bytes)
        self.inflow = Inflow(limits, engine.unanswered, self.outflow.out)
        self.streams: dict[int, ServerCall] = {}  # open calls but for those that are answered at once
        self.last_stream_id = -1  # so that the first is two further on, like all others
        self.closing = False
        self.fault = ""  # why it was ended, where the peer is to blame
        self.heard = False  # since the shell last looked
        self.halted = False  # that was enough for one turn; ``receive(b"")`` in the next goes on
        self.control = control.Control(self)
        self._blocks = Blocks(engine)
        self._rest = b""  # the beginning of a frame
        self._block: OpenBlock | None = None  # a header block that goes on
        self._skipped: set[int] = set()  # stream ids below the last that were never used
        self._gone: dict[int, None] = {}  # streams that we reset
        self._resets = Allowance(limits.resets_rate, engine.now())

    # ---- bytes in

    def receive(self, data: bytes) -> None:
        self.heard = True
        if self.closing:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        self.halted = False
        try:
            at = self._frames(data, 0) if self.control.greeted else self.control.greet(data)
            if at < len(data):
                self._rest = data[at:]
            else:
                self.halted = False
        except ConnectionFault as fault:
            self.fail(fault)

    # ---- bytes out

    def take(self) -> bytes:
        """What there is to be written, and a new turn."""
        outflow = self.outflow
        data = b"".join(outflow.out)
        outflow.out.clear()
        outflow.next_turn()
        if self.control.table_shrunk:
            data = self.control.tell_table(data)
        return data

    # ---- frames

    def _frames(self, data: bytes, at: int) -> int:
        """Take whole frames; where the first that is not whole begins."""
        end = len(data)
        last = end - frames.HEAD_BYTES
        limits_streams = self.engine.limits.streams_max
        message_max = self.engine.limits.message_bytes_max
        memo = self._blocks.memo
        calls_left = self.engine.limits.turn_calls
        while at <= last:
            word, flags, stream_id = HEAD.unpack_from(data, at)
            kind = word & 0xFF
            body = at + 9
            after = body + (word >> 8)
            if after > end:
                if word >> 8 > FRAME_BYTES:
                    raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a frame larger than allowed")
                return at
            if self._block is not None and kind != CONTINUATION:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block was not continued")
            if kind == HEADERS:
                if flags == END_HEADERS and stream_id & 1 and stream_id == self.last_stream_id + 2 and end - after >= 14:
                    word2, flags2, stream_id2, compressed, size = _DATA_HEAD.unpack_from(data, after)
                    whole = after + 14 + size
                    if (
                        word2 == size + 5 << 8  # DATA, with all of the message and nothing else
                        and flags2 == END_STREAM
                        and stream_id2 == stream_id
                        and not compressed
                        and whole <= end
                        and size < FRAME_BYTES - 4
                        and size <= message_max
                        and len(self.streams) < limits_streams
                    ):
                        block = data[body:after]
                        found = memo.get(block) or self._blocks.read(block)
                        if found.simple and not self.control.draining:
                            self.last_stream_id = stream_id
                            self.inflow.received(size + 5)
                            self.engine.calls_started += 1
                            UnaryCall(self, stream_id, found, True).run(data[after + 14 : whole])
                        elif found.refusal is not None and found.content_length is None:
                            self.inflow.received(size + 5)
                            self._open(stream_id, found, ended=True)
                        else:
                            self._open(stream_id, found, ended=False)
                            self._data(stream_id, END_STREAM, data[after + 9 : whole])
                        at = whole
                        calls_left -= 1
                        if not calls_left:
                            self.halted = True
                            return at
                        continue
                self._headers(stream_id, flags, data[body:after])
            elif kind == DATA:
                self._data(stream_id, flags, data[body:after])
            elif kind == CONTINUATION:
                self._continuation(stream_id, flags, data[body:after])
            else:
                self.control.frame(kind, flags, stream_id, data[body:after])
            at = after
        return at

    # ---- headers

    def _headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        stream_id &= 0x7FFF_FFFF
        check_length(len(payload))
        payload = fragment(flags, stream_id, payload)
        if not stream_id & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "HEADERS of a stream that isn't the client's")
        if flags & END_HEADERS:
            self._whole_block(stream_id, payload, ended=bool(flags & END_STREAM))
        else:
            self._block = OpenBlock(stream_id, bool(flags & END_STREAM), payload)

    def _continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None or stream_id & 0x7FFF_FFFF != block.stream_id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "CONTINUATION of nothing")
        check_length(len(payload))
        limits = self.engine.limits
        block.add(payload, frames_max=limits.continuations_max, bytes_max=4 * limits.header_list_bytes_max)
        if flags & END_HEADERS:
            self._block = None
            self._whole_block(block.stream_id, bytes(block.data), ended=block.ended)

    def _whole_block(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        if stream_id > self.last_stream_id:
            self._open(stream_id, self._blocks.read(block), ended=ended)
            return
        call = self.streams.get(stream_id)
        well_formed = self._blocks.read_trailers(block)
        if call is None:
            if stream_id in self._gone:
                return
            if stream_id in self._skipped:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a stream id below one already used")
            raise ConnectionFault(frames.STREAM_CLOSED, "HEADERS of a stream that has ended")
        if call.ended:
            self.offended(call, frames.STREAM_CLOSED)
        elif not ended or not well_formed or (call.incoming and call.incoming.content_left):
            self.offended(call, frames.PROTOCOL_ERROR)
        else:
            call.trailers()

    def _open(self, stream_id: int, found: Request, *, ended: bool) -> None:
        """A new stream."""
        if stream_id > self.last_stream_id + 2:
            self._skip(stream_id)
        self.last_stream_id = stream_id
        engine = self.engine
        if found.malformed or (ended and found.content_length):
            self.reset(stream_id, frames.PROTOCOL_ERROR)
            return
        if len(self.streams) >= engine.limits.streams_max or stream_id > self.control.drained_to:
            self.reset(stream_id, frames.REFUSED_STREAM)
            return
        engine.calls_started += 1
        refusal = found.refusal
        call: ServerCall
        if refusal is not None:
            call = RefusedCall(self, stream_id, found, ended)
            call.deadline_s = None
        elif found.method is not None and found.method.kind is Kind.UNARY:
            call = UnaryCall(self, stream_id, found, ended)
        else:
            call = StreamedCall(self, stream_id, found, ended)
        self.enter(call)
        if not ended:
            call.incoming = Incoming(self.inflow, stream_id, engine.limits, found.content_length)
        if refusal is not None and refusal.at_once:
            call.refuse(refusal)
            return
        call.begin()
        if ended:
            call.end()

    def _skip(self, stream_id: int) -> None:
        for skipped in range(self.last_stream_id + 2, min(stream_id, self.last_stream_id + 64), 2):
            self._skipped.add(skipped)
        if len(self._skipped) > 1024:
            self._skipped.clear()

    # ---- data

    def _data(self, stream_id: int, flags: int, payload: bytes) -> None:
        stream_id &= 0x7FFF_FFFF
        size = len(payload)
        check_length(size)
        if size:
            self.inflow.received(size)
        elif not flags & END_STREAM:
            self.control.count_empty()
        if flags & PADDED:
            payload = unpadded(payload)
        call = self.streams.get(stream_id)
        if call is None or call.ended:
            self._late_data(stream_id, call)
            return
        incoming = call.incoming
        assert incoming is not None  # it has not ended
        incoming.window -= size
        if incoming.window < 0:
            self.offended(call, frames.FLOW_CONTROL_ERROR)
            return
        ended = bool(flags & END_STREAM)
        if size != len(payload) and not ended:
            incoming.window += size - len(payload)
            self.outflow.out.append(frames.window_update(stream_id, size - len(payload)))
        if incoming.content_left is not None:
            incoming.content_left -= len(payload)
            if incoming.content_left < 0 or (ended and incoming.content_left):
                self.offended(call, frames.PROTOCOL_ERROR)
                return
        call.received(payload, ended)

    def _late_data(self, stream_id: int, call: ServerCall | None) -> None:
        if stream_id > self.last_stream_id or not stream_id & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "DATA of a stream that was never opened")
        self.control.count_empty()
        if call is not None:
            self.offended(call, frames.STREAM_CLOSED)
        elif stream_id not in self._gone:
            self.reset(stream_id, frames.STREAM_CLOSED)

    # ---- what calls ask for

    def enter(self, call: ServerCall) -> None:
        """The call lasts: keep it, and watch its deadline."""
        self.streams[call.stream_id] = call
        if call.deadline_s is not None and not call.tick:
            self.engine.deadlines.add(call, call.deadline_s)

    def over(self, call: ServerCall) -> None:
        """Our side of the call has ended."""
        self.streams.pop(call.stream_id, None)
        if not call.ended:
            self.reset(call.stream_id, frames.NO_ERROR)
        if self.control.draining and not self.streams:
            self.wake()

    def reset(self, stream_id: int, code: int) -> None:
        """Tell the peer that a stream is no more; what it still sends on it is ignored."""
        self.outflow.out.append(frames.rst_stream(stream_id, code))
        self._gone[stream_id] = None
        if len(self._gone) > _RESETS_MAX:
            del self._gone[next(iter(self._gone))]

    # ---- what control frames do to streams

    def stream_reset(self, stream_id: int) -> None:
        """The client has reset a stream."""
        if stream_id > self.last_stream_id or not stream_id & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "RST_STREAM of a stream that was never opened")
        call = self.streams.get(stream_id)
        if call is not None:
            self._count_reset()
            call.cancel()

    def offended(self, call: ServerCall, code: int) -> None:
        """The client has made us reset a call: as dear to us as if it had itself."""
        self._count_reset()
        call.reset(code)

    def _count_reset(self) -> None:
        if not self._resets.spend(self.engine.now()):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many calls are reset")

    def stream_widened(self, stream_id: int, increment: int) -> None:
        call = self.streams.get(stream_id)
        if call is None:
            if stream_id > self.last_stream_id or not stream_id & 1:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that was never opened")
        elif not increment:
            self.offended(call, frames.PROTOCOL_ERROR)
        elif not call.widen(increment):
            self.offended(call, frames.FLOW_CONTROL_ERROR)

    def stream_window_changed(self, size: int) -> None:
        """The peer's setting: it counts for all streams, also below zero."""
        for call in self.streams.values():
            if call.outgoing is not None and size + call.outgoing.adjust > frames.WINDOW_LIMIT:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        self.outflow.stream_window = size

    # ---- how it ends

    def fail(self, fault: ConnectionFault) -> None:
        self.engine.faults += 1
        self.fault = fault.reason
        self.outflow.out.append(frames.goaway(max(0, self.last_stream_id), fault.code, fault.reason))
        self.closing = True
        self.lost()
        self.wake()

    def lost(self) -> None:
        """Nothing can be sent any more: every call is cancelled."""
        self.closing = True
        for call in list(self.streams.values()):
            call.cancel()
        self._blocks.memo.clear()
        self._rest = b""
