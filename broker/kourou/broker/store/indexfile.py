"""Reading a sealed segment's .idx file: only the blocks that a look-up needs, verified once, kept in a bounded cache.

Plain reads into bytes instead of a mapping: what is resident is what the cache says, and damage is an exception instead
of a signal. All segments share one cache.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count as counter
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store.indexformat import (
    BLOCK_SIZE,
    ENTRY,
    ENTRY_DTYPE,
    HEADER,
    HEADER_SIZE,
    INDEX_MAGIC,
    INDEX_VERSION,
    KEY_SIZE,
    KEYS_PER_FENCE,
    PRODUCER,
    PRODUCER_DTYPE,
    PRODUCERS_PER_FENCE,
    RUN,
    RUN_DTYPE,
    RUNS_PER_FENCE,
    Layout,
)
from kourou.broker.store.openindex import FrameRef, QueueRun
from kourou.core.errors import DamagedLog, KourouError, NewerFormat

_serial = counter()


class IndexReader(Protocol):
    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of a file; fewer than ``size`` only at its end. FileNotFoundError when there is no such file."""
        ...


class DamagedIndex(DamagedLog):
    """The .idx file of the segment at ``base`` is damaged or missing; the segment itself may be whole."""

    def __init__(self, base: int, message: str) -> None:
        super().__init__(message)
        self.base = base


Report = Callable[[int, str], KourouError]  # base, what is wrong → what to raise


class BlockCache:
    """Recently used parts of index files, by file serial and part. At the bound the least recently used go."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._parts: dict[tuple[int, int], tuple[Any, int]] = {}

    def get(self, serial: int, part: int, load: Callable[[], tuple[Any, int]]) -> Any:
        """The part, loaded when it is absent; ``load`` answers it with its size in bytes."""
        key = (serial, part)
        held = self._parts.pop(key, None)
        if held is None:
            held = load()
            self._bytes += held[1]
            while self._bytes > self._bytes_max and self._parts:
                self._bytes -= self._parts.pop(next(iter(self._parts)))[1]
        self._parts[key] = held  # at the end again: dicts keep the order of insertion
        return held[0]

    @property
    def size_bytes(self) -> int:
        return self._bytes


@dataclass(slots=True)
class _Head:
    """The tables of a head, as views of its bytes."""

    run_fence: memoryview
    producer_fence: memoryview
    key_fence: memoryview
    checksums: memoryview


_HEAD_PART: Final = -1


class IndexFile:
    """One sealed segment. Only its header's numbers stay in memory for good."""

    __slots__ = (
        "_cache", "_files", "_keys_at", "_layout", "_name", "_producers_at", "_report", "_rows_at", "_serial", "base",
        "end", "first_ms", "last_ms",
    )  # fmt: skip

    def __init__(
        self, files: IndexReader, cache: BlockCache, name: str, base: int, *, report: Report = DamagedIndex
    ) -> None:
        """Read and check the head. Raises DamagedIndex (also when there is no such file) or NewerFormat.

        ``report`` says what is raised when damage is met later.
        """
        self._files, self._cache, self._name, self._serial = files, cache, name, next(_serial)
        self._report: Report = DamagedIndex
        self.base = base
        header = self._read_file(0, HEADER_SIZE)
        if len(header) < HEADER_SIZE or header[:8] != INDEX_MAGIC:
            raise self._report(self.base, f"{name} is not an index file")
        if header[8] > INDEX_VERSION and zlib.crc32(header[:-4]) == int.from_bytes(header[-4:], "little"):
            raise NewerFormat(f"{name} has format version {header[8]}; this version of Kourou knows {INDEX_VERSION}")
        (
            _, version, block_size, stated_base, self.end, self.first_ms, self.last_ms, queues, frames, keys, producers,
            body_size, head_size, checksum,
        ) = HEADER.unpack(header)  # fmt: skip
        self._layout = layout = Layout(queues, frames, keys, producers)
        self._rows_at, self._keys_at, self._producers_at = layout.entries_at, layout.keys_at, layout.producers_at
        if zlib.crc32(header[:-4]) != checksum:
            raise self._report(self.base, f"checksum of the header of {name} does not match")
        stated = (version, block_size, stated_base, body_size, head_size)
        if stated != (INDEX_VERSION, BLOCK_SIZE, base, layout.body_size, layout.head_size):
            raise self._report(self.base, f"header of {name} does not add up")
        self._head()
        if len(self._read_file(head_size + body_size - 1, 2)) != 1:
            raise self._report(self.base, f"{name} does not have the {head_size + body_size} bytes that it should")
        self._report = report

    @property
    def frames(self) -> int:
        return self._layout.frames

    def find(self, key: int, number: int = 0) -> QueueRun | None:
        fence = self._head().run_fence
        index = self._lower_bound(fence, 0, RUN.size, self._layout.queues, RUNS_PER_FENCE, key)
        if index == self._layout.queues:
            return None
        run = QueueRun(*RUN.unpack(self._read(index * RUN.size, RUN.size)))
        return run if run.key == key else None

    def row(self, run: QueueRun, index: int) -> tuple[int, int, int]:
        at = self._rows_at + (run.first_row + index) * ENTRY.size
        queue_offset, _, store_ms, _, _, count = ENTRY.unpack(self._read(at, ENTRY.size))
        return queue_offset, count, store_ms

    def refs(self, run: QueueRun, index: int, limit: int) -> list[FrameRef]:
        wanted = min(limit, run.rows - index)
        if wanted <= 0:
            return []
        data = self._read(self._rows_at + (run.first_row + index) * ENTRY.size, wanted * ENTRY.size)
        base = self.base
        return [
            FrameRef(base + position, size, queue_offset, count, tag_mask)
            for queue_offset, tag_mask, _, position, size, count in ENTRY.iter_unpack(data)
        ]

    def by_key(self, hashed: int, limit: int, newest: bool) -> list[int]:
        fence, items = self._head().key_fence, self._layout.keys
        low = self._lower_bound(fence, self._keys_at, KEY_SIZE, items, KEYS_PER_FENCE, hashed << 32)
        high = self._lower_bound(fence, self._keys_at, KEY_SIZE, items, KEYS_PER_FENCE, (hashed + 1) << 32)
        if newest:
            low = max(low, high - limit)
        else:
            high = min(high, low + limit)
        if low == high:
            return []
        pairs = np.frombuffer(self._read(self._keys_at + low * KEY_SIZE, (high - low) * KEY_SIZE), "<u8")
        found: list[int] = ((pairs & np.uint64(0xFFFFFFFF)) + np.uint64(self.base)).tolist()
        return found

    def by_producer(self, mix: int) -> int | None:
        fence, items = self._head().producer_fence, self._layout.producers
        after = self._lower_bound(fence, self._producers_at, PRODUCER.size, items, PRODUCERS_PER_FENCE, mix + 1)
        if not after:
            return None
        found, position = PRODUCER.unpack(self._read(self._producers_at + (after - 1) * PRODUCER.size, PRODUCER.size))
        return self.base + int(position) if found == mix else None

    def directory(self) -> NDArray[Any]:
        """The whole directory, read past the cache."""
        return np.frombuffer(self._read_through(0, self._rows_at), RUN_DTYPE)

    def entries(self) -> NDArray[Any]:
        """All entries, grouped by queue, read past the cache."""
        return np.frombuffer(self._read_through(self._rows_at, self._keys_at - self._rows_at), ENTRY_DTYPE)

    def keys(self) -> NDArray[np.uint64]:
        return np.frombuffer(self._read_through(self._keys_at, self._producers_at - self._keys_at), "<u8")

    def producers(self) -> NDArray[Any]:
        size = self._layout.body_size - self._producers_at
        return np.frombuffer(self._read_through(self._producers_at, size), PRODUCER_DTYPE)

    def verify(self) -> None:
        """Read every block. Raises DamagedLog."""
        for block in range(len(self._head().checksums)):
            self._load_block(block)

    def _lower_bound(self, fence: memoryview, section_at: int, item_size: int, items: int, stride: int, value: int) -> int:
        """Index of the first item whose leading u64 is at least ``value``; one stride of the section is read."""
        first = max(bisect_left(fence, value) - 1, 0) * stride
        here = min(stride, items - first)
        if here <= 0:
            return items
        data = self._read(section_at + first * item_size, here * item_size)
        values = memoryview(data).cast("Q")[:: item_size // 8]
        return first + bisect_left(values, value)

    def _read(self, offset: int, size: int) -> bytes | memoryview:
        """Bytes of the body, through the cache."""
        block, at = divmod(offset, BLOCK_SIZE)
        last = (offset + size - 1) // BLOCK_SIZE
        if block == last:
            return memoryview(self._block(block))[at : at + size]
        joined = b"".join(map(self._block, range(block, last + 1)))
        return memoryview(joined)[at : at + size]

    def _read_through(self, offset: int, size: int) -> bytes | memoryview:
        """Bytes of the body, past the cache, in one read."""
        if not size:
            return b""
        first, last = offset // BLOCK_SIZE, (offset + size - 1) // BLOCK_SIZE
        start, stop = first * BLOCK_SIZE, min((last + 1) * BLOCK_SIZE, self._layout.body_size)
        data = memoryview(self._read_file(self._layout.head_size + start, stop - start))
        for block in range(first, last + 1):
            at = block * BLOCK_SIZE - start
            self._check_block(block, data[at : at + BLOCK_SIZE])
        return data[offset - start : offset - start + size]

    def _block(self, block: int) -> bytes:
        found: bytes = self._cache.get(self._serial, block, lambda: self._load_block(block))
        return found

    def _load_block(self, block: int) -> tuple[bytes, int]:
        size = min(BLOCK_SIZE, self._layout.body_size - block * BLOCK_SIZE)
        data = self._read_file(self._layout.head_size + block * BLOCK_SIZE, size)
        self._check_block(block, data)
        return data, len(data)

    def _check_block(self, block: int, data: bytes | memoryview) -> None:
        """A short block fails too: its checksum is that of all its bytes."""
        if zlib.crc32(data) != self._head().checksums[block]:
            raise self._report(self.base, f"block {block} of {self._name} is damaged")

    def _head(self) -> _Head:
        found: _Head = self._cache.get(self._serial, _HEAD_PART, self._load_head)
        return found

    def _load_head(self) -> tuple[_Head, int]:
        size = self._layout.head_size
        data = self._read_file(0, size)
        if len(data) < size or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise self._report(self.base, f"head of {self._name} is damaged")
        runs, producers, keys = self._layout.fences
        at = HEADER_SIZE + 8 * runs
        view, keys_at, checksums_at = memoryview(data), at + 8 * producers, at + 8 * (producers + keys)
        head = _Head(
            run_fence=view[HEADER_SIZE:at].cast("Q"),
            producer_fence=view[at:keys_at].cast("Q"),
            key_fence=view[keys_at:checksums_at].cast("Q"),
            checksums=view[checksums_at : size - 4].cast("I"),
        )
        return head, size

    def _read_file(self, offset: int, size: int) -> bytes:
        try:
            return self._files.read(self._name, offset, size)
        except FileNotFoundError:
            raise self._report(self.base, f"{self._name} is missing") from None
