"""Reading a bucket of timers: block by block, record by record, every checksum verified. All of it is *blocking*.

Only the fences stay in memory (16 bytes for 1,024 timers). Damage is named with the file and what of it can't be read.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from kourou.broker.store.files import Files
from kourou.broker.store.timerformat import (
    BLOCK,
    ENTRY,
    ENTRY_DTYPE,
    ENTRY_SIZE,
    FENCE_DTYPE,
    FENCE_SIZE,
    HEAD_SIZE,
    Entries,
    Entry,
    bucket_name,
    parse_head,
)
from kourou.core.errors import DamagedLog

SPAN_BYTES = 4 * 1024 * 1024  # records that lie together are read together, up to this


class TimerFile:
    """One bucket. Raises DamagedLog when the head is missing, damaged, or not the one that is expected."""

    def __init__(self, files: Files, number: int, *, checksum: int | None) -> None:
        self._files = files
        self.number = number
        self.name = bucket_name(number)
        self.head, crc = parse_head(self.read(0, HEAD_SIZE), self.name)
        if self.head.number != number or (checksum is not None and crc != checksum):
            raise DamagedLog(f"{self.name} is another bucket than the one that was written here")
        if files.size(self.name) != self.head.size:
            raise DamagedLog(f"{self.name} does not have the {self.head.size} bytes that it should")
        self._fences: tuple[list[int], list[int]] | None = None  # due times, checksums

    def read(self, offset: int, size: int) -> bytes:
        """Bytes as they are."""
        try:
            return self._files.read(self.name, offset, size)
        except FileNotFoundError:
            raise DamagedLog(f"{self.name} is missing") from None

    def _known_fences(self) -> tuple[list[int], list[int]]:
        if self._fences is None:
            data = self.read(HEAD_SIZE, self.head.blocks * FENCE_SIZE)
            if zlib.crc32(data) != self.head.fences_crc:
                raise DamagedLog(f"the fences of {self.name} are damaged")
            fences = np.frombuffer(data, FENCE_DTYPE)
            self._fences = fences["due"].tolist(), fences["crc"].tolist()
        return self._fences

    def _block(self, number: int) -> bytes:
        start = number * BLOCK
        count = min(BLOCK, self.head.count - start)
        data = self.read(self.head.entries_at + start * ENTRY_SIZE, count * ENTRY_SIZE)
        if len(data) != count * ENTRY_SIZE or zlib.crc32(data) != self._known_fences()[1][number]:
            raise DamagedLog(f"entries {start} to {start + count - 1} of {self.name} are damaged")
        return data

    def block(self, number: int) -> list[Entry]:
        """The entries from position ``number * BLOCK`` on."""
        return list(map(Entry._make, ENTRY.iter_unpack(self._block(number))))

    def due_of_block(self, number: int) -> int:
        """Due time of its first entry."""
        return self._known_fences()[0][number]

    def of_topic(self, incarnation: int, *, from_ms: int, upto_ms: int, limit: int, floor: int, bits: bytes) -> list[Entry]:
        """The soonest timers of a topic that are due between two times, are above the floor and have no bit set."""
        found: list[Entry] = []
        first = max(floor // BLOCK, bisect_left(self._known_fences()[0], from_ms) - 1)
        for number in range(first, bisect_right(self._known_fences()[0], upto_ms)):
            block = self._block(number)
            entries = np.frombuffer(block, ENTRY_DTYPE)
            for at in np.flatnonzero((entries["incarnation"] == incarnation) & (entries["due"] >= from_ms)).tolist():
                position = number * BLOCK + at
                if position >= floor and not (bits and bits[position >> 3] >> (position & 7) & 1):
                    found.append(Entry._make(ENTRY.unpack_from(block, at * ENTRY_SIZE)))
                    if len(found) == limit:
                        return found
        return found

    def blocks(self, *, floor: int) -> Iterator[tuple[int, Entries]]:
        """(position of the first, entries) of each block from that of a position on."""
        for number in range(floor // BLOCK, self.head.blocks):
            yield number * BLOCK, np.frombuffer(self._block(number), ENTRY_DTYPE)

    def find(self, due_ms: int, log_offset: int, record: int) -> tuple[int, Entry] | None:
        """(position, entry) of a timer."""
        fences = self._known_fences()[0]
        wanted = due_ms, log_offset, record
        first = max(0, bisect_left(fences, due_ms) - 1)
        for number in range(first, bisect_right(fences, due_ms)):
            block = self.block(number)
            at = bisect_left(block, wanted, key=_order)
            if at < len(block) and _order(block[at]) == wanted:
                return number * BLOCK + at, block[at]
        return None

    def record(self, entry: Entry) -> bytes:
        """Raises DamagedLog."""
        data = self.read(entry.place, entry.size)
        self._check(entry, data)
        return data

    def records(self, entries: Sequence[Entry]) -> Iterator[bytes | DamagedLog]:
        """The records of entries in order of their places, a failure in place of one that is damaged."""
        at = 0
        while at < len(entries):
            start = entries[at].place
            upto = at + 1
            while upto < len(entries) and entries[upto].place + entries[upto].size - start <= SPAN_BYTES:
                upto += 1
            try:
                data = memoryview(self.read(start, entries[upto - 1].place + entries[upto - 1].size - start))
            except DamagedLog as failure:
                yield from [failure] * (upto - at)
                at = upto
                continue
            for entry in entries[at:upto]:
                record = bytes(data[entry.place - start : entry.place - start + entry.size])
                try:
                    self._check(entry, record)
                except DamagedLog as failure:
                    yield failure
                else:
                    yield record
            at = upto

    def _check(self, entry: Entry, data: bytes) -> None:
        if len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise DamagedLog(
                f"the message of log offset {entry.log_offset}, record {entry.record}, due at {entry.due_ms}, "
                f"is damaged in {self.name}"
            )


def _order(entry: Entry) -> tuple[int, int, int]:
    return entry.due_ms, entry.log_offset, entry.record
