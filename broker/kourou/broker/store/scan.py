"""Reading a segment from end to end: every frame checked, the first invalid place found, the next valid frame after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kourou.broker.store.files import File
from kourou.core.errors import BadChecksum, FrameInvalid, UnsupportedVersion
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


def scan(file: File, base: int, start: int) -> Iterator[ScannedFrame | Invalid]:
    """The frames of a segment from log offset ``start`` on, both checksums verified; at most one Invalid, last."""
    at = start - base
    data = b""
    data_at = at
    while at < file.size:
        room = data_at + len(data) - at
        try:
            if room < PREFIX_SIZE:
                raise _Short(PREFIX_SIZE)
            size = int.from_bytes(data[at - data_at + 4 : at - data_at + 8], "little")
            plausible = data[at - data_at : at - data_at + 4] == _MAGIC and size <= PREFIX_SIZE + FRAME_BYTES_MAX
            if plausible and size > room:
                raise _Short(size)
            prefix, header = check_frame(data, at - data_at)
            if prefix.log_offset != base + at:
                raise FrameInvalid(f"frame says log offset {prefix.log_offset}, it lies at {base + at}")
        except _Short as short:
            if data_at + len(data) >= file.size:
                yield Invalid(base + at, f"frame is cut off: {room} bytes of {short.wanted}")
                return
            data = file.read(at, max(CHUNK, short.wanted))
            data_at = at
            continue
        except (FrameInvalid, BadChecksum) as failure:
            yield Invalid(base + at, str(failure))
            return
        except UnsupportedVersion:
            raise
        place = at - data_at
        sealed = memoryview(data)[place + PREFIX_SIZE : place + prefix.size]
        yield ScannedFrame(prefix, header, sealed, int.from_bytes(sealed[-4:], "little"))
        at += prefix.size


class _Short(Exception):
    def __init__(self, wanted: int) -> None:
        self.wanted = wanted


def find_next(file: File, base: int, after: int) -> int | None:
    """The log offset of the next valid frame at or behind ``after``; None when there is none in the segment."""
    at = after - base
    overlap = PREFIX_SIZE
    while at < file.size:
        data = file.read(at, CHUNK + overlap)
        place = data.find(_MAGIC)
        while 0 <= place < max(CHUNK, len(data) - overlap):
            if place + PREFIX_SIZE <= len(data):
                stated = int.from_bytes(data[place + 8 : place + 16], "little")
                if stated == base + at + place and _valid(file, base, stated):
                    return stated
            place = data.find(_MAGIC, place + 1)
        at += CHUNK
    return None


def _valid(file: File, base: int, offset: int) -> bool:
    head = file.read(offset - base, PREFIX_SIZE)
    size = int.from_bytes(head[4:8], "little")
    if size > PREFIX_SIZE + FRAME_BYTES_MAX:
        return False
    try:
        check_frame(file.read(offset - base, size))
    except (FrameInvalid, BadChecksum):
        return False
    return True
