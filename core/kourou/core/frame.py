"""The log frame: what a producer seals, what a broker puts before it, how both are read. Pure; no numpy.

A frame is a batch of records of one queue, or a batch of metadata records. It has two parts, so that the broker never
re-encodes what the producer made:

    prefix (48 bytes, written by the broker)           sealed part (encoded once, by the producer's client or a gateway)
    where it is: log offset, queue offset, epoch,      what it is: kind, producer and sequence, topic, queue, columns,
    store time                                         records, checksum

All integers are little-endian. docs/formats.md draws the same layout for people.

Prefix
     0  u32  magic "KFR1"                    24  u64  base queue offset (of the first record)
     4  u32  size of the frame, prefix too   32  i64  store time, ms since 1970 UTC
     8  u64  log offset of the frame         40  u16  format version (1)
    16  u32  epoch of the writing master     42  u16  zero
    20  u32  incarnation of the topic        44  u32  crc32 of bytes 0..43, started from the sealed part's checksum
                                                      (so a prefix never matches another frame's records)
Sealed part
     0  u16  magic "SK"                      36  u32  record count
     2  u8   version (1)                     40  u32  size of the records as stored
     3  u8   kind                            44  u32  size of the records before compression
     4  u32  size of the sealed part         48  i64  born time of the first record, ms since 1970 UTC
     8  u32  attributes                      56  u16  size of the topic, UTF-8
    12  u32  columns present                 58  u16  zero
    16  u64  producer id, 0 for none         60  u32  entries in the key column
    24  u64  sequence of the producer        64  topic, zero-padded to 4; columns; records; crc32 of all before it
    32  u32  queue id

Columns follow one another in the order of their bits. Without LENGTHS every record has the same length. Records lie one
after the other without gaps; where SIZES_OF_PROPERTIES is present each record starts with that many bytes of properties
(see ``records``), the rest is the body. Columns are never compressed, records may be.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from struct import Struct
from typing import Final

from kourou.core.errors import BadChecksum, FrameInvalid, UnsupportedVersion
from kourou.core.limits import FRAME_BYTES_MAX, RECORDS_PER_FRAME_MAX

Buffer = bytes | bytearray | memoryview

PREFIX: Final = Struct("<IIQIIQqHHI")
PREFIX_SIZE: Final = 48
PREFIX_MAGIC: Final = int.from_bytes(b"KFR1", "little")
PREFIX_VERSION: Final = 1
assert PREFIX.size == PREFIX_SIZE

SEALED: Final = Struct("<HBBIIIQQIIIIqHHI")
SEALED_SIZE: Final = 64
SEALED_MAGIC: Final = int.from_bytes(b"SK", "little")
SEALED_VERSION: Final = 1
assert SEALED.size == SEALED_SIZE

_CRC = Struct("<I")
assert array("I").itemsize == 4
assert array("Q").itemsize == 8


class Kind(IntEnum):
    MESSAGES = 1
    METADATA = 2  # one JSON object a record: topics, groups, offsets (docs/formats.md lists them)
    EPOCH = 3  # the first frame of every epoch, written by the broker


class Compression(IntEnum):
    """How the records of a frame are stored. ``core.compression`` has the codecs."""

    NONE = 0
    ZLIB = 1
    LZ4 = 2
    ZSTD = 3


COMPRESSION_MASK: Final = 0xF
CHECKSUM_MASK: Final = 0xF0  # 0: zlib.crc32; the rest is left for other algorithms
HALF: Final = 0x100  # half messages of transactions: nobody sees them until they are committed
MOVED: Final = 0x200  # copies made by the broker; each record's SOURCE property names what it takes the place of
ATTRIBUTES_KNOWN: Final = COMPRESSION_MASK | HALF | MOVED

# Frames that wait (for a time, for a decision) lie beside the queue they are meant for: in a room of their own.
QUEUE_ID_MAX: Final = 0x3FFFFFFF
TIMER_ROOM: Final = 0x80000000
HALF_ROOM: Final = 0x40000000


class Column(IntEnum):
    LENGTHS = 1  # u32[count]: bytes of each record
    TAG_HASHES = 2  # u32[count]: crc32 of the tag, 0 for none (a hash of 0 is stored as 1)
    BORN_DELTAS = 4  # u32[count]: ms after the frame's born time
    PROPERTY_SIZES = 8  # u32[count]: bytes of properties at the head of each record
    KEYS = 16  # u32[keys] hashes, then u32[keys] record numbers
    GROUP_HASHES = 32  # u32[count]: crc32 of the message group, 0 for none
    DUE_TIMES = 64  # i64[count]: ms since 1970 UTC
    PRIORITIES = 128  # i32[count]


COLUMNS_KNOWN: Final = 255


def queue_key(incarnation: int, header: SealedHeader) -> int:
    """Which queue of the log a frame belongs to: its topic's queue, or the waiting room beside it."""
    queue = header.queue_id
    if header.columns & 64 and not header.attributes & MOVED:  # Column.DUE_TIMES
        queue |= TIMER_ROOM
    elif header.attributes & HALF:
        queue |= HALF_ROOM
    return incarnation << 32 | queue


def columns_size(columns: int, record_count: int, key_count: int) -> int:
    """Bytes that the columns of a sealed part take."""
    words = (columns & (1 | 2 | 4 | 8 | 32 | 128)).bit_count() * record_count
    if columns & Column.KEYS:
        words += 2 * key_count
    if columns & Column.DUE_TIMES:
        words += 2 * record_count
    return 4 * words


def tag_hash(tag: str) -> int:
    """What the TAG_HASHES column holds for a tag."""
    return zlib.crc32(tag.encode()) or 1


def tag_bit(hashed: int) -> int:
    """The bit of a tag hash in a frame's 64-bit mask of the tags inside."""
    return 1 << (hashed & 63)


def key_hash(topic: str, key: str) -> int:
    """What the KEYS column holds for a key. Look-ups compare the key itself afterwards: hashes may collide."""
    return zlib.crc32(key.encode(), zlib.crc32(topic.encode() + b"#"))


def group_hash(group: bytes) -> int:
    """What the GROUP_HASHES column holds for a message group (0 is for none)."""
    return zlib.crc32(group) or 1


def id_hash(topic: str, message_id: str) -> int:
    """The same for a message id that the client chose (official clients); a native id needs no entry."""
    return zlib.crc32(message_id.encode(), zlib.crc32(topic.encode() + b"\0"))


@dataclass(slots=True)
class SealedHeader:
    """The fixed head of a sealed part, parsed and found to add up. ``topic`` is its text."""

    kind: int
    size: int
    attributes: int
    columns: int
    producer_id: int
    sequence: int
    queue_id: int
    record_count: int
    records_size: int
    raw_size: int
    born_ms: int
    key_count: int
    topic: str
    columns_at: int  # offset of the first column from the start of the sealed part
    records_at: int  # offset of the records from the start of the sealed part

    @property
    def compression(self) -> int:
        return self.attributes & COMPRESSION_MASK

    def column_at(self, column: Column) -> int | None:
        """Offset of a column from the start of the sealed part, None where it is absent."""
        if not self.columns & column:
            return None
        return self.columns_at + columns_size(self.columns & (column - 1), self.record_count, self.key_count)


@dataclass(slots=True)
class Prefix:
    size: int
    log_offset: int
    epoch: int
    incarnation: int
    queue_offset: int
    store_ms: int
    version: int
    crc: int


def seal(
    *,
    topic: str,
    queue_id: int,
    records: Sequence[bytes],
    born_ms: int,
    producer_id: int = 0,
    sequence: int = 0,
    kind: Kind = Kind.MESSAGES,
    compression: Compression = Compression.NONE,
    stored: bytes | None = None,
    columns: dict[Column, array[int]] | None = None,
    attributes: int = 0,
) -> bytes:
    """Encode a sealed part.

    ``records`` are whole records (properties, then body). ``columns`` are the optional ones, with ``array`` values of
    the column's item type; KEYS is one array of the hashes followed by the record numbers. LENGTHS is made here.
    ``stored`` is the compressed form of the joined records when ``compression`` is not NONE. ``attributes`` are HALF and
    MOVED.
    Raises FrameInvalid when a limit is passed.
    """
    count = len(records)
    if not 0 < count <= RECORDS_PER_FRAME_MAX:
        raise FrameInvalid(f"frame has {count} records; from 1 to {RECORDS_PER_FRAME_MAX} are allowed")
    given = dict(columns) if columns else {}
    if count == 1:
        raw_size = len(records[0])
    else:
        lengths = array("I", map(len, records))
        raw_size = sum(lengths)
        if min(lengths) != max(lengths):
            given[Column.LENGTHS] = lengths
    present = 0
    for column in given:
        present |= column
    topic_bytes = topic.encode()
    parts = [b"", topic_bytes + bytes(-len(topic_bytes) % 4)]
    parts += [given[column].tobytes() for column in sorted(given)]
    if stored is None:
        records_size = raw_size
        parts.extend(records)
    else:
        records_size = len(stored)
        parts.append(stored)
    key_count = len(given[Column.KEYS]) // 2 if Column.KEYS in given else 0
    size = SEALED_SIZE + len(parts[1]) + columns_size(present, count, key_count) + records_size + 4
    if max(size, raw_size) > FRAME_BYTES_MAX:
        raise FrameInvalid(f"frame has {max(size, raw_size)} bytes; the limit is {FRAME_BYTES_MAX}")
    parts[0] = SEALED.pack(
        SEALED_MAGIC, SEALED_VERSION, kind, size, compression | attributes, present, producer_id, sequence, queue_id, count,
        records_size, raw_size, born_ms, len(topic_bytes), 0, key_count,
    )  # fmt: skip
    body = b"".join(parts)
    return body + _CRC.pack(zlib.crc32(body))


def reseal(sealed: Buffer, *, queue_id: int, sequence: int) -> bytes:
    """A refused frame made over for another queue: the one re-encoding that is permitted. Records stay as they are."""
    body = bytearray(sealed[:-4])
    Struct("<Q").pack_into(body, 24, sequence)
    Struct("<I").pack_into(body, 32, queue_id)
    return bytes(body) + _CRC.pack(zlib.crc32(body))


def parse_sealed(data: Buffer, at: int = 0, *, available: int | None = None) -> SealedHeader:
    """Read and check the head of the sealed part at ``data[at:]``; sizes must add up, the checksum is not looked at.

    ``available`` is how many bytes from ``at`` belong to the caller (default: all). Raises FrameInvalid or
    UnsupportedVersion, with a text that names the field.
    """
    room = len(data) - at if available is None else available
    if room < SEALED_SIZE + 4:
        raise FrameInvalid(f"sealed part is cut off: {room} bytes, at least {SEALED_SIZE + 4} are needed")
    (
        magic, version, kind, size, attributes, columns, producer_id, sequence, queue_id, count,
        records_size, raw_size, born_ms, topic_size, zero, key_count,
    ) = SEALED.unpack_from(data, at)  # fmt: skip
    if magic != SEALED_MAGIC:
        raise FrameInvalid(f"not a sealed frame: magic is {magic:#06x}, {SEALED_MAGIC:#06x} is expected")
    if version != SEALED_VERSION:
        raise UnsupportedVersion(f"sealed frame has version {version}; this end knows version {SEALED_VERSION}")
    if attributes & ~ATTRIBUTES_KNOWN or attributes & COMPRESSION_MASK > Compression.ZSTD:
        raise UnsupportedVersion(f"sealed frame has unknown attributes {attributes:#x}")
    if columns & ~COLUMNS_KNOWN:
        raise UnsupportedVersion(f"sealed frame has unknown columns {columns:#x}")
    if kind not in (1, 2, 3) or zero:
        raise FrameInvalid(f"sealed frame has unknown kind {kind} or a reserved field that is not zero")
    if not SEALED_SIZE + 4 <= size <= min(room, FRAME_BYTES_MAX):
        raise FrameInvalid(f"sealed frame says {size} bytes; {room} are there and the limit is {FRAME_BYTES_MAX}")
    if not 0 < count <= RECORDS_PER_FRAME_MAX:
        raise FrameInvalid(f"frame has {count} records; from 1 to {RECORDS_PER_FRAME_MAX} are allowed")
    if raw_size > FRAME_BYTES_MAX:
        raise FrameInvalid(f"records have {raw_size} bytes before compression; the limit is {FRAME_BYTES_MAX}")
    if not attributes & COMPRESSION_MASK and raw_size != records_size:
        raise FrameInvalid(f"records are not compressed, but {records_size} stored bytes stand for {raw_size}")
    if not columns & Column.LENGTHS and raw_size % count:
        raise FrameInvalid(f"{raw_size} bytes of records do not divide into {count} records of one length")
    if key_count and not columns & Column.KEYS:
        raise FrameInvalid(f"key column is absent but has {key_count} entries")
    columns_at = SEALED_SIZE + topic_size + -topic_size % 4
    records_at = columns_at + columns_size(columns, count, key_count)
    if records_at + records_size + 4 != size:
        raise FrameInvalid(f"sizes do not add up: {records_at} before the records + {records_size} + 4 is not {size}")
    try:
        topic = str(data[at + SEALED_SIZE : at + SEALED_SIZE + topic_size], "utf-8")
    except UnicodeDecodeError:
        raise FrameInvalid("topic of the frame is not UTF-8") from None
    return SealedHeader(
        kind, size, attributes, columns, producer_id, sequence, queue_id, count, records_size, raw_size, born_ms,
        key_count, topic, columns_at, records_at,
    )  # fmt: skip


def check_sealed_crc(data: Buffer, at: int, size: int) -> int:
    """The checksum of the sealed part, once it is found to be right; raises BadChecksum."""
    view = memoryview(data)
    (stated,) = _CRC.unpack_from(view, at + size - 4)
    actual = zlib.crc32(view[at : at + size - 4])
    if actual != stated:
        raise BadChecksum(f"checksum of the sealed frame is {actual:#010x}, it says {stated:#010x}")
    return actual


def make_prefix(
    *,
    sealed_size: int,
    sealed_crc: int,
    log_offset: int,
    epoch: int,
    incarnation: int,
    queue_offset: int,
    store_ms: int,
) -> bytes:
    """The 48 bytes that the broker writes before a sealed part."""
    head = PREFIX.pack(
        PREFIX_MAGIC, PREFIX_SIZE + sealed_size, log_offset, epoch, incarnation, queue_offset, store_ms,
        PREFIX_VERSION, 0, 0,
    )[:-4]  # fmt: skip
    return head + _CRC.pack(zlib.crc32(head, sealed_crc))


def parse_prefix(data: Buffer, at: int = 0) -> Prefix:
    """Read the prefix at ``data[at:]``. Only magic, version and size are checked; see check_frame."""
    if len(data) - at < PREFIX_SIZE:
        raise FrameInvalid(f"prefix is cut off: {len(data) - at} bytes, {PREFIX_SIZE} are needed")
    magic, size, log_offset, epoch, incarnation, queue_offset, store_ms, version, zero, crc = PREFIX.unpack_from(data, at)
    if magic != PREFIX_MAGIC or zero:
        raise FrameInvalid(f"no frame here: magic is {magic:#010x}, {PREFIX_MAGIC:#010x} is expected")
    if version != PREFIX_VERSION:
        raise UnsupportedVersion(f"frame has format version {version}; this end knows version {PREFIX_VERSION}")
    if not PREFIX_SIZE + SEALED_SIZE + 4 <= size <= PREFIX_SIZE + FRAME_BYTES_MAX:
        raise FrameInvalid(f"frame says {size} bytes; the limit is {PREFIX_SIZE + FRAME_BYTES_MAX}")
    return Prefix(size, log_offset, epoch, incarnation, queue_offset, store_ms, version, crc)


def check_frame(data: Buffer, at: int = 0) -> tuple[Prefix, SealedHeader]:
    """Parse the whole frame at ``data[at:]`` and check both checksums.

    Raises FrameInvalid, BadChecksum, UnsupportedVersion.
    """
    prefix = parse_prefix(data, at)
    if len(data) - at < prefix.size:
        raise FrameInvalid(f"frame is cut off: {len(data) - at} bytes of {prefix.size}")
    sealed_at = at + PREFIX_SIZE
    header = parse_sealed(data, sealed_at, available=prefix.size - PREFIX_SIZE)
    if header.size != prefix.size - PREFIX_SIZE:
        raise FrameInvalid(f"frame has {prefix.size} bytes but its sealed part has {header.size}")
    sealed_crc = check_sealed_crc(data, sealed_at, header.size)
    actual = zlib.crc32(memoryview(data)[at : at + PREFIX_SIZE - 4], sealed_crc)
    if actual != prefix.crc:
        raise BadChecksum(f"checksum of the frame's prefix is {actual:#010x}, it says {prefix.crc:#010x}")
    return prefix, header


def column(data: Buffer, at: int, header: SealedHeader, which: Column) -> array[int] | None:
    """A column as an array (machine order), None where it is absent. ``at`` is where the sealed part starts."""
    start = header.column_at(which)
    if start is None:
        return None
    values: array[int] = array({Column.DUE_TIMES: "q", Column.PRIORITIES: "i"}.get(which, "I"))
    items = header.key_count * 2 if which is Column.KEYS else header.record_count
    values.frombytes(memoryview(data)[at + start : at + start + items * values.itemsize])
    return values


def record_bounds(data: Buffer, at: int, header: SealedHeader) -> list[int]:
    """Record i lies at [bounds[i], bounds[i + 1]) of the inflated records; count + 1 values.

    Raises FrameInvalid when the lengths do not add up to the stated size.
    """
    lengths = column(data, at, header, Column.LENGTHS)
    if lengths is None:
        each = header.raw_size // header.record_count
        return list(range(0, header.raw_size + 1, each)) if each else [0] * (header.record_count + 1)
    bounds = list(accumulate(lengths, initial=0))
    if bounds[-1] != header.raw_size:
        raise FrameInvalid(f"record lengths add up to {bounds[-1]} bytes, the frame says {header.raw_size}")
    return bounds


def property_blocks(data: Buffer, at: int, header: SealedHeader) -> Iterator[bytes]:
    """The properties of each record of a frame that is not compressed."""
    bounds = record_bounds(data, at, header)
    sizes = column(data, at, header, Column.PROPERTY_SIZES)
    start = at + header.records_at
    for number in range(header.record_count):
        size = sizes[number] if sizes is not None else 0
        yield bytes(data[start + bounds[number] : start + bounds[number] + size])


def iterate_frames(data: Buffer) -> Iterator[tuple[int, Prefix]]:
    """(position, prefix) of each frame in a run of whole frames, as a fetch or delivery carries them."""
    at, end = 0, len(data)
    while at < end:
        prefix = parse_prefix(data, at)
        if prefix.size > end - at:
            raise FrameInvalid(f"frame is cut off: {end - at} bytes of {prefix.size}")
        yield at, prefix
        at += prefix.size
