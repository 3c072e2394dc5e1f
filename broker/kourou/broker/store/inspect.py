"""Looking into a data directory that no broker has open, or that one has: ``kourou log inspect | verify | rebuild``.

``inspect`` and ``verify`` only read, and take no lock: beside a running broker the end of the log is seen as it was when
they came there. ``rebuild`` writes missing or damaged .idx files and takes the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store import snapshot
from kourou.broker.store.columns import check_columns
from kourou.broker.store.commitlog import index_name, list_bases, segment_name
from kourou.broker.store.files import Files
from kourou.broker.store.indexfile import BlockCache, IndexFile
from kourou.broker.store.indexrebuild import frame_entry
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.scan import Invalid, ScannedFrame, find_next, scan
from kourou.core.errors import DamagedLog, KourouError
from kourou.core.frame import Compression, Kind, queue_key

Progress = Callable[[int, int], None]  # bytes done, bytes in all
Row = tuple[int, int, int, int, int, int]  # position, size, count, queue offset, tag mask, key of a frame
CACHE_BYTES = 4 * 1024 * 1024


class _Segment:
    """A segment that is only read: nothing is created, nothing kept open."""

    def __init__(self, files: Files, base: int) -> None:
        self._files = files
        self._name = segment_name(base)
        self.size = files.size(self._name) or 0

    def read(self, offset: int, size: int) -> bytes:
        return self._files.read(self._name, offset, size)


@dataclass(slots=True)
class Problem:
    """Something that is not as it should be. ``start`` and ``end`` are log offsets."""

    file: str
    start: int
    end: int
    text: str


def segments(files: Files) -> list[dict[str, Any]]:
    """What there is: one dict a segment."""
    bases = list_bases(files, ".seg")
    found = []
    for base in bases:
        size = files.size(segment_name(base)) or 0
        index_size = files.size(index_name(base))
        found.append({"segment": base, "end": base + size, "bytes": size, "index_bytes": index_size})
    return found


def frames(files: Files, *, start: int | None = None) -> Iterator[dict[str, Any]]:
    """Every frame from a log offset on (that of a frame; default: the beginning), damage as {"damaged": ...}."""
    for base in list_bases(files, ".seg"):
        segment = _Segment(files, base)
        if start is not None and base + segment.size <= start:
            continue
        at = base if start is None else max(base, start)
        for item in _scan_all(segment, base, at):
            if isinstance(item, ScannedFrame):
                yield _describe(item)
            else:
                yield {"damaged": item.start, "end": item.end, "reason": item.text}


def _describe(item: ScannedFrame) -> dict[str, Any]:
    prefix, header = item.prefix, item.header
    return {
        "log_offset": prefix.log_offset,
        "size": prefix.size,
        "epoch": prefix.epoch,
        "store_ms": prefix.store_ms,
        "kind": Kind(header.kind).name.lower(),
        "topic": header.topic,
        "incarnation": prefix.incarnation,
        "queue_id": header.queue_id,
        "queue_offset": prefix.queue_offset,
        "records": header.record_count,
        "raw_size": header.raw_size,
        "compression": Compression(header.compression).name.lower(),
        "producer_id": header.producer_id,
        "sequence": header.sequence,
        "crc": item.crc,
    }


def _scan_all(segment: _Segment, base: int, start: int) -> Iterator[ScannedFrame | Problem]:
    """Frames, and what lies between them where the segment is damaged."""
    at: int | None = start
    while at is not None:
        following: int | None = None
        for item in scan(segment, base, at):
            if isinstance(item, Invalid):
                following = find_next(segment, base, item.log_offset + 1)
                end = following if following is not None else base + segment.size
                yield Problem(segment_name(base), item.log_offset, end, item.reason)
                break
            yield item
        at = following


def verify(files: Files, *, progress: Progress = lambda done, total: None) -> Iterator[Problem]:
    """Check every frame's checksums and place, that queues and epochs have no gaps, every index against its segment,
    and every snapshot."""
    bases = list_bases(files, ".seg")
    sizes = {base: files.size(segment_name(base)) or 0 for base in bases}
    total, done = sum(sizes.values()), 0
    order = _Order()
    for number, base in enumerate(bases):
        segment = _Segment(files, base)
        rows: list[Row] = []
        damaged: list[Problem] = []
        yield from _verify_segment(segment, base, rows, damaged, order, partial(_step, progress, done, total))
        end = base + sizes[base]
        if number + 1 < len(bases):
            if bases[number + 1] != end:
                text = "the next segment does not start where this one ends"
                yield Problem(segment_name(base), end, bases[number + 1], text)
            wrong = _index_problem(files, base, rows, damaged)
            if wrong is not None:
                yield wrong
        done += sizes[base]
        progress(done, total)
    for offset in snapshot.list_offsets(files):
        name = snapshot.snapshot_name(offset)
        try:
            snapshot.decode(files.read_all(name) or b"", name)
        except KourouError as failure:
            yield Problem(name, offset, offset, str(failure))


def _step(progress: Progress, before: int, total: int, at: int) -> None:
    progress(before + at, total)


class _Order:
    """Queue offsets follow one another, epochs never go back. ``damaged``: something may be missing since."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._epoch = 0
        self.damaged = False

    def check(self, item: ScannedFrame) -> str | None:
        prefix, key = item.prefix, queue_key(item.prefix.incarnation, item.header)
        expected = self._next.get(key, prefix.queue_offset)
        self._next[key] = prefix.queue_offset + item.header.record_count
        if prefix.epoch < self._epoch:
            return f"epoch goes back from {self._epoch} to {prefix.epoch}"
        self._epoch = prefix.epoch
        if prefix.queue_offset < expected or (prefix.queue_offset > expected and not self.damaged):
            return f"queue {key:#x} goes from queue offset {expected} to {prefix.queue_offset}"
        return None


def _verify_segment(
    segment: _Segment,
    base: int,
    rows: list[Row],
    damaged: list[Problem],
    order: _Order,
    progress: Callable[[int], None],
) -> Iterator[Problem]:
    """What is wrong with it; its frames are put into ``rows``, ranges that are none into ``damaged``."""
    name = segment_name(base)
    for number, item in enumerate(_scan_all(segment, base, base)):
        if isinstance(item, Problem):
            order.damaged = True
            damaged.append(item)
            yield item
            continue
        prefix, header = item.prefix, item.header
        end = prefix.log_offset + prefix.size
        wrong = order.check(item)
        if wrong is not None:
            yield Problem(name, prefix.log_offset, end, wrong)
        mask = 0
        if header.kind == Kind.MESSAGES:
            try:
                mask = check_columns(item.sealed, 0, header).tag_mask
            except KourouError as failure:
                yield Problem(name, prefix.log_offset, end, f"columns: {failure}")
        key = queue_key(prefix.incarnation, header)
        rows.append((prefix.log_offset - base, prefix.size, header.record_count, prefix.queue_offset, mask, key))
        if number % 1024 == 0:
            progress(end - base)


def _index_problem(files: Files, base: int, rows: list[Row], damaged: list[Problem]) -> Problem | None:
    """Why ``rebuild`` would write the index of a segment anew; None when it is sound. It may know frames of damaged ranges
    (it was made when they were whole, and readers are told of them) or not (it was made anew since)."""
    name = index_name(base)
    try:
        index = IndexFile(files, BlockCache(CACHE_BYTES), name, base)
        index.verify()
        found = _index_rows(index)
    except DamagedLog as failure:
        return Problem(name, base, base, f"{failure}; `kourou log rebuild` makes it anew")
    starts = found[:, 0] + np.uint64(base)
    for one in damaged:
        keep = (starts + found[:, 1] <= np.uint64(one.start)) | (starts >= np.uint64(one.end))
        found, starts = found[keep], starts[keep]
    expected = np.array(rows, np.uint64).reshape(-1, 6)
    if found.shape != expected.shape or not np.array_equal(found, expected):
        return Problem(name, base, base, "the index does not match its segment; `kourou log rebuild` makes it anew")
    return None


def _index_rows(index: IndexFile) -> NDArray[np.uint64]:
    """A ``Row`` of each frame, in the order of the log."""
    directory, entries = index.directory(), index.entries()
    found = np.empty((len(entries), 6), np.uint64)
    for column, field in enumerate(("position", "size", "count", "queue_offset", "tag_mask")):
        found[:, column] = entries[field]
    found[:, 5] = np.repeat(directory["key"], directory["rows"])
    return found[found[:, 0].argsort(kind="stable")]


def rebuild(files: Files, *, every: bool = False, progress: Progress = lambda done, total: None) -> list[int]:
    """Write the .idx files that are missing or do not verify, or ``every`` one; the bases of these segments.

    Takes the lock: raises Busy while a broker runs here.
    """
    files.lock()
    try:
        return _rebuild(files, every, progress)
    finally:
        files.unlock()


def _rebuild(files: Files, every: bool, progress: Progress) -> list[int]:
    bases = list_bases(files, ".seg")
    index = LogIndex(files, base=bases[0] if bases else 0, name=index_name)
    made: list[int] = []
    for number, base in enumerate(bases[:-1]):
        progress(base - bases[0], bases[-1] - bases[0])
        if every or not _is_sound(files, base):
            making = index.rebuild(base)
            for item in _scan_all(_Segment(files, base), base, base):
                if isinstance(item, ScannedFrame):
                    making.add(*frame_entry(item))
            parts = making.build(bases[number + 1])
            file = files.open(segment_name(base))
            file.sync()  # an index says that its segment is durable
            file.close()
            files.write_atomic(index_name(base), parts)
            made.append(base)
        index.load_sealed(base)
    progress(1, 1)
    return made


def _is_sound(files: Files, base: int) -> bool:
    """As ``verify`` sees it."""
    rows: list[Row] = []
    damaged: list[Problem] = []
    for _ in _verify_segment(_Segment(files, base), base, rows, damaged, _Order(), lambda done: None):
        pass
    return _index_problem(files, base, rows, damaged) is None
