"""Properties at the head of a record: a run of ``u8 field, u16 size, bytes``, little-endian.

A record without any is its body alone and costs nothing. Fields cover every system property of apache.rocketmq.v2, so
that a gateway can store what an official client sent. Unknown fields are kept out of the way of readers: they skip them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from struct import Struct, error

from kourou.core.errors import FrameInvalid

_HEAD = Struct("<BH")
_U16 = Struct("<H")


class Field(IntEnum):
    TAG = 1  # UTF-8
    KEY = 2  # UTF-8, repeated
    PROPERTY = 3  # u16 size of the name, name, value; UTF-8, repeated
    MESSAGE_GROUP = 4  # UTF-8
    MESSAGE_ID = 5  # UTF-8: an id that the client chose
    BORN_HOST = 6  # UTF-8
    BODY_ENCODING = 7  # u8: Encoding of apache.rocketmq.v2
    BODY_DIGEST = 8  # u8 DigestType, then the checksum in UTF-8
    MESSAGE_TYPE = 9  # u8: MessageType of apache.rocketmq.v2
    DELIVERY_MS = 10  # i64: ms since 1970 UTC
    TRACE_CONTEXT = 11  # UTF-8, W3C
    RECOVERY_MS = 12  # i64: orphaned transaction recovery duration
    DEAD_LETTER = 13  # u16 size of the topic, topic, message id
    LITE_TOPIC = 14  # UTF-8
    PRIORITY = 15  # i32
    DELIVERY_ATTEMPT = 16  # i32
    SOURCE = 17  # what a copy made by the broker takes the place of (see ``core.sources``); never sent by a client


def encode_field(field: int, value: bytes) -> bytes:
    return _HEAD.pack(field, len(value)) + value


def encode_text(field: int, values: Iterable[str]) -> bytes:
    return b"".join(encode_field(field, value.encode()) for value in values)


def encode_property(name: str, value: str) -> bytes:
    raw_name = name.encode()
    return encode_field(Field.PROPERTY, _U16.pack(len(raw_name)) + raw_name + value.encode())


def decode_property(value: bytes) -> tuple[str, str]:
    (size,) = _U16.unpack_from(value)
    return value[2 : 2 + size].decode(), value[2 + size :].decode()


def readable_fields(block: bytes) -> Iterator[tuple[int, bytes]]:
    """The same as far as the block parses. Blocks of native producers are not looked into when they are stored, and one
    that is malformed must not hold up those behind it."""
    try:
        yield from iterate_fields(block)
    except FrameInvalid:
        return


def readable_text(value: bytes) -> str:
    return value.decode(errors="replace")


def readable_property(value: bytes) -> tuple[str, str]:
    size = int.from_bytes(value[:2], "little")
    return value[2 : 2 + size].decode(errors="replace"), value[2 + size :].decode(errors="replace")


def iterate_fields(block: bytes) -> Iterator[tuple[int, bytes]]:
    """(field, value) of a property block. Raises FrameInvalid when a size runs over its end."""
    at, end = 0, len(block)
    while at < end:
        try:
            field, size = _HEAD.unpack_from(block, at)
        except error:
            raise FrameInvalid(f"property block is cut off at byte {at} of {end}") from None
        at += 3
        if at + size > end:
            raise FrameInvalid(f"property field {field} says {size} bytes; {end - at} are left")
        yield field, block[at : at + size]
        at += size
