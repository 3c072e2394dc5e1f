"""A call's headers, read once: what HTTP/2 demands of them, what gRPC makes of them, and what is left for the handler.

A request is made from a header block alone, so a connection can use one again for the same block.
"""

from __future__ import annotations

import re
from typing import Final

from kourou.http2 import reply
from kourou.http2.call import Kind, Method, Service, UnaryHandler
from kourou.http2.compress import ENCODINGS
from kourou.http2.hpack import Header

_HEADER_EXTRA_BYTES: Final = 32  # that RFC 9113 counts for a header beside its texts
_NAMES_MAX: Final = 1024  # names remembered by all connections together

# what a header's name says about it
_PLAIN, _OURS, _PSEUDO, _WANTED, _BINARY, _FORBIDDEN, _INVALID = range(7)

_names: dict[str, int] = {}
_KNOWN: Final = {
    **dict.fromkeys((":method", ":scheme", ":authority", ":path"), _PSEUDO),
    **dict.fromkeys(("content-type", "content-length", "te", "host", "grpc-timeout", "grpc-encoding"), _WANTED),
    **dict.fromkeys(("accept-encoding",), _OURS),
    **dict.fromkeys(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"), _FORBIDDEN),
}
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_UNFIT: Final = re.compile("[\0\r\n]")
_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_FOREVER_S: Final = 365 * 86_400.0  # a deadline beyond it is none


def _learn(name: str) -> int:
    kind = _KNOWN.get(name)
    if kind is None:
        if not _TOKEN.fullmatch(name):
            kind = _INVALID  # upper case and unknown pseudo-headers too
        elif name.startswith("grpc-"):
            kind = _OURS
        else:
            kind = _BINARY if name.endswith("-bin") else _PLAIN
    if len(_names) >= _NAMES_MAX:
        _names.clear()
    if len(name) <= 256:
        _names[name] = kind
    return kind


class Request:
    """One of ``malformed`` (the stream is reset), ``refusal`` (an answer that needs no handler) or ``method`` is set."""

    __slots__ = (
        "authority",
        "content_length",
        "encoding",
        "malformed",
        "metadata",
        "method",
        "path",
        "refusal",
        "simple",
        "timeout_s",
        "unary",
    )

    def __init__(self) -> None:
        self.path = self.authority = ""
        self.metadata: dict[str, str] = {}
        self.timeout_s: float | None = None
        self.encoding = ""  # of compressed messages
        self.content_length: int | None = None
        self.malformed = ""
        self.refusal: reply.Refusal | None = None
        self.method: Method | None = None
        self.unary: UnaryHandler | None = None  # of ``method``, where it is one
        self.simple = False  # unary, and nothing more to check


def read(headers: list[Header], service: Service, *, header_list_bytes_max: int) -> Request:
    request = Request()
    wanted: dict[str, str] = {}
    pseudo: dict[str, str] = {}
    metadata = request.metadata
    size = len(headers) * _HEADER_EXTRA_BYTES
    for name, value in headers:
        size += len(name) + len(value)
        kind = _names.get(name)
        if kind is None:
            kind = _learn(name)
        if kind == _PLAIN:
            if name not in metadata:
                if not value.isprintable() and _UNFIT.search(value):
                    request.malformed = "a header's value has a control character"
                metadata[name] = value
        elif kind == _WANTED:
            wanted[name] = value
        elif kind == _PSEUDO:
            if wanted or metadata or name in pseudo:
                request.malformed = "a pseudo-header twice, or after other headers"
            pseudo[name] = value
        elif kind >= _FORBIDDEN:
            request.malformed = "a header that HTTP/2 doesn't allow"
    if not request.malformed:
        _interpret(request, pseudo, wanted, service)
    if size > header_list_bytes_max and not request.malformed:
        request.refusal = reply.HEADERS_TOO_LARGE
        request.simple = False
        request.metadata = {}
    return request


def malformed_trailers(headers: list[Header]) -> bool:
    """Whether headers that end a request are not what HTTP/2 allows there. gRPC itself has no use for them."""
    for name, _ in headers:
        kind = _names.get(name)
        if kind is None:
            kind = _learn(name)
        if kind in (_PSEUDO, _FORBIDDEN, _INVALID):
            return True
    return False


def _interpret(request: Request, pseudo: dict[str, str], wanted: dict[str, str], service: Service) -> None:
    request.path = pseudo.get(":path", "")
    request.authority = pseudo.get(":authority", "") or wanted.get("host", "")
    verb = pseudo.get(":method")
    if verb is None or ":scheme" not in pseudo or not request.path:
        request.malformed = "a pseudo-header is missing"
        return
    if wanted.get("te", "trailers") != "trailers":
        request.malformed = "te other than trailers"
        return
    length = wanted.get("content-length")
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            request.malformed = "content-length is no number"
            return
        request.content_length = int(length)
    kind = wanted.get("content-type", "")
    if verb != "POST":
        request.refusal = reply.NOT_POST
    elif not (kind == "application/grpc" or kind.startswith(("application/grpc+", "application/grpc;"))):
        request.refusal = reply.NOT_GRPC
    else:
        _interpret_grpc(request, wanted, service)


def _interpret_grpc(request: Request, wanted: dict[str, str], service: Service) -> None:
    method = service.get(request.path)
    encoding = wanted.get("grpc-encoding", "identity")
    timeout = wanted.get("grpc-timeout")
    if timeout is not None:
        match = _TIMEOUT.fullmatch(timeout)
        if match is None:
            request.refusal = reply.BAD_TIMEOUT
            return
        seconds = int(match[1]) * _UNITS_S[match[2]]
        request.timeout_s = seconds if seconds < _FOREVER_S else None
    if method is None:
        request.refusal = reply.UNKNOWN_METHOD
    elif encoding not in ENCODINGS:
        request.refusal = reply.UNKNOWN_ENCODING
    else:
        request.encoding = encoding
        request.method = method
        if method.kind is Kind.UNARY:
            request.unary = method.unary
            request.simple = request.content_length is None
