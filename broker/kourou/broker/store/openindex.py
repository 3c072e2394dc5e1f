"""The index of the open segment: one row a frame in memory, and for every queue the ordinals of its rows (of one
row, mostly, where there are very many queues: then it is a number, which the garbage collector does not walk).

Rows lie in one growing bytearray (packed with one ``struct`` call, read back as a numpy view), the mixes of producer
and sequence in an array of their own, so that looking for one scans 8 bytes a frame. A frame costs 48 bytes and 4 for
its ordinal; a queue that occurs costs about 200 more until the segment is sealed.

When the log rolls, ``freeze`` gives the segment its links to older ones; it then answers as before and is never changed
again, so that a thread can build the file from it.

Store times in rows are *effective*: the running maximum over the queue's frames, never going back when a clock does.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kourou.core.widedict import WideDict

NO_SEGMENT: Final = 2**64 - 1  # a link that leads nowhere
NO_TIME: Final = -(2**63)

_MIX: Final = 0x9E3779B97F4A7C15  # odd, so that a producer's sequences never meet
_U64: Final = 2**64 - 1

ROW: Final = Struct("<IIIIQQq")
ROW_DTYPE: Final = np.dtype(
    [
        ("queue", "<u4"),
        ("position", "<u4"),
        ("size", "<u4"),
        ("count", "<u4"),
        ("queue_offset", "<u8"),
        ("tag_mask", "<u8"),
        ("store_ms", "<i8"),
    ]
)
assert ROW.size == ROW_DTYPE.itemsize == 40


def producer_mix(producer_id: int, sequence: int) -> int:
    """64 bits of both; 0 is kept for none. Look-ups compare the frame's own head afterwards: mixes may collide."""
    return (producer_id + sequence * _MIX) & _U64 or 1


@dataclass(slots=True)
class FrameRef:
    """Where a frame lies in the log and which records of its queue it holds."""

    log_offset: int
    size: int
    queue_offset: int
    count: int
    tag_mask: int


@dataclass(slots=True)
class QueueRun:
    """A queue's frames in one segment. ``previous`` and ``skip`` are bases of older segments that hold the queue."""

    key: int
    first_offset: int
    next_offset: int
    latest_ms: int  # effective store time of the last frame: no earlier frame of the queue has a later one
    previous: int
    skip: int
    first_row: int
    rows: int
    depth: int  # this is the depth-th segment that holds the queue, from 1; skip leads to the (depth & depth - 1)-th


class Segment(Protocol):
    """What a segment's index answers, in memory or from its file. A run is only good for the segment it came from."""

    base: int
    end: int  # log offset behind the segment

    def find(self, key: int, number: int) -> QueueRun | None: ...
    def row(self, run: QueueRun, index: int) -> tuple[int, int, int]: ...  # queue offset, count, effective store time
    def refs(self, run: QueueRun, index: int, limit: int) -> list[FrameRef]: ...
    def by_key(self, hashed: int, limit: int, newest: bool) -> list[int]: ...  # log offsets, ascending
    def by_producer(self, mix: int) -> int | None: ...


def index_of_offset(segment: Segment, run: QueueRun, queue_offset: int) -> int:
    """The first frame of the run that ends behind the queue offset."""

    def is_behind(index: int) -> bool:
        first, count, _ = segment.row(run, index)
        return first + count > queue_offset

    return bisect_left(range(run.rows), True, key=is_behind)


def index_of_time(segment: Segment, run: QueueRun, ms: int) -> int:
    """The first frame of the run with an effective store time of at least ``ms``."""
    return bisect_left(range(run.rows), ms, key=lambda index: segment.row(run, index)[2])


@dataclass(slots=True)
class Links:
    """A frozen segment's queues, ascending by number, and where each occurs before."""

    numbers: NDArray[np.uint32]
    keys: NDArray[np.uint64]
    depth: NDArray[np.uint32]
    previous: NDArray[np.uint64]
    skip: NDArray[np.uint64]


def distinct(ascending: NDArray[Any]) -> NDArray[Any]:
    """Without repeats. As ``numpy.unique``, which imports ``numpy.ma`` when it is first called: 9 ms, on the loop."""
    return ascending[np.append(True, ascending[1:] != ascending[:-1])] if len(ascending) else ascending


class OpenIndex:
    """Rows of one segment. Numbers are the queue table's. ``end`` moves with every frame until it is frozen."""

    __slots__ = (
        "base",
        "count",
        "end",
        "key_ends",
        "key_hashes",
        "key_rows",
        "links",
        "mixes",
        "numbers",
        "ordinals",
        "rows",
    )

    def __init__(self, base: int) -> None:
        self.base = base
        self.end = base
        self.count = 0
        self.rows = bytearray()
        self.mixes: array[int] = array("Q")  # 0 where a frame has no producer
        self.ordinals: WideDict[int, int | array[int]] = WideDict()
        self.numbers: array[int] = array("I")  # of the queues, as they came
        self.key_hashes: array[int] = array("I")
        self.key_rows: array[int] = array("I")  # frames that have keys ...
        self.key_ends: array[int] = array("Q")  # ... and where each one's hashes end
        self.links: Links | None = None

    def add(
        self,
        number: int,
        queue_offset: int,
        log_offset: int,
        size: int,
        count: int,
        tag_mask: int,
        store_ms: int,
        mix: int,
        key_hashes: NDArray[np.uint32] | None,
    ) -> None:
        ordinal = self.count
        self.rows += ROW.pack(number, log_offset - self.base, size, count, queue_offset, tag_mask, store_ms)
        self.mixes.append(mix)
        ordinals = self.ordinals.get(number)
        if ordinals is None:
            self.ordinals[number] = ordinal
            self.numbers.append(number)
        elif isinstance(ordinals, int):
            self.ordinals[number] = array("I", (ordinals, ordinal))
        else:
            ordinals.append(ordinal)
        self.count = ordinal + 1
        self.end = log_offset + size
        if key_hashes is not None:
            self.key_hashes.frombytes(key_hashes.tobytes())
            self.key_rows.append(ordinal)
            self.key_ends.append(len(self.key_hashes))

    def freeze(self, links: Links, end: int) -> None:
        self.links, self.end = links, end

    def queues(self) -> NDArray[np.uint32]:
        """Numbers of the queues, ascending."""
        return np.sort(np.array(self.numbers, np.uint32))

    def ordinals_of(self, number: int) -> Sequence[int]:
        """Of a queue's rows; empty where it does not occur."""
        ordinals = self.ordinals.get(number)
        if ordinals is None:
            return ()
        return (ordinals,) if isinstance(ordinals, int) else ordinals

    def find(self, key: int, number: int) -> QueueRun | None:
        ordinals = self.ordinals_of(number)
        if not ordinals:
            return None
        first_offset = ROW.unpack_from(self.rows, ordinals[0] * ROW.size)[4]
        _, _, _, count, last_offset, _, latest_ms = ROW.unpack_from(self.rows, ordinals[-1] * ROW.size)
        run = QueueRun(key, first_offset, last_offset + count, latest_ms, NO_SEGMENT, NO_SEGMENT, number, len(ordinals), 0)
        if (links := self.links) is not None:
            at = int(links.numbers.searchsorted(np.uint32(number)))
            run.depth = int(links.depth[at])
            run.previous, run.skip = int(links.previous[at]), int(links.skip[at])
        return run

    def row(self, run: QueueRun, index: int) -> tuple[int, int, int]:
        _, _, _, count, queue_offset, _, store_ms = ROW.unpack_from(
            self.rows, self.ordinals_of(run.first_row)[index] * ROW.size
        )
        return queue_offset, count, store_ms

    def refs(self, run: QueueRun, index: int, limit: int) -> list[FrameRef]:
        unpack, rows, base = ROW.unpack_from, self.rows, self.base
        found = []
        for ordinal in self.ordinals_of(run.first_row)[index : index + limit]:
            _, position, size, count, queue_offset, tag_mask, _ = unpack(rows, ordinal * 40)
            found.append(FrameRef(base + position, size, queue_offset, count, tag_mask))
        return found

    def by_key(self, hashed: int, limit: int, newest: bool) -> list[int]:
        """Log offsets, ascending: a scan of all hashes (4 bytes each), bounded by the size of a segment."""
        if not self.key_rows:
            return []
        hits = np.flatnonzero(np.frombuffer(self.key_hashes, np.uint32) == hashed).astype(np.uint64)
        if not len(hits):
            return []
        frames = distinct(np.frombuffer(self.key_ends, np.uint64).searchsorted(hits, side="right"))
        frames = frames[-limit:] if newest else frames[:limit]
        return [self._log_offset(self.key_rows[frame]) for frame in frames.tolist()]

    def by_producer(self, mix: int) -> int | None:
        if not self.count:
            return None
        hits = np.flatnonzero(np.frombuffer(self.mixes, np.uint64) == np.uint64(mix))
        return self._log_offset(int(hits[-1])) if len(hits) else None

    def _log_offset(self, ordinal: int) -> int:
        return self.base + int(ROW.unpack_from(self.rows, ordinal * ROW.size)[1])

    def view(self) -> NDArray[Any]:
        """All rows. The bytearray can't grow while the view lives: keep it only of a frozen segment."""
        rows: NDArray[Any] = np.frombuffer(self.rows, ROW_DTYPE)
        return rows

    def key_pairs(self) -> NDArray[np.uint64]:
        """hash << 32 | position of every key, sorted, without repeats."""
        if not self.key_rows:
            return np.empty(0, np.uint64)
        ends = np.frombuffer(self.key_ends, np.uint64)
        positions: NDArray[np.uint32] = self.view()["position"][np.frombuffer(self.key_rows, np.uint32)]
        pairs = np.frombuffer(self.key_hashes, np.uint32).astype(np.uint64) << np.uint64(32)
        pairs |= np.repeat(positions, np.diff(ends, prepend=np.uint64(0)).astype(np.int64))
        pairs.sort()
        return distinct(pairs)

    def prefix(self, log_offset: int) -> OpenIndex:
        """A new open segment with the frames before the log offset."""
        kept = int(self.view()["position"].searchsorted(max(log_offset - self.base, 0)))
        keyed = bisect_left(self.key_rows, kept)
        cut = OpenIndex(self.base)
        cut.restore(
            bytearray(memoryview(self.rows)[: kept * ROW.size]),
            self.mixes[:kept],
            self.key_hashes[: self.key_ends[keyed - 1] if keyed else 0],
            self.key_rows[:keyed],
            self.key_ends[:keyed],
        )
        return cut

    def restore(
        self, rows: bytearray, mixes: array[int], key_hashes: array[int], key_rows: array[int], key_ends: array[int]
    ) -> None:
        """Take over rows that were exported, cut, or read back from a file; ordinals are made anew."""
        self.rows, self.mixes = rows, mixes
        self.key_hashes, self.key_rows, self.key_ends = key_hashes, key_rows, key_ends
        self.count = len(rows) // ROW.size
        self.end = self.base
        self.ordinals, self.numbers = WideDict(), array("I")
        if not self.count:
            return
        last = ROW.unpack_from(rows, len(rows) - ROW.size)
        self.end = self.base + last[1] + last[2]
        queues: NDArray[np.uint32] = np.frombuffer(rows, ROW_DTYPE)["queue"].copy()
        order: NDArray[np.uint32] = queues.argsort(kind="stable").astype(np.uint32)
        numbers, starts = np.unique(queues[order], return_index=True)
        ordinals = array("I", order.tobytes())
        stops = [*starts.tolist()[1:], self.count]
        self.numbers.frombytes(numbers.astype(np.uint32).tobytes())
        for number, start, stop in zip(numbers.tolist(), starts.tolist(), stops, strict=True):
            self.ordinals[number] = ordinals[start] if stop == start + 1 else ordinals[start:stop]

    def last_rows(self) -> Iterator[tuple[int, int, int]]:
        """(number, next queue offset, effective store time) of every queue's last frame."""
        for number in self.numbers:
            last = self.ordinals_of(number)[-1]
            _, _, _, count, queue_offset, _, store_ms = ROW.unpack_from(self.rows, last * ROW.size)
            yield number, queue_offset + count, store_ms
