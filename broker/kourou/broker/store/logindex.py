"""The index of the log: which frames hold a queue's records, and frames by time, key and producer.

An index entry describes a frame, not a record. Entries of the open segment are in memory (``openindex``); a sealed
segment's are in its .idx file (``indexfile``), read in blocks when they are needed. There is no file per queue. What is
known of every queue (``queuetable``) is in memory always, so bounds and reads near the end touch no file.

An old offset is found by following links from the newest segment that holds the queue: ``previous`` to the one before,
``skip`` over a power of two of them. Who reads on from there finds the next segment by looking into the directories of
the next few, and only if they don't have the queue by a new search.

Store times may step back with the wall clock. Every frame therefore has an *effective* time, the maximum over its
queue's frames so far, and by_time searches these: it answers the start of everything that was stored at ``ms`` or
after, and never skips a frame because its neighbour's clock was ahead. What was dropped still counts for the maximum,
until a rebuilt segment or a truncation can't know of it any more.

The life of a segment: open → ``roll`` → sealing (frozen in memory, still answering) → ``build_sealed`` in a thread, the
parts written to the file → ``adopt_sealed``. Opening a data directory: ``import_open`` of the newest snapshot if there
is one, then ``load_sealed`` for every closed segment, oldest first; where it raises, ``rebuild`` that segment from the
log, write the parts, and load it again; then ``add`` what follows in the log. Without a snapshot ``load_sealed`` reads
every directory, after one only the heads.

No I/O but through the reader. One thread uses an index; ``build_sealed`` and ``IndexRebuild.build`` may run in others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store.indexbuild import build_index
from kourou.broker.store.indexcut import cut_index
from kourou.broker.store.indexexport import IndexExport, import_index
from kourou.broker.store.indexfile import BlockCache, DamagedIndex, IndexFile, IndexReader, Report
from kourou.broker.store.indexrebuild import IndexRebuild
from kourou.broker.store.openindex import NO_SEGMENT, FrameRef, OpenIndex, index_of_time, producer_mix
from kourou.broker.store.queuetable import QueueTable
from kourou.broker.store.segmentmap import Place, Segment, SegmentMap
from kourou.core.errors import DamagedLog

CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
SEGMENTS_PER_READ: Final = 16  # one call of refs looks into no more, so that a sparse queue can't hold the loop


def index_name(base: int) -> str:
    return f"{base:020d}.idx"


class LogIndex:
    """Façade of one log's index. ``name`` says where the .idx of a segment is, in the reader's words."""

    def __init__(
        self,
        files: IndexReader,
        *,
        base: int = 0,
        name: Callable[[int], str] = index_name,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self._files, self._name, self._cache = files, name, BlockCache(cache_bytes_max)
        self._table = QueueTable.empty()
        self._open = OpenIndex(base)
        self._map = SegmentMap()
        self._merged_below = 0  # segments with a lower base are in the table, with or without their file
        self._oldest = 0  # segments below were dropped before the table's first offsets were taken over
        self._unsettled = bytearray()  # by number of the queue: its first offset is from the snapshot
        self._foretold = bytearray()  # by number of the queue: it is known as of a later point of the log than its end
        self.report: Report = DamagedIndex  # what is raised when a read meets damage in the .idx of a segment

    # ---- the open segment

    def add(
        self,
        key: int,
        queue_offset: int,
        log_offset: int,
        size: int,
        count: int,
        tag_mask: int,
        store_ms: int,
        producer_id: int,
        sequence: int,
        key_hashes: NDArray[np.uint32] | None,
    ) -> None:
        """A frame was appended to the open segment. Raises DamagedLog when the log or the queue goes backwards."""
        table, opened = self._table, self._open
        if log_offset < opened.end:
            raise DamagedLog(f"frame at {log_offset} is indexed again; the index reaches to {opened.end}")
        number = table.numbers.get(key)
        if number is None:
            number = table.add(key, queue_offset)
        elif queue_offset < table.next[number]:
            self._goes_back(key, number, queue_offset, log_offset)
        table.next[number] = queue_offset + count
        if store_ms > table.latest[number]:
            table.latest[number] = store_ms
        else:
            store_ms = table.latest[number]
        mix = producer_mix(producer_id, sequence) if producer_id else 0
        opened.add(number, queue_offset, log_offset, size, count, tag_mask, store_ms, mix, key_hashes)

    def _goes_back(self, key: int, number: int, queue_offset: int, log_offset: int) -> None:
        if number >= len(self._foretold) or not self._foretold[number]:
            raise DamagedLog(
                f"queue {key:#x} goes back from {self._table.next[number]} to {queue_offset} in the frame at {log_offset}"
            )
        self._foretold[number] = 0
        self._table.first[number] = queue_offset

    @property
    def open_base(self) -> int:
        return self._open.base

    @property
    def covered(self) -> int:
        """The log offset up to which frames are indexed; frames without an entry may follow."""
        return self._open.end

    def start(self, base: int) -> None:
        """The open segment, without frames so far, starts elsewhere: the log begins there or skips to it."""
        if self._open.count or base < self._open.base:
            raise ValueError(f"the open segment at {self._open.base} can't be moved to {base}")
        self._open = OpenIndex(base)

    # ---- queries

    def next_queue_offset(self, key: int) -> int:
        number = self._table.numbers.get(key)
        return 0 if number is None else self._table.next[number]

    def min_queue_offset(self, key: int) -> int:
        number = self._table.numbers.get(key)
        if number is None:
            return 0
        if number < len(self._unsettled) and self._unsettled[number]:
            self._settle(key, number)
        return self._table.first[number]

    def digest(self) -> str:
        return self._table.digest()

    def keys(self) -> Iterable[int]:
        """Queues that ever had a frame, also those with none left."""
        return self._table.numbers

    def segments(self) -> list[int]:
        """Bases of sealed and sealing segments, ascending."""
        return list(self._map.held)

    def sealing(self) -> list[int]:
        """Bases of segments that wait for adopt_sealed, ascending."""
        return [base for base, segment in self._map.held.items() if isinstance(segment, OpenIndex)]

    def refs(self, key: int, queue_offset: int, *, limit: int) -> list[FrameRef]:
        """Frames of the queue from the one that holds the offset (else the first behind it) on, in order.

        Empty at the end of the queue, and only there. Fewer than ``limit`` does not mean the end: one call looks into
        SEGMENTS_PER_READ segments at most. When an .idx turns out to be damaged, raises what ``report`` says.
        """
        number = self._table.numbers.get(key)
        found: list[FrameRef] = []
        if number is None or queue_offset >= self._table.next[number]:
            return found
        for _ in range(SEGMENTS_PER_READ):
            place = self._locate(key, number, queue_offset)
            if place is None:
                break
            segment, run = place
            index = self._map.index(segment, run, queue_offset)
            some = segment.refs(run, index, limit - len(found))
            found += some
            if segment is self._open or not some:
                break
            queue_offset = some[-1].queue_offset + some[-1].count
            self._map.remember(key, segment.base, index + len(some))
            if len(found) >= limit or queue_offset >= self._table.next[number]:
                break
        return found

    def by_time(self, key: int, ms: int) -> int:
        """The queue offset of the first frame with an effective store time of at least ``ms``, else the next offset."""
        number = self._table.numbers.get(key)
        if number is None:
            return 0
        if self._table.latest[number] < ms:
            return self._table.next[number]
        place = self._map.earliest(key, number, self._table.last_segment(number), lambda run: run.latest_ms >= ms)
        if place is None:
            run = self._open.find(key, number)
            if run is None or run.latest_ms < ms:
                return self._table.next[number]
            place = self._open, run
        segment, run = place
        return segment.row(run, index_of_time(segment, run, ms))[0]

    def by_key(self, hash32: int, *, limit: int, newest_first: bool = True) -> list[int]:
        """Log offsets of frames that have a key with this hash. Looks into every segment until ``limit`` are found."""
        order: list[Segment] = [*self._map.held.values(), self._open]
        found: list[int] = []
        for segment in reversed(order) if newest_first else order:
            some = segment.by_key(hash32, limit - len(found), newest_first)
            found += reversed(some) if newest_first else some
            if len(found) >= limit:
                break
        return found

    def by_producer(self, producer_id: int, sequence: int) -> int | None:
        """The log offset of the newest frame with this producer and sequence. Compare them: mixes may collide."""
        mix = producer_mix(producer_id, sequence)
        for segment in (self._open, *reversed(self._map.held.values())):
            found = segment.by_producer(mix)
            if found is not None:
                return found
        return None

    # ---- the life of segments

    def roll(self, base_offset: int) -> None:
        """A new open segment starts at this log offset; the old one is frozen and still answers."""
        opened = self._open
        if base_offset < opened.end or base_offset <= opened.base:
            raise ValueError(f"the segment at {opened.base} reaches to {opened.end}; the next can't start at {base_offset}")
        segment = self._map.number(opened.base)
        bases = np.array([NO_SEGMENT, *self._map.bases], np.uint64)
        opened.freeze(self._table.link(opened, bases, segment), base_offset)
        self._map.hold(opened)
        self._merged_below = base_offset
        self._open = OpenIndex(base_offset)

    def build_sealed(self, base: int) -> list[bytes | memoryview]:
        """The parts of the .idx file of a sealing segment. May run in a thread: what it reads is frozen."""
        segment = self._map.held[base]
        if not isinstance(segment, OpenIndex):
            raise ValueError(f"the segment at {base} is sealed already")
        return build_index(segment)

    def adopt_sealed(self, base: int) -> None:
        """The file of a sealing segment is written: answer from it and let go of the memory.

        Raises KeyError when a truncation has reached the segment since; the file is then stale and must be deleted.
        """
        frozen = self._map.held[base]
        if not isinstance(frozen, OpenIndex):
            return
        file = self._file(base)
        if (file.end, file.frames) != (frozen.end, frozen.count):
            raise DamagedLog(f"{self._name(base)} is not the index of the segment at {base}")
        self._map.hold(file)

    def load_sealed(self, base: int) -> None:
        """Take up the .idx file of a closed segment. Oldest first; a segment that is known may be loaded again.

        Raises DamagedLog (also where the file is missing) or NewerFormat and changes nothing. Only the head is read and
        checked, and the directory where no snapshot covered it; other damage is found when it is read (``verify``).
        """
        file = self._file(base)
        if base >= self._merged_below:
            if self._open.count and self._open.base != base:
                raise ValueError(f"the segment at {base} is loaded after frames of the one at {self._open.base}")
            self._table.merge(file.directory(), self._map.number(base))
            self._merged_below = file.end
            self._open = OpenIndex(file.end)
        self._map.hold(file)

    def rebuild(self, base: int) -> IndexRebuild:
        """Make the .idx of a closed segment from its frames: ``add`` them all, ``build``, write, ``load_sealed``.

        Older segments must be loaded by then, for the links.
        """
        return IndexRebuild(base, self.older_than(base))

    def older_than(self, base: int) -> list[Segment]:
        return [segment for at, segment in self._map.held.items() if at < base]

    def sealed_file(self, base: int) -> IndexFile | None:
        """The file from which a segment is answered; None when there is no such segment, or it is not sealed."""
        segment = self._map.held.get(base)
        return segment if isinstance(segment, IndexFile) else None

    def verify(self, base: int) -> None:
        """Read the whole .idx of a sealed segment. Raises DamagedLog."""
        segment = self._map.held[base]
        if isinstance(segment, IndexFile):
            segment.verify()

    def drop_segment(self, base: int) -> None:
        """Retention drops the oldest segment; it must be sealed. The .idx is read once more: delete it afterwards.

        A snapshot made after the next segment began must be there: only it knows the offsets of queues that end here.
        Where the directory turns out to be damaged, what is left of each queue is looked up when somebody asks.
        """
        segment = self._map.held[base]
        if base != next(iter(self._map.held)) or not isinstance(segment, IndexFile):
            raise ValueError(f"the segment at {base} is not the oldest, or not sealed yet")
        try:
            directory = segment.directory()
        except DamagedLog:
            self._unsettled = bytearray(b"\1") * len(self._table.keys)
            self._oldest = base
        else:
            self._table.drop(directory["key"].tolist(), directory["next_offset"].tolist())
            if base == self._oldest:
                self._oldest = segment.end
        del self._map.held[base]

    def truncate(self, log_offset: int) -> list[int]:
        """Forget all frames at or above the log offset. Answers bases whose .idx files are stale: delete them.

        A sealed segment that is cut becomes the open one again.
        """
        if log_offset >= self._open.end:
            return []
        held = self._map.held
        cut = [segment for segment in held.values() if segment.end > log_offset]
        self._open = cut_index(self._table, self._map, [*cut, self._open], log_offset)
        self._map.cut(self._open.base)
        self._merged_below = min(self._merged_below, self._open.base)
        return [segment.base for segment in cut]

    # ---- snapshots

    def export(self) -> IndexExport:
        """The queue table and the open segment, for a snapshot. Sealing segments are not in it: see load_sealed."""
        oldest = next(iter(self._map.held), self._open.base)
        return IndexExport(self._table, self._open, self._map.bases, oldest)

    def export_open(self) -> list[bytes]:
        """The same in one go."""
        export = self.export()
        for _ in export.slices():
            pass
        return export.finish()

    def import_open(self, data: bytes | bytearray | memoryview) -> int:
        """Start from what export_open made; answers the log offset up to which frames are covered.

        Best called before load_sealed; when called after, newer segments are merged once more. Raises DamagedLog or
        NewerFormat and changes nothing.
        """
        if self._open.count or self.sealing():
            raise ValueError("import_open comes before the first add")
        self._table, self._open, self._map.bases, self._oldest = import_index(data)
        self._unsettled = bytearray(b"\1") * len(self._table.keys)
        self._merged_below = self._open.base
        for base in list(self._map.held):
            if base >= self._merged_below:
                self.load_sealed(base)
        return self._open.end

    def import_queues(self, data: bytes, *, covered: int) -> None:
        """What another index knew, when its log ended at ``covered``, of queues that have no frames in this one: they go on
        where they were. To be called once all that is in the log was added; frames below ``covered`` may follow yet.

        Raises DamagedLog or NewerFormat and changes nothing.
        """
        other, table = import_index(data)[0], self._table
        known = len(table.keys)
        for key, next_offset, latest in zip(other.keys, other.next, other.latest, strict=True):
            if key in table.numbers:
                continue
            table.latest[table.add(key, next_offset)] = latest
        if self.covered < covered:
            self._foretold = bytearray(known) + b"\1" * (len(table.keys) - known)

    # ---- finding segments

    def _file(self, base: int) -> IndexFile:
        return IndexFile(self._files, self._cache, self._name(base), base, report=lambda at, text: self.report(at, text))

    def _locate(self, key: int, number: int, queue_offset: int) -> Place | None:
        """The segment with the first frame that ends behind the queue offset."""
        run = self._open.find(key, number)
        if run is not None and run.first_offset <= queue_offset:
            return self._open, run
        place = self._map.locate(key, number, self._table.last_segment(number), queue_offset)
        return (self._open, run) if place is None and run is not None else place

    def _settle(self, key: int, number: int) -> None:
        """The snapshot's first offset may be of a segment that retention has dropped since: look what is there."""
        held = self._map.held
        if self._oldest in held or self._oldest == self._open.base:
            return
        place = self._map.earliest(key, number, self._table.last_segment(number), lambda run: True)
        run = place[1] if place is not None else self._open.find(key, number)
        there = run.first_offset if run is not None else self._table.next[number]
        self._table.first[number] = max(self._table.first[number], there)
        self._unsettled[number] = 0
