"""A connection's header blocks: put together from HEADERS and CONTINUATION, decoded, and remembered.

``memo`` holds what whole blocks were read as. It is emptied whenever the decoder's table moves, since the same bytes may
mean something else from then on; a client whose headers don't change thus pays for them once.
"""

from __future__ import annotations

from typing import Final

from kourou.http2 import frames, request
from kourou.http2.engine import Engine
from kourou.http2.frames import FRAME_BYTES, ConnectionFault
from kourou.http2.hpack import Decoder, Header, HpackError
from kourou.http2.request import Request

_MEMO_MAX: Final = 64
_MEMO_BYTES_MAX: Final = 1024  # of a block that is remembered


class Blocks:
    def __init__(self, engine: Engine) -> None:
        self.memo: dict[bytes, Request] = {}
        self._engine = engine
        self._decoder = Decoder()

    def read(self, block: bytes) -> Request:
        """The request that a block is."""
        found = self.memo.get(block)
        if found is None:
            changes = self._decoder.changes
            headers = self._decode(block)
            bytes_max = self._engine.limits.header_list_bytes_max
            found = request.read(headers, self._engine.service, header_list_bytes_max=bytes_max)
            if self._decoder.changes != changes:
                self.memo.clear()
            elif len(block) <= _MEMO_BYTES_MAX:
                if len(self.memo) >= _MEMO_MAX:
                    self.memo.clear()
                self.memo[block] = found
        return found

    def read_trailers(self, block: bytes) -> bool:
        """Whether they are what may end a request; decoded in any case, for the table's sake."""
        self.memo.clear()
        return not request.malformed_trailers(self._decode(block))

    def _decode(self, block: bytes) -> list[Header]:
        try:
            return self._decoder.decode(block)
        except HpackError as fault:
            raise ConnectionFault(frames.COMPRESSION_ERROR, str(fault)) from None


class OpenBlock:
    """A header block of which more is to come."""

    __slots__ = ("_frames", "data", "ended", "stream_id")

    def __init__(self, stream_id: int, ended: bool, data: bytes) -> None:
        self.stream_id = stream_id
        self.ended = ended
        self.data = bytearray(data)
        self._frames = 0

    def add(self, data: bytes, *, frames_max: int, bytes_max: int) -> None:
        self._frames += 1
        self.data += data
        if self._frames > frames_max or len(self.data) > bytes_max:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "a header block without end")


def fragment(flags: int, stream_id: int, payload: bytes) -> bytes:
    """What HEADERS carries beside padding and priority."""
    if flags & frames.PADDED:
        payload = unpadded(payload)
    if flags & frames.WITH_PRIORITY:
        if len(payload) < 5:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "HEADERS without the priority it announces")
        if int.from_bytes(payload[:4], "big") & frames.STREAM_ID_LIMIT == stream_id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a stream that depends on itself")
        payload = payload[5:]
    return payload


def unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(frames.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def check_length(size: int) -> None:
    if size > FRAME_BYTES:
        raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a frame larger than allowed")
