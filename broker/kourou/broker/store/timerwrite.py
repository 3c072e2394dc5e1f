"""Writing buckets of timers: from the log, or from older buckets.

Both are jobs for a thread: ``run`` is *blocking* and touches only files and what it was handed; everything else is quick
and belongs to the owner of the store. While a job runs some of its timers may be delivered or recalled; ``retired`` says
which, when the bucket is about to be told to the log. A file that nobody told the log about is swept at the next start.

The thread shares the interpreter with the event loop, so nothing here is one long call: numpy where it lets go of the
lock, otherwise steps of a frame, or of a mebibyte.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store.commitlog import CommitLog
from kourou.broker.store.files import Files
from kourou.broker.store.timerfile import TimerFile
from kourou.broker.store.timerformat import BLOCK, ENTRY_DTYPE, FOLDER, Entries, bucket_name, place_records
from kourou.core import compression, frame
from kourou.core.errors import Corrupted, KourouError
from kourou.core.frame import PREFIX_SIZE, Buffer, Column

CHUNK = 1024 * 1024
SPAN_BYTES_MAX = 16 * CHUNK  # where much between is left out, records are read one by one
Place = tuple[int, int]  # log offset of a frame, record in it
Longs = NDArray[np.int64]
Columns = tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint64]]


class PageColumns(Protocol):
    """A page of timers in memory, as ``machines.timers`` copies it."""

    number: int
    limit_ms: int
    offsets: array[int]
    starts: array[int]
    records: array[int]
    part_lanes: array[int]
    due: array[int]
    alive: bytes
    lanes: array[int]


@dataclass(slots=True)
class Written:
    """A bucket file. ``start`` and ``end`` are places in the log, between which all of its timers were stored."""

    number: int
    due: Longs  # by position
    start: Place
    end: Place
    size: int = 0
    checksum: int = 0


def write_bucket(
    files: Files, number: int, count: int, blocks: Iterable[Entries], records: Iterable[Buffer]
) -> tuple[int, int]:
    """(size, checksum) of the file, durably. ``blocks`` are its entries in order, 1,024 at a time, ``records`` theirs."""
    name = bucket_name(number)
    temporary = f"{name}.tmp"
    pieces, checksum = place_records(number, count, blocks)
    files.remove(temporary)
    file = files.open(temporary)
    try:
        for piece in pieces:
            file.append([piece])
        some: list[Buffer] = []
        size = 0
        for record in records:
            some.append(record)
            size += len(record)
            if size >= CHUNK or len(some) >= BLOCK:
                file.append([b"".join(some)])
                some, size = [], 0
        file.append([b"".join(some)])
        file.sync()
        size = file.size
        file.close()
        files.rename(temporary, name)
        files.sync_folder(FOLDER)
    except KourouError:
        file.close()
        files.remove(temporary)
        raise
    return size, checksum


class Spill:
    """Moves timers that are due at or after ``from_ms`` out of pages in memory: their messages come from the log.

    Stops behind ``rows_max``, or ``bytes_max``, of them. ``lost`` counts those whose frames can't be read, by incarnation.
    """

    def __init__(
        self,
        files: Files,
        log: CommitLog,
        pages: Sequence[PageColumns],
        *,
        number: int,
        from_ms: int,
        rows_min: int,
        rows_max: int,
        bytes_max: int,
    ) -> None:
        self.number = number
        self.from_ms = from_ms
        self.lost: dict[int, int] = {}
        self.damaged: list[tuple[int, str]] = []  # log offset, reason
        self.written: Written | None = None
        self._files = files
        self._log = log
        self._pages = pages
        self._rows_min = rows_min  # fewer: nothing is written
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._chosen: list[NDArray[np.int64]] = []  # of each page, the numbers of the timers that go
        self._position_of: NDArray[np.int64] = np.zeros(0, np.int64)  # by row in log order; -1: lost
        self.rows = 0
        self.is_partial = False  # there was more

    def run(self) -> None:
        """Raises DiskFull, FlushFailed, DamagedLog."""
        columns: list[Columns] = []
        for page in self._pages:
            columns.append(self._choose(page))
            self.rows += len(columns[-1][0])
            if self.rows >= self._rows_max:
                break
        if self.rows < self._rows_min:
            return
        self.is_partial = len(columns) < len(self._pages)
        self._pages = self._pages[: len(columns)]
        due, offsets, records, lanes = (np.concatenate([each[number] for each in columns]) for number in range(4))
        found = _Found()
        self._read_frames(offsets, records, lanes, found)
        if self.rows < len(due):
            self.is_partial = True
            end = int(offsets[self.rows]), int(records[self.rows])
        else:
            last = self._pages[-1]
            end = last.offsets[-1], last.records[-1] + len(last.due) - last.starts[-1]
        rows = np.flatnonzero(np.frombuffer(found.whole, np.bool_))
        order = rows[np.lexsort((records[rows], offsets[rows], due[rows]))]
        self._position_of = np.full(self.rows, -1, np.int64)
        self._position_of[order] = np.arange(len(order))
        start = self._pages[0].offsets[0], self._pages[0].records[0]
        written = Written(self.number, due[order], start, end)
        if len(order):
            columns_of = {"due": due, "log_offset": offsets, "record": records, **found.columns()}
            columns_of["incarnation"], columns_of["queue"] = lanes >> np.uint64(32), lanes & np.uint64(0xFFFFFFFF)

            def blocks() -> Iterator[Entries]:
                for at in range(0, len(order), BLOCK):
                    some = order[at : at + BLOCK]
                    block = np.zeros(len(some), ENTRY_DTYPE)
                    for name, values in columns_of.items():
                        block[name] = values[some]
                    yield block

            bodies = map(found.body, _steps(order))
            written.size, written.checksum = write_bucket(self._files, self.number, len(order), blocks(), bodies)
        self.written = written

    def _choose(self, page: PageColumns) -> Columns:
        """(due time, log offset, record, lane) of the timers of a page that go."""
        due = np.frombuffer(page.due, np.int64)
        chosen = np.flatnonzero((np.frombuffer(page.alive, np.uint8) != 0) & (due >= self.from_ms) & (due < page.limit_ms))
        self._chosen.append(chosen)
        starts = np.frombuffer(page.starts, np.uint16)
        part = np.searchsorted(starts, chosen, "right") - 1
        records = np.frombuffer(page.records, np.uint16)[part] + (chosen - starts[part]).astype(np.uint32)
        lanes = np.frombuffer(page.lanes, np.uint64)[np.frombuffer(page.part_lanes, np.uint16)[part]]
        return due[chosen], np.frombuffer(page.offsets, np.uint64)[part], records.astype(np.uint32), lanes

    def _read_frames(
        self, offsets: NDArray[np.uint64], records: NDArray[np.uint32], lanes: NDArray[np.uint64], found: _Found
    ) -> None:
        heads = np.flatnonzero(np.diff(offsets, prepend=offsets[0] + np.uint64(1))).tolist()
        for head, upto in zip(heads, [*heads[1:], len(offsets)], strict=True):
            if found.size and found.size >= self._bytes_max:
                self.rows = head
                return
            offset, numbers = int(offsets[head]), records[head:upto].tolist()
            try:
                found.take(self._log.read_frame(offset), numbers)
            except Corrupted as failure:
                found.miss(len(numbers))
                self.damaged.append((offset, str(failure)))
                incarnation = int(lanes[head]) >> 32
                self.lost[incarnation] = self.lost.get(incarnation, 0) + len(numbers)

    def retired(self, alive: Callable[[int], bytes]) -> Longs:
        """Positions of what is not in memory any more, ascending. ``alive`` answers which timers of a page are, none if
        it is gone."""
        found = [np.zeros(0, np.int64)]
        first = 0
        for page, chosen in zip(self._pages, self._chosen, strict=True):
            now = alive(page.number)
            rows = self._position_of[first : first + len(chosen)]
            first += len(chosen)
            if now[: len(page.alive)] == page.alive:
                continue
            still = np.frombuffer(now, np.uint8) if now else np.zeros(len(page.alive), np.uint8)
            positions = rows[still[chosen[: len(rows)]] == 0]
            found.append(positions[positions >= 0])
        return np.sort(np.concatenate(found))


@dataclass(slots=True)
class _Found:
    """The messages of a spill, in log order. The frames they lie in are held, and no object for each of them."""

    whole: bytearray = field(default_factory=bytearray)
    producer: array[int] = field(default_factory=lambda: array("Q"))
    sequence: array[int] = field(default_factory=lambda: array("Q"))
    born: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    properties: array[int] = field(default_factory=lambda: array("I"))
    crc: array[int] = field(default_factory=lambda: array("I"))
    frames: list[Buffer] = field(default_factory=list)  # the records of each
    frame_of: array[int] = field(default_factory=lambda: array("I"))
    starts: array[int] = field(default_factory=lambda: array("I"))
    size: int = 0  # of what is held in memory

    def body(self, row: int) -> Buffer:
        start = self.starts[row]
        return memoryview(self.frames[self.frame_of[row]])[start : start + self.sizes[row]]

    def _arrays(self) -> dict[str, array[int]]:
        return {
            "producer": self.producer, "sequence": self.sequence, "born": self.born, "size": self.sizes,
            "properties": self.properties, "crc": self.crc,
        }  # fmt: skip

    def columns(self) -> dict[str, NDArray[Any]]:
        return {name: np.frombuffer(values, values.typecode) for name, values in self._arrays().items()}

    def take(self, data: bytes, numbers: list[int]) -> None:
        """Records of a frame. Raises Corrupted."""
        header = frame.parse_sealed(data, PREFIX_SIZE)
        at = PREFIX_SIZE + header.records_at
        records: Buffer = memoryview(data)[at : at + header.records_size]
        if header.compression:
            records = compression.inflate(header.compression, records, header.raw_size)
        bounds = frame.record_bounds(data, PREFIX_SIZE, header)
        sizes = frame.column(data, PREFIX_SIZE, header, Column.PROPERTY_SIZES)
        deltas = frame.column(data, PREFIX_SIZE, header, Column.BORN_DELTAS)
        count = len(numbers)
        self.producer.extend([header.producer_id] * count)
        self.sequence.extend([header.sequence] * count)
        self.born.extend([header.born_ms + (deltas[number] if deltas is not None else 0) for number in numbers])
        self.sizes.extend([bounds[number + 1] - bounds[number] for number in numbers])
        self.properties.extend([sizes[number] if sizes is not None else 0 for number in numbers])
        self.crc.extend([zlib.crc32(records[bounds[number] : bounds[number + 1]]) for number in numbers])
        self.starts.extend([bounds[number] for number in numbers])
        self.frame_of.extend([len(self.frames)] * count)
        self.frames.append(records)
        self.whole += b"\1" * count
        self.size += len(records)

    def miss(self, count: int) -> None:
        for values in self._arrays().values():
            values.extend([0] * count)
        self.starts.extend([0] * count)
        self.frame_of.extend([0] * count)
        self.whole += bytes(count)


@dataclass(slots=True)
class Source:
    """A bucket to be merged, as it was when the job was made: what is retired in it is left out."""

    number: int
    checksum: int
    floor: int
    bits: bytes
    start: Place
    end: Place


class Merge:
    """Makes one bucket of several, or of one with much in it that is retired."""

    def __init__(
        self,
        files: Files,
        sources: Sequence[Source],
        *,
        number: int,
        moved: frozenset[Place],
        deleted: Callable[[int], bool],
    ) -> None:
        self.number = number
        self.sources = sources
        self.written: Written | None = None
        self._files = files
        self._moved = moved
        self._deleted = deleted
        self._rows: list[tuple[Longs, Longs]] = []  # of each source (new positions, old positions), both ascending
        self._places: Callable[[frozenset[Place]], Longs] = lambda places: np.zeros(0, np.int64)

    def run(self) -> None:
        """Raises DiskFull, FlushFailed, DamagedLog."""
        opened = [TimerFile(self._files, source.number, checksum=source.checksum) for source in self.sources]
        left = [file.head.count - source.floor for file, source in zip(opened, self.sources, strict=True)]
        entries = np.zeros(sum(left), ENTRY_DTYPE)
        olds: list[Longs] = []
        count = 0
        for source, file in zip(self.sources, opened, strict=True):
            kept: list[Longs] = []
            for first, block in file.blocks(floor=source.floor):
                positions = np.flatnonzero(self._is_kept(source, first, block))
                entries[count : count + len(positions)] = block[positions]
                count += len(positions)
                kept.append(positions + first)
            olds.append(np.concatenate(kept) if kept else np.zeros(0, np.int64))
        entries = entries[:count]
        order = np.lexsort((entries["record"], entries["log_offset"], entries["due"]))
        position_of = np.empty(count, np.int64)
        position_of[order] = np.arange(count)
        ends = np.cumsum([0, *(len(old) for old in olds)])
        self._rows = [(position_of[ends[number] : ends[number + 1]], old) for number, old in enumerate(olds)]
        start, end = min(source.start for source in self.sources), max(source.end for source in self.sources)
        written = Written(self.number, entries["due"][order], start, end)
        if count:
            offsets, records = entries["log_offset"][order], entries["record"][order]
            self._places = lambda places: _at(offsets, records, places)
            blocks = (entries[order[at : at + BLOCK]] for at in range(0, count, BLOCK))
            origin = np.repeat(np.arange(len(olds)), [len(old) for old in olds])[order]
            copied = _copied(opened, origin, entries["place"][order], entries["size"][order])
            written.size, written.checksum = write_bucket(self._files, self.number, count, blocks, copied)
        self.written = written

    def _is_kept(self, source: Source, first: int, block: Entries) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = np.arange(first, first + len(block)) >= source.floor
        if source.bits:
            bits = np.frombuffer(source.bits, np.uint8)[first // 8 : (first + len(block) + 7) // 8]
            kept &= np.unpackbits(bits, bitorder="little")[: len(block)] == 0
        kept[_at(block["log_offset"], block["record"], self._moved)] = False
        gone = [topic for topic in np.unique(block["incarnation"]).tolist() if self._deleted(topic)]
        if gone:
            kept &= ~np.isin(block["incarnation"], gone)
        return kept

    def retired(self, now: Callable[[int], tuple[int, bytes]], moved: frozenset[Place]) -> Longs:
        """Positions of what was retired meanwhile, ascending. ``now`` answers floor and bits of a source."""
        found = [self._places(moved)]
        for source, (new, old) in zip(self.sources, self._rows, strict=True):
            floor, bits = now(source.number)
            found.append(new[: np.searchsorted(old, floor)])
            if bits != source.bits:
                before = np.frombuffer(source.bits or bytes(len(bits)), np.uint8)
                changed = np.flatnonzero(np.frombuffer(bits, np.uint8) != before)
                positions = (changed[:, None] * 8 + np.arange(8)).ravel()
                positions = positions[[bool(bits[at >> 3] >> (at & 7) & 1) for at in positions.tolist()]]
                rows = np.searchsorted(old, positions)
                rows = rows[rows < len(old)]
                found.append(new[rows[np.isin(old[rows], positions)]])
        return np.unique(np.concatenate(found))


def _at(offsets: NDArray[np.uint64], records: NDArray[np.uint32], places: frozenset[Place]) -> Longs:
    """Which entries are at one of some places."""
    if not places:
        return np.zeros(0, np.int64)
    maybe = np.flatnonzero(np.isin(offsets, np.array([at for at, _ in places], np.uint64)))
    return np.array([at for at in maybe.tolist() if (int(offsets[at]), int(records[at])) in places], np.int64)


def _steps(order: NDArray[np.int64]) -> Iterator[int]:
    for at in range(0, len(order), BLOCK):
        yield from order[at : at + BLOCK].tolist()


def _copied(
    files: Sequence[TimerFile], origin: NDArray[np.int64], places: NDArray[np.uint64], sizes: NDArray[np.uint32]
) -> Iterator[Buffer]:
    """The records of entries, each file read from its start to its end. What is damaged stays so, and is found out by
    its checksum when it is delivered."""
    ends = np.cumsum(sizes.astype(np.uint64))
    at = 0
    while at < len(origin):
        upto = max(at + 1, int(np.searchsorted(ends, (ends[at - 1] if at else 0) + np.uint64(CHUNK), "right")))
        upto = min(upto, at + 4096)
        spans: dict[int, tuple[int, memoryview]] = {}
        for number in np.unique(origin[at:upto]).tolist():
            rows = np.flatnonzero(origin[at:upto] == number) + at
            start = int(places[rows[0]])
            size = int(places[rows[-1]]) + int(sizes[rows[-1]]) - start
            if size <= SPAN_BYTES_MAX:
                spans[number] = start, memoryview(files[number].read(start, size))
        for number, place, size in zip(
            origin[at:upto].tolist(), places[at:upto].tolist(), sizes[at:upto].tolist(), strict=True
        ):
            if number in spans:
                start, data = spans[number]
                yield data[place - start : place - start + size]
            else:
                yield files[number].read(place, size)
        at = upto
