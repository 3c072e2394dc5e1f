"""The numpy view of a frame's sealed part: lengths, tag mask, key hashes, checked in a constant number of operations.

``core.frame.parse_sealed`` checks the head and that the sizes add up; what it leaves open is inside the columns and is
checked here, once, before a frame is appended. Nothing here is O(records) in Python bytecode. A frame without LENGTHS,
TAG_HASHES, PROPERTY_SIZES and KEYS costs no numpy call at all, a frame of one record (an official client's) neither.

What is not checked: the inside of property blocks and whether compressed records inflate to the stated size. Both would
need every record touched; readers of records find out.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kourou.core.errors import BodyTooLarge, FrameInvalid, PropertiesTooLarge
from kourou.core.frame import Buffer, Column, SealedHeader, columns_size, tag_bit
from kourou.core.limits import BODY_BYTES_MAX, KEYS_COUNT_MAX, PROPERTIES_BYTES_MAX

PROPERTIES_SLACK: Final = 4096  # field heads (3 bytes each, 64 keys + 128 properties) and the system's own fields
KEYS_PER_RECORD_MAX: Final = KEYS_COUNT_MAX + 1  # its keys and an id that the client chose

# Plain ints: `&` between IntFlags costs a microsecond.
_LENGTHS: Final = int(Column.LENGTHS)
_TAG_HASHES: Final = int(Column.TAG_HASHES)
_PROPERTY_SIZES: Final = int(Column.PROPERTY_SIZES)
_KEYS: Final = int(Column.KEYS)
_CHECKED: Final = _LENGTHS | _TAG_HASHES | _PROPERTY_SIZES | _KEYS
_TAG_BITS: Final[NDArray[np.uint64]] = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))
_ZEROS: Final = bytes(4 * KEYS_PER_RECORD_MAX)
_ISIN_FROM: Final = 8  # from so many tags on one sorted look-up beats a comparison per tag


@dataclass(slots=True)
class FrameFacts:
    """What the index keeps of the columns. ``key_hashes`` is a copy: it does not pin the buffer it came from."""

    tag_mask: int
    key_hashes: NDArray[np.uint32] | None


def check_columns(sealed: Buffer, at: int, header: SealedHeader) -> FrameFacts:
    """Check everything that ``parse_sealed`` did not, and answer what the index needs.

    Raises FrameInvalid, BodyTooLarge or PropertiesTooLarge, with the limit in the text.
    """
    columns, count = header.columns, header.record_count
    if not columns & _CHECKED:
        _check_body(header.raw_size // count)
        return FrameFacts(0, None)
    if count == 1:
        tag_mask = _check_one(sealed, at, header)
    else:
        _check_sizes(sealed, at, header)
        tag_mask = _tag_mask(sealed, at, header) if columns & _TAG_HASHES else 0
    return FrameFacts(tag_mask, _check_keys(sealed, at, header) if header.key_count else None)


def has_any_tag(sealed: Buffer, at: int, header: SealedHeader, tag_hashes: frozenset[int]) -> bool:
    """Does any record carry one of these tag hashes? A record without a tag carries the hash 0."""
    if not header.columns & _TAG_HASHES:
        return 0 in tag_hashes
    tags = _u32(sealed, at, header, _TAG_HASHES, header.record_count)
    if len(tag_hashes) < _ISIN_FROM:
        return any(bool((tags == hashed).any()) for hashed in tag_hashes)
    return bool(np.isin(tags, np.fromiter(tag_hashes, np.uint32, len(tag_hashes))).any())


def _u32(sealed: Buffer, at: int, header: SealedHeader, column: int, count: int) -> NDArray[np.uint32]:
    return np.frombuffer(sealed, "<u4", count, at + _start(header, column))


def _start(header: SealedHeader, column: int) -> int:
    return header.columns_at + columns_size(header.columns & (column - 1), header.record_count, header.key_count)


def _check_one(sealed: Buffer, at: int, header: SealedHeader) -> int:
    """The checks for a frame of one record, whose columns have one number each; answers its tag mask."""
    columns, size = header.columns, header.raw_size
    start = at + header.columns_at
    if columns & _LENGTHS:
        (length,) = unpack_from("<I", sealed, start)
        if length != size:
            raise FrameInvalid(f"record lengths add up to {length} bytes, the frame says {size}")
    if columns & _PROPERTY_SIZES:
        (properties,) = unpack_from("<I", sealed, at + _start(header, _PROPERTY_SIZES))
        if properties > size:
            raise FrameInvalid(f"properties of record 0 have {properties} bytes, the record has {size}")
        _check_properties(properties)
        size -= properties
    _check_body(size)
    if columns & _TAG_HASHES:
        hashed: int = unpack_from("<I", sealed, at + _start(header, _TAG_HASHES))[0]
        return tag_bit(hashed) if hashed else 0
    return 0


def _check_sizes(sealed: Buffer, at: int, header: SealedHeader) -> None:
    count = header.record_count
    if not header.columns & _LENGTHS:
        each = header.raw_size // count
        if not header.columns & _PROPERTY_SIZES:
            _check_body(each)
            return
        properties = _u32(sealed, at, header, _PROPERTY_SIZES, count)
        most = int(properties.max())
        if most > each:
            raise FrameInvalid(f"properties of record {properties.argmax()} have {most} bytes, the record has {each}")
        _check_properties(most)
        _check_body(each - int(properties.min()))
        return
    lengths = _u32(sealed, at, header, _LENGTHS, count)
    total = int(lengths.sum(dtype=np.uint64))
    if total != header.raw_size:
        raise FrameInvalid(f"record lengths add up to {total} bytes, the frame says {header.raw_size}")
    if not header.columns & _PROPERTY_SIZES:
        _check_body(int(lengths.max()))
        return
    properties = _u32(sealed, at, header, _PROPERTY_SIZES, count)
    too_large = properties > lengths
    if too_large.any():
        index = int(too_large.argmax())
        raise FrameInvalid(f"properties of record {index} have {properties[index]} bytes, the record has {lengths[index]}")
    _check_properties(int(properties.max()))
    _check_body(int((lengths - properties).max()))


def _check_body(size: int) -> None:
    if size > BODY_BYTES_MAX:
        raise BodyTooLarge(f"a message body has {size} bytes; the limit is {BODY_BYTES_MAX}")


def _check_properties(size: int) -> None:
    if size > PROPERTIES_BYTES_MAX + PROPERTIES_SLACK:
        raise PropertiesTooLarge(f"properties of a message have {size} bytes; the limit is {PROPERTIES_BYTES_MAX}")


def _tag_mask(sealed: Buffer, at: int, header: SealedHeader) -> int:
    tags = _u32(sealed, at, header, _TAG_HASHES, header.record_count)
    tagged = tags if tags.all() else tags[tags != 0]
    return int(np.bitwise_or.reduce(_TAG_BITS[tagged & 63]))  # 0 where nothing is tagged


def _check_keys(sealed: Buffer, at: int, header: SealedHeader) -> NDArray[np.uint32]:
    count, most = header.key_count, header.record_count * KEYS_PER_RECORD_MAX
    if count > most:
        raise FrameInvalid(f"frame has {count} keys; {header.record_count} records may have {most}")
    if header.record_count == 1:
        start = at + _start(header, _KEYS)
        if sealed[start + 4 * count : start + 8 * count] == _ZEROS[: 4 * count]:  # all are of record 0
            return np.array(np.frombuffer(sealed, "<u4", count, start))
    pairs = _u32(sealed, at, header, _KEYS, 2 * count)
    last = int(pairs[count:].max())
    if last >= header.record_count:
        raise FrameInvalid(f"a key belongs to record {last}, the frame has {header.record_count}")
    return pairs[:count].astype(np.uint32)
