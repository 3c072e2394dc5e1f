"""The part of a snapshot that brings the index back: the queue table and the rows of the open segment.

    header (80 bytes, with a crc32 of itself and one of the rest) | columns of the table: keys, next, first, latest,
    depth, levels | bases of segments | rows | mixes | key hashes, key rows, key ends

The table is what the log alone can't give once retention has run: a queue without frames still has its next offset.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from kourou.broker.store.openindex import ROW, OpenIndex
from kourou.broker.store.queuetable import QueueTable
from kourou.core.errors import DamagedLog, NewerFormat
from kourou.core.widedict import WideDict

_MAGIC: Final = b"KOUROUIO"
_VERSION: Final = 1
_HEADER: Final = Struct("<8sB3xIQQQQQQQII")  # magic, version, levels, counts, crc of the rest, crc of the header
assert _HEADER.size == 80


_SLICE: Final = 4 * 1024 * 1024


class IndexExport:
    """Captured when it is made. What changes in place is copied then; what only grows is copied by ``slices``, between
    other work; ``finish`` is for a thread, since the checksum of a million queues takes its time."""

    def __init__(self, table: QueueTable, opened: OpenIndex, bases: Sequence[int], oldest: int) -> None:
        """``oldest`` is the base of the oldest segment that is there."""
        self._queues = len(table.keys)
        self._levels = len(table.levels)
        self._changing = [column.tobytes() for column in (table.next, table.first, table.latest, table.depth, *table.levels)]
        self._bases = array("Q", bases).tobytes()
        self._keys = table.keys
        self._opened = opened
        self._counts = opened.base, self._queues, len(bases), opened.count, len(opened.key_hashes), len(opened.key_rows)
        self._oldest = oldest
        self._pieces: list[bytes] = []

    def slices(self) -> Iterator[None]:
        opened = self._opened
        _, queues, _, frames, hashes, keyed = self._counts
        take = self._pieces.append
        for piece in _copies(self._keys, queues):
            take(piece)
            yield
        self._pieces += [*self._changing, self._bases]
        self._changing.clear()
        growing = (opened.rows, frames * ROW.size), (opened.mixes, frames), (opened.key_hashes, hashes)
        for column, count in (*growing, (opened.key_rows, keyed), (opened.key_ends, keyed)):
            for piece in _copies(column, count):
                take(piece)
                yield

    def finish(self) -> list[bytes]:
        """The pieces of the part. Blocking."""
        checksum = 0
        for part in self._pieces:
            checksum = zlib.crc32(part, checksum)
        header = _HEADER.pack(_MAGIC, _VERSION, self._levels, *self._counts, self._oldest, checksum, 0)[:-4]
        return [header + zlib.crc32(header).to_bytes(4, "little"), *self._pieces]


def _copies(column: array[int] | bytearray, count: int) -> Iterator[bytes]:
    step = _SLICE // (column.itemsize if isinstance(column, array) else 1)
    for at in range(0, count, step):
        yield bytes(column[at : min(count, at + step)])


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
        WideDict(zip(keys, range(queues), strict=True)), keys, take("Q", queues), take("Q", queues), take("q", queues),
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
