"""Layout of a bucket of timers, ``timers/<10 digits>.tmb``: messages that wait, in order of their times; never changed.

Head (96 bytes)
     0  8 bytes  magic "KOUROUTB"               48  i64  last due time
     8  u32      format version (1)             56  u64  entries at
    12  u32      entries in a block             64  u64  records at
    16  u64      number of the bucket           72  12 bytes  zero
    24  u64      entries                        84  u32  crc32 of the fences
    32  u64      size of the file               88  u32  zero
    40  i64      first due time                 92  u32  crc32 of bytes 0..91

Fences, one a block of 1,024 entries (the last may be shorter)
     0  i64  due time of its first entry         8  u32  crc32 of the block      12  u32  zero

Entry (72 bytes), in order of (due time, log offset, record)
     0  i64  due time, ms since 1970 UTC        48  u32  number of the record in its frame
     8  u64  log offset of the frame            52  u32  incarnation of the topic
    16  u64  producer id                        56  u32  queue
    24  u64  sequence                           60  u32  size of the record
    32  i64  born time of the record            64  u32  size of the properties at its head
    40  u64  where the record lies in the file  68  u32  crc32 of the record

Records lie in the order of their entries, without gaps, as in their frames: properties, then body. Little-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kourou.core.errors import DamagedLog, NewerFormat
from kourou.core.frame import Buffer

FOLDER: Final = "timers"
SUFFIX: Final = ".tmb"
BLOCK: Final = 1024
VERSION: Final = 1
MAGIC: Final = b"KOUROUTB"

_HEAD = Struct("<8sIIQQQqqQQ12sIII")
HEAD_SIZE: Final = 96
assert _HEAD.size == HEAD_SIZE

ENTRY: Final = Struct("<qQQQqQIIIIII")
ENTRY_SIZE: Final = 72
ENTRY_DTYPE: Final = np.dtype(
    [
        ("due", "<i8"), ("log_offset", "<u8"), ("producer", "<u8"), ("sequence", "<u8"), ("born", "<i8"), ("place", "<u8"),
        ("record", "<u4"), ("incarnation", "<u4"), ("queue", "<u4"), ("size", "<u4"), ("properties", "<u4"), ("crc", "<u4"),
    ]
)  # fmt: skip
assert ENTRY.size == ENTRY_DTYPE.itemsize == ENTRY_SIZE

FENCE_DTYPE: Final = np.dtype([("due", "<i8"), ("crc", "<u4"), ("zero", "<u4")])
FENCE_SIZE: Final = 16
assert FENCE_DTYPE.itemsize == FENCE_SIZE

Entries = NDArray[Any]  # of ENTRY_DTYPE


class Entry(NamedTuple):
    """One waiting message, as its bucket has it."""

    due_ms: int
    log_offset: int
    producer_id: int
    sequence: int
    born_ms: int
    place: int
    record: int
    incarnation: int
    queue: int
    size: int
    properties_size: int
    crc: int


@dataclass(slots=True)
class Head:
    number: int
    count: int
    size: int
    first_due_ms: int
    last_due_ms: int
    entries_at: int
    records_at: int
    fences_crc: int

    @property
    def blocks(self) -> int:
        return -(-self.count // BLOCK)


def bucket_name(number: int) -> str:
    return f"{FOLDER}/{number:010d}{SUFFIX}"


def place_records(number: int, count: int, blocks: Iterable[Entries]) -> tuple[list[bytes], int]:
    """(everything before the records, in pieces; crc of the head). ``blocks`` are the entries in order, 1,024 at a time;
    where their records lie is filled in here."""
    fences = np.zeros(-(-count // BLOCK), FENCE_DTYPE)
    entries_at = HEAD_SIZE + len(fences) * FENCE_SIZE
    at = records_at = entries_at + count * ENTRY_SIZE
    first_due_ms = last_due_ms = 0
    pieces: list[bytes] = []
    for block in blocks:
        ends = np.cumsum(block["size"], dtype=np.uint64) + np.uint64(at)
        block["place"] = ends - block["size"]
        at = int(ends[-1])
        data = block.tobytes()
        fences[len(pieces)] = block["due"][0], zlib.crc32(data), 0
        if not pieces:
            first_due_ms = int(block["due"][0])
        last_due_ms = int(block["due"][-1])
        pieces.append(data)
    fence_bytes = fences.tobytes()
    head = _HEAD.pack(
        MAGIC, VERSION, BLOCK, number, count, at, first_due_ms, last_due_ms, entries_at, records_at, bytes(12),
        zlib.crc32(fence_bytes), 0, 0,
    )[:-4]  # fmt: skip
    crc = zlib.crc32(head)
    return [head + crc.to_bytes(4, "little") + fence_bytes, *pieces], crc


def parse_head(data: Buffer, name: str) -> tuple[Head, int]:
    """(head, its checksum). Raises DamagedLog or NewerFormat."""
    if len(data) < HEAD_SIZE or bytes(data[:8]) != MAGIC:
        raise DamagedLog(f"{name} is not a bucket of timers")
    (
        _, version, block, number, count, size, first_due_ms, last_due_ms, entries_at, records_at, _, fences_crc, _, crc,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    if zlib.crc32(data[: HEAD_SIZE - 4]) != crc:
        raise DamagedLog(f"checksum of the head of {name} does not match")
    if version > VERSION:
        raise NewerFormat(f"{name} has format version {version}; this program knows up to {VERSION}")
    head = Head(number, count, size, first_due_ms, last_due_ms, entries_at, records_at, fences_crc)
    if block != BLOCK or entries_at != HEAD_SIZE + head.blocks * FENCE_SIZE:
        raise DamagedLog(f"head of {name} does not add up")
    return head, crc
