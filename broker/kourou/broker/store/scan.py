"""Reading a segment from end to end: every frame checked, the first invalid place found, the next valid frame after it.

One pass in chunks of 4 MiB; a frame that a chunk cuts is read again with the next one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from kourou.core.errors import BadChecksum, FrameInvalid, NewerFormat, UnsupportedVersion
from kourou.core.frame import (
    PREFIX_MAGIC,
    PREFIX_SIZE,
    Prefix,
    SealedHeader,
    check_frame,
)
from kourou.core.limits import FRAME_BYTES_MAX

CHUNK = 4 * 1024 * 1024
_MAGIC = PREFIX_MAGIC.to_bytes(4, "little")
_SIZE_MAX = PREFIX_SIZE + FRAME_BYTES_MAX


class Readable(Protocol):
    """As much of a file as a scan needs."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes: ...


@dataclass(slots=True)
class ScannedFrame:
    prefix: Prefix
    header: SealedHeader
    sealed: memoryview
    crc: int


@dataclass(slots=True)
class Invalid:
    """From here on the segment does not read as frames."""

    log_offset: int
    reason: str


def scan(file: Readable, base: int, start: int) -> Iterator[ScannedFrame | Invalid]:
    """The frames of a segment from log offset ``start`` on, both checksums verified; at most one Invalid, last.

    Raises NewerFormat at a frame that is whole but of a version this program does not know.
    """
    at = data_at = start - base
    data = b""
    end = file.size
    while at < end:
        place = at - data_at
        room = len(data) - place
        wanted = PREFIX_SIZE
        if room >= PREFIX_SIZE:
            size = int.from_bytes(data[place + 4 : place + 8], "little")
            if data[place : place + 4] == _MAGIC and size <= _SIZE_MAX:
                wanted = size
        if room < wanted:
            if data_at + len(data) >= end:
                yield Invalid(base + at, f"frame is cut off: {room} bytes of {wanted}")
                return
            data, data_at = file.read(at, max(CHUNK, wanted)), at
            if len(data) < min(wanted, end - at):
                yield Invalid(base + at, f"frame can't be read: {len(data)} bytes of {wanted}")
                return
            continue
        try:
            prefix, header = check_frame(data, place)
        except UnsupportedVersion as failure:
            if is_whole(data, place):
                raise NewerFormat(f"frame at log offset {base + at}: {failure}") from None
            yield Invalid(base + at, str(failure))
            return
        except (FrameInvalid, BadChecksum) as failure:
            yield Invalid(base + at, str(failure))
            return
        if prefix.log_offset != base + at:
            yield Invalid(base + at, f"frame says log offset {prefix.log_offset}, it lies at {base + at}")
            return
        sealed = memoryview(data)[place + PREFIX_SIZE : place + prefix.size]
        yield ScannedFrame(prefix, header, sealed, int.from_bytes(sealed[-4:], "little"))
        at += prefix.size


def is_whole(data: bytes, at: int) -> bool:
    """Do both checksums match, whatever the versions are? Tells a newer format from damage to the version."""
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    if not PREFIX_SIZE + 4 <= size <= len(data) - at:
        return False
    view = memoryview(data)[at : at + size]
    sealed_crc = int.from_bytes(view[-4:], "little")
    if zlib.crc32(view[: PREFIX_SIZE - 4], sealed_crc) != int.from_bytes(view[PREFIX_SIZE - 4 : PREFIX_SIZE], "little"):
        return False
    return zlib.crc32(view[PREFIX_SIZE:-4]) == sealed_crc


def find_next(file: Readable, base: int, after: int) -> int | None:
    """The log offset of the next valid frame at or behind ``after``; None when there is none in the segment."""
    at = after - base
    while at < file.size:
        data = file.read(at, CHUNK + PREFIX_SIZE)
        place = data.find(_MAGIC)
        while 0 <= place < CHUNK:
            stated = int.from_bytes(data[place + 8 : place + 16], "little")
            if stated == base + at + place and _valid(file, base, stated):
                return stated
            place = data.find(_MAGIC, place + 1)
        at += CHUNK
    return None


def _valid(file: Readable, base: int, offset: int) -> bool:
    size = int.from_bytes(file.read(offset - base + 4, 4), "little")
    if size > _SIZE_MAX:
        return False
    try:
        check_frame(file.read(offset - base, size))
    except (FrameInvalid, BadChecksum, UnsupportedVersion):
        return False
    return True
