"""Building the .idx file of a frozen segment: rows grouped by queue with numpy, keys and producers sorted.

Runs in a thread: it reads what is frozen and nothing else. The large steps (sorts, gathers, checksums) let other
threads run.
"""

from __future__ import annotations

import zlib
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store.indexformat import (
    BLOCK_SIZE,
    ENTRY_DTYPE,
    HEADER,
    INDEX_MAGIC,
    INDEX_VERSION,
    KEY_SIZE,
    KEYS_PER_FENCE,
    PRODUCER_DTYPE,
    PRODUCERS_PER_FENCE,
    RUN_DTYPE,
    RUNS_PER_FENCE,
    Layout,
)
from kourou.broker.store.openindex import NO_TIME, OpenIndex


def build_index(frozen: OpenIndex) -> list[bytes | memoryview]:
    """The parts of the file, to be written one after the other."""
    links = frozen.links
    assert links is not None, "only a frozen segment is built"
    mixes = np.frombuffer(frozen.mixes, np.uint64) if frozen.count else np.empty(0, np.uint64)
    produced = np.flatnonzero(mixes)
    keys = frozen.key_pairs()
    layout = Layout(len(links.numbers), frozen.count, len(keys), len(produced))
    body = np.zeros(layout.body_size, np.uint8)
    directory = _section(body, 0, RUN_DTYPE, layout.queues)
    entries = _section(body, layout.entries_at, ENTRY_DTYPE, layout.frames)
    producers = _section(body, layout.producers_at, PRODUCER_DTYPE, layout.producers)
    _section(body, layout.keys_at, np.dtype("<u8"), layout.keys)[:] = keys
    if frozen.count:
        _group(frozen, directory, entries)
        _sort_producers(frozen, mixes, produced, producers)
    times = entries["store_ms"]
    bounds = (int(times.min()), int(times.max())) if frozen.count else (NO_TIME, NO_TIME)
    fences = [directory["key"][::RUNS_PER_FENCE], producers["mix"][::PRODUCERS_PER_FENCE], keys[::KEYS_PER_FENCE]]
    return [_head(frozen, layout, bounds, fences, body.data), body.data]


def _section(body: NDArray[np.uint8], at: int, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    return body[at : at + count * dtype.itemsize].view(dtype)


def _group(frozen: OpenIndex, directory: NDArray[Any], entries: NDArray[Any]) -> None:
    """Sort the rows by key of the queue and place in the log, and fill directory and entries."""
    links = frozen.links
    assert links is not None
    rows = frozen.view()
    by_key = links.keys.argsort()
    rank = np.empty(len(by_key), np.uint64)  # of each queue, as links has them, in the order of keys
    rank[by_key] = np.arange(len(by_key), dtype=np.uint64)
    # Rank and ordinal in one number: sorting these is several times faster than a stable argsort.
    order = rank[links.numbers.searchsorted(rows["queue"])] << np.uint64(32)
    order |= np.arange(frozen.count, dtype=np.uint64)
    order.sort()
    ranks = order >> np.uint64(32)
    order &= np.uint64(0xFFFFFFFF)
    for name in ENTRY_DTYPE.names or ():
        entries[name] = rows[name][order]
    starts = np.flatnonzero(np.diff(ranks, prepend=ranks[:1] + np.uint64(1)))
    lasts = np.append(starts[1:], frozen.count) - 1
    directory["key"] = links.keys[by_key]
    directory["first_offset"] = entries["queue_offset"][starts]
    directory["next_offset"] = entries["queue_offset"][lasts] + entries["count"][lasts]
    directory["latest_ms"] = entries["store_ms"][lasts]
    directory["previous"] = links.previous[by_key]
    directory["skip"] = links.skip[by_key]
    directory["first_row"] = starts
    directory["rows"] = lasts - starts + 1
    directory["depth"] = links.depth[by_key]


def _sort_producers(
    frozen: OpenIndex, mixes: NDArray[np.uint64], produced: NDArray[np.intp], producers: NDArray[Any]
) -> None:
    order = produced[mixes[produced].argsort(kind="stable")]  # stable: of equal ones the newest is last
    producers["mix"] = mixes[order]
    producers["position"] = frozen.view()["position"][order]


def _head(
    frozen: OpenIndex, layout: Layout, times: tuple[int, int], fences: list[NDArray[np.uint64]], body: memoryview
) -> bytes:
    header = HEADER.pack(
        INDEX_MAGIC, INDEX_VERSION, BLOCK_SIZE, frozen.base, frozen.end, *times, layout.queues, layout.frames,
        layout.keys, layout.producers, layout.body_size, layout.head_size, 0,
    )[:-4]  # fmt: skip
    checksums = array("I", [zlib.crc32(body[at : at + BLOCK_SIZE]) for at in range(0, len(body), BLOCK_SIZE)])
    head = b"".join([header, zlib.crc32(header).to_bytes(4, "little"), *(fence.astype("<u8").tobytes() for fence in fences)])
    head += checksums.tobytes()
    head += zlib.crc32(head).to_bytes(4, "little")
    assert len(head) == layout.head_size
    return head


assert KEY_SIZE == 8
