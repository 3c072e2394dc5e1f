"""The layout of a sealed segment's .idx file; docs/formats-index.md draws it for people. Little-endian.

    header (128 bytes) | fences of directory, producers, keys | crc32 of each block of the body | crc32 of all before it
    body: directory | entries | keys | producers

The body is covered by a checksum for every 16 KiB, so that a reader can trust a part without reading the rest. Sorted
sections have a fence in the head: every n-th of their values. A look-up is then one read in the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np

INDEX_MAGIC: Final = b"KOUROUIX"
INDEX_VERSION: Final = 1
BLOCK_SIZE: Final = 16 * 1024

HEADER: Final = Struct("<8sB3xIQQqqIIIIQI48xI")
HEADER_SIZE: Final = 128
assert HEADER.size == HEADER_SIZE

RUN: Final = Struct("<QQQqQQIIIxxxx")  # a queue's row of the directory: see openindex.QueueRun
RUN_DTYPE: Final = np.dtype(
    [
        ("key", "<u8"),
        ("first_offset", "<u8"),
        ("next_offset", "<u8"),
        ("latest_ms", "<i8"),
        ("previous", "<u8"),
        ("skip", "<u8"),
        ("first_row", "<u4"),
        ("rows", "<u4"),
        ("depth", "<u4"),
        ("zero", "<u4"),
    ]
)
assert RUN.size == RUN_DTYPE.itemsize == 64

ENTRY: Final = Struct("<QQqIII")  # a frame
ENTRY_DTYPE: Final = np.dtype(
    [
        ("queue_offset", "<u8"),
        ("tag_mask", "<u8"),
        ("store_ms", "<i8"),
        ("position", "<u4"),
        ("size", "<u4"),
        ("count", "<u4"),
    ]
)
assert ENTRY.size == ENTRY_DTYPE.itemsize == 36

KEY_SIZE: Final = 8  # u64: hash << 32 | position
PRODUCER: Final = Struct("<QQ")  # mix, position
PRODUCER_DTYPE: Final = np.dtype([("mix", "<u8"), ("position", "<u8")])
assert PRODUCER.size == PRODUCER_DTYPE.itemsize == 16

RUNS_PER_FENCE: Final = BLOCK_SIZE // RUN.size  # 256: the directory starts the body, so a stride is one block
KEYS_PER_FENCE: Final = 1024
PRODUCERS_PER_FENCE: Final = 512


def fence_count(items: int, stride: int) -> int:
    return -(-items // stride)


@dataclass(slots=True)
class Layout:
    """Where things lie, as the counts of the header say."""

    queues: int
    frames: int
    keys: int
    producers: int

    @property
    def entries_at(self) -> int:
        return self.queues * RUN.size

    @property
    def keys_at(self) -> int:
        return self.entries_at + self.frames * ENTRY.size

    @property
    def producers_at(self) -> int:
        return self.keys_at + self.keys * KEY_SIZE

    @property
    def body_size(self) -> int:
        return self.producers_at + self.producers * PRODUCER.size

    @property
    def fences(self) -> tuple[int, int, int]:
        """How many u64 values the fences of directory, producers and keys have."""
        return (
            fence_count(self.queues, RUNS_PER_FENCE),
            fence_count(self.producers, PRODUCERS_PER_FENCE),
            fence_count(self.keys, KEYS_PER_FENCE),
        )

    @property
    def head_size(self) -> int:
        return HEADER_SIZE + 8 * sum(self.fences) + 4 * fence_count(self.body_size, BLOCK_SIZE) + 4
