"""The frames of HTTP/2 (RFC 9113): numbers, layouts, and the few that we write.

    length (24) | type (8) | flags (8) | reserved (1) stream (31) | payload

Length and type are read together as one 32-bit number: ``length << 8 | type``.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEAD: Final = Struct(">IBI")
HEAD_BYTES: Final = 9
assert HEAD.size == HEAD_BYTES

# types; plain numbers because the frame loop compares them for every frame
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# flags
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

# error codes
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

# settings
HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

FRAME_BYTES: Final = 16_384  # of a payload; the default, and what we leave it at
FRAME_BYTES_LIMIT: Final = (1 << 24) - 1
WINDOW_DEFAULT: Final = 65_535
WINDOW_LIMIT: Final = (1 << 31) - 1
STREAM_ID_LIMIT: Final = (1 << 31) - 1

SETTING: Final = Struct(">HI")
assert SETTING.size == 6
_WORD: Final = Struct(">IBII")
_TWO_WORDS: Final = Struct(">IBIII")


class ConnectionFault(Exception):
    """The peer broke the protocol, or a bound, so that the connection must end with this error code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(SETTING.pack(key, value) for key, value in values.items())
    return HEAD.pack(len(payload) << 8 | SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = HEAD.pack(SETTINGS, ACK, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    return HEAD.pack(8 << 8 | PING, ACK if ack else 0, 0) + payload


def rst_stream(stream_id: int, code: int) -> bytes:
    return _WORD.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def window_update(stream_id: int, increment: int) -> bytes:
    return _WORD.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def goaway(last_stream_id: int, code: int, reason: str) -> bytes:
    text = reason.encode("ascii", "replace")
    return _TWO_WORDS.pack(8 + len(text) << 8 | GOAWAY, 0, 0, last_stream_id, code) + text
