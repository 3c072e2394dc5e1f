"""What leaves for a call, as bytes: response headers, messages, trailers, and whole answers that need no handler."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final
from urllib.parse import quote

from kourou.http2.call import StatusCode
from kourou.http2.compress import ACCEPT_ENCODINGS
from kourou.http2.frames import DATA, END_HEADERS, END_STREAM, HEAD, HEADERS
from kourou.http2.hpack import Header, encode

_TEXT_BYTES_MAX: Final = 1024  # of grpc-message

_SAFE: Final = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"  # printable ASCII but for the per cent sign

_START: Final[list[Header]] = [(":status", "200"), ("content-type", "application/grpc")]
_START_BLOCK: Final = encode(_START)
_OK_BLOCK: Final = encode([("grpc-status", "0")])
_START_WORD: Final = len(_START_BLOCK) << 8 | HEADERS
_OK_WORD: Final = len(_OK_BLOCK) << 8 | HEADERS

PREFIX_BYTES: Final = 5
_PREFIX: Final = Struct(">BI")  # compressed or not, length
_HEADERS: Final = Struct(f">IBI{len(_START_BLOCK)}s")
_OK: Final = Struct(f">IBI{len(_OK_BLOCK)}s")
_DATA: Final = Struct(">IBIBI")
_HEADERS_AND_DATA: Final = Struct(f">IBI{len(_START_BLOCK)}sIBIBI")
assert _PREFIX.size == PREFIX_BYTES


def prefix(size: int) -> bytes:
    return _PREFIX.pack(0, size)


def start(stream_id: int) -> bytes:
    """The response headers."""
    return _HEADERS.pack(_START_WORD, END_HEADERS, stream_id, _START_BLOCK)


def data_head(stream_id: int, size: int) -> bytes:
    """What comes before a message of ``size`` bytes that goes in one frame."""
    return _DATA.pack(size + PREFIX_BYTES << 8 | DATA, 0, stream_id, 0, size)


def start_and_data_head(stream_id: int, size: int) -> bytes:
    """``start`` and ``data_head`` in one."""
    return _HEADERS_AND_DATA.pack(
        _START_WORD, END_HEADERS, stream_id, _START_BLOCK, size + PREFIX_BYTES << 8 | DATA, 0, stream_id, 0, size
    )


def ok(stream_id: int) -> bytes:
    """The trailers of a call that went well."""
    return _OK.pack(_OK_WORD, END_HEADERS | END_STREAM, stream_id, _OK_BLOCK)


def failed(stream_id: int, code: int, text: str, *, started: bool) -> bytes:
    """The trailers of a call that did not; with the response headers in them unless those have left."""
    headers = [] if started else list(_START)
    headers.append(("grpc-status", str(int(code))))
    if text:
        headers.append(("grpc-message", quote(text[:_TEXT_BYTES_MAX], safe=_SAFE, errors="replace")))
    return _closing(stream_id, encode(headers))


def _closing(stream_id: int, block: bytes) -> bytes:
    return HEAD.pack(len(block) << 8 | HEADERS, END_HEADERS | END_STREAM, stream_id) + block


@dataclass(frozen=True, slots=True)
class Refusal:
    """A whole answer. ``body`` is HTTP's, for clients that don't speak gRPC."""

    block: bytes
    body: bytes = b""
    at_once: bool = True  # before the request has ended

    def head(self, stream_id: int) -> bytes:
        if not self.body:
            return _closing(stream_id, self.block)
        return HEAD.pack(len(self.block) << 8 | HEADERS, END_HEADERS, stream_id) + self.block


def status_refusal(code: StatusCode, text: str, *, accept_encodings: bool = False) -> Refusal:
    headers = [*_START, ("grpc-status", str(int(code))), ("grpc-message", text)]
    if accept_encodings:
        headers.append(("grpc-accept-encoding", ACCEPT_ENCODINGS))
    return Refusal(encode(headers))


def _http_refusal(status: str, text: bytes) -> Refusal:
    headers = [(":status", status), ("content-type", "text/plain"), ("content-length", str(len(text)))]
    return Refusal(encode(headers), text, at_once=False)


UNKNOWN_METHOD: Final = status_refusal(StatusCode.UNIMPLEMENTED, "no such method is served here")
UNKNOWN_ENCODING: Final = status_refusal(
    StatusCode.UNIMPLEMENTED, "the message encoding is not known here", accept_encodings=True
)
BAD_TIMEOUT: Final = status_refusal(StatusCode.INTERNAL, "grpc-timeout can't be read")
HEADERS_TOO_LARGE: Final = status_refusal(StatusCode.RESOURCE_EXHAUSTED, "the headers are too large")
NOT_GRPC: Final = _http_refusal("415", b"This port serves gRPC: content-type has to be application/grpc.\n")
NOT_POST: Final = _http_refusal("405", b"This port serves gRPC: the method has to be POST.\n")
HTTP_1: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 40\r\nconnection: close\r\n\r\n"
    b"This port serves gRPC, that is HTTP/2.\r\n"
)
assert HTTP_1.endswith(b"\r\n\r\n" + HTTP_1[-40:])
