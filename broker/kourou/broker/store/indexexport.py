"""The part of a snapshot that brings the index back: the queue table and the rows of the open segment.

    header (80 bytes, with a crc32 of itself and one of the rest) | columns of the table: keys, next, first, latest,
    depth, levels | bases of segments | rows | mixes | key hashes, key rows, key ends

The table is what the log alone can't give once retention has run: a queue without frames still has its next offset.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from struct import Struct
from typing import Final

from kourou.broker.store.openindex import ROW, OpenIndex
from kourou.broker.store.queuetable import QueueTable
from kourou.core.errors import DamagedLog, NewerFormat

_MAGIC: Final = b"KOUROUIO"
_VERSION: Final = 1
_HEADER: Final = Struct("<8sB3xIQQQQQQQII")  # magic, version, levels, counts, crc of the rest, crc of the header
assert _HEADER.size == 80


def export_index(table: QueueTable, opened: OpenIndex, bases: Sequence[int], oldest: int) -> list[bytes]:
    """``oldest`` is the base of the oldest segment that is there."""
    rest = [column.tobytes() for column in (table.keys, table.next, table.first, table.latest, table.depth, *table.levels)]
    rest += [array("Q", bases).tobytes(), bytes(opened.rows), opened.mixes.tobytes()]
    rest += [opened.key_hashes.tobytes(), opened.key_rows.tobytes(), opened.key_ends.tobytes()]
    checksum = 0
    for part in rest:
        checksum = zlib.crc32(part, checksum)
    header = _HEADER.pack(
        _MAGIC, _VERSION, len(table.levels), opened.base, len(table.keys), len(bases), opened.count,
        len(opened.key_hashes), len(opened.key_rows), oldest, checksum, 0,
    )[:-4]  # fmt: skip
    return [header + zlib.crc32(header).to_bytes(4, "little"), *rest]


def import_index(data: bytes | bytearray | memoryview) -> tuple[QueueTable, OpenIndex, list[int], int]:
    """Table, open segment, bases, oldest. Raises DamagedLog or NewerFormat."""
    view = memoryview(data)
    if len(view) < _HEADER.size or bytes(view[:8]) != _MAGIC:
        raise DamagedLog("this is not a snapshot of the log's index")
    (
        _, version, levels, base, queues, segments, frames, hashes, keyed, oldest, checksum, header_checksum,
    ) = _HEADER.unpack_from(view)  # fmt: skip
    if zlib.crc32(view[: _HEADER.size - 4]) != header_checksum:
        raise DamagedLog("the header of the index's snapshot is damaged")
    if version > _VERSION:
        raise NewerFormat(f"snapshot of the index has version {version}; this version of Kourou knows {_VERSION}")
    if zlib.crc32(view[_HEADER.size :]) != checksum:
        raise DamagedLog("the index's snapshot is damaged")
    at = _HEADER.size

    def take(code: str, items: int) -> array[int]:
        nonlocal at
        values: array[int] = array(code)
        size = items * values.itemsize
        values.frombytes(view[at : at + size])
        at += size
        return values

    keys = take("Q", queues)
    table = QueueTable(
        dict(zip(keys, range(queues), strict=True)), keys, take("Q", queues), take("Q", queues), take("q", queues),
        take("I", queues), [take("I", queues) for _ in range(levels)],
    )  # fmt: skip
    bases = take("Q", segments).tolist()
    rows = bytearray(view[at : at + frames * ROW.size])
    at += len(rows)
    opened = OpenIndex(base)
    opened.restore(rows, take("Q", frames), take("I", hashes), take("I", keyed), take("Q", keyed))
    if at != len(view):
        raise DamagedLog(f"the index's snapshot has {len(view)} bytes, its parts {at}")
    return table, opened, bases, oldest
