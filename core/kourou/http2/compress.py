"""Compressed messages: what a client may send them in, and how large they may become."""

from __future__ import annotations

import zlib
from typing import Final

from kourou.http2.call import GrpcError, StatusCode

_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS: Final = ("identity", *_WINDOW_BITS)
ACCEPT_ENCODINGS: Final = ",".join(ENCODINGS)


def decompress(data: bytes, encoding: str, *, bytes_max: int) -> bytes:
    """Raises GrpcError: INTERNAL where it is not what it says, RESOURCE_EXHAUSTED before it grows beyond the bound."""
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise GrpcError(StatusCode.INTERNAL, "a compressed message without an encoding")
    stream = zlib.decompressobj(bits)
    try:
        message = stream.decompress(data, bytes_max + 1)
    except zlib.error:
        raise GrpcError(StatusCode.INTERNAL, f"a message is not {encoding}") from None
    if len(message) > bytes_max:
        raise GrpcError(StatusCode.RESOURCE_EXHAUSTED, too_large(bytes_max))
    if not stream.eof or stream.unused_data:
        raise GrpcError(StatusCode.INTERNAL, f"a message is not whole {encoding}")
    return message


def too_large(bytes_max: int) -> str:
    return f"the message is larger than {bytes_max} bytes"
