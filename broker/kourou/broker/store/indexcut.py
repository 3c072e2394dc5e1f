"""Truncation: the log was cut, so segments go, one becomes the open one again, and queues are as they were before.

Rare (a replica that diverged, a repaired tail), so plain loops over the queues of the segments that are cut.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kourou.broker.store.indexfile import IndexFile
from kourou.broker.store.openindex import NO_TIME, ROW_DTYPE, OpenIndex
from kourou.broker.store.queuetable import QueueTable
from kourou.broker.store.segmentmap import Segment, SegmentMap


@dataclass(slots=True)
class _Before:
    """How a queue was before the oldest of the segments that are cut."""

    next_offset: int
    depth: int
    previous: int


def cut_index(table: QueueTable, segments: SegmentMap, cut: Sequence[Segment], log_offset: int) -> OpenIndex:
    """Put the table back and answer the new open segment. ``cut`` ascends and ends with the open segment."""
    oldest = cut[0]
    reopened = OpenIndex(log_offset)
    if oldest.base < log_offset:
        reopened = (oldest if isinstance(oldest, OpenIndex) else thaw(oldest, table)).prefix(log_offset)
    before: dict[int, _Before] = {}
    for segment in reversed(cut):
        before |= _queues_before(segment, table, segments.bases)
    for number, was in before.items():
        if len(cut) == 1 and number in reopened.ordinals:
            continue  # only its end moves, see below
        table.next[number] = was.next_offset
        table.depth[number] = was.depth
        table.latest[number] = NO_TIME
        _restore_links(table, segments, number, was)
    # A queue that goes on in the reopened segment ends there; one that lost all its frames from it starts over there.
    table.apply(reopened)
    return reopened


def thaw(file: IndexFile, table: QueueTable) -> OpenIndex:
    """A sealed segment's rows as those of an open one."""
    directory, entries = file.directory(), file.entries()
    numbers = np.array([table.numbers[key] for key in directory["key"].tolist()], np.uint32)
    order = entries["position"].argsort(kind="stable")
    rows = np.empty(len(entries), ROW_DTYPE)
    rows["queue"] = np.repeat(numbers, directory["rows"])[order]
    for name in ("position", "size", "count", "queue_offset", "tag_mask", "store_ms"):
        rows[name] = entries[name][order]
    producers = file.producers()
    mixes = np.zeros(len(rows), np.uint64)
    mixes[rows["position"].searchsorted(producers["position"])] = producers["mix"]
    pairs = file.keys()
    positions = pairs & np.uint64(0xFFFFFFFF)
    by_position = positions.argsort(kind="stable")
    keyed, counts = np.unique(positions, return_counts=True)
    thawed = OpenIndex(file.base)
    thawed.restore(
        bytearray(rows.tobytes()),
        array("Q", mixes.tobytes()),
        array("I", (pairs >> np.uint64(32))[by_position].astype(np.uint32).tobytes()),
        array("I", rows["position"].searchsorted(keyed).astype(np.uint32).tobytes()),
        array("Q", counts.cumsum().astype(np.uint64).tobytes()),
    )
    return thawed


def _queues_before(segment: Segment, table: QueueTable, bases: Sequence[int]) -> dict[int, _Before]:
    if isinstance(segment, IndexFile):
        directory = segment.directory()
        columns = (directory[name].tolist() for name in ("key", "first_offset", "depth", "previous"))
        return {
            table.numbers[key]: _Before(first, depth - 1, previous)
            for key, first, depth, previous in zip(*columns, strict=True)
        }
    found = {}
    for number in segment.numbers:
        run = segment.find(0, number)
        assert run is not None
        if segment.links is not None:
            found[number] = _Before(run.first_offset, run.depth - 1, run.previous)
        else:
            last = table.last_segment(number)
            found[number] = _Before(run.first_offset, table.depth[number], bases[last - 1] if last else 0)
    return found


def _restore_links(table: QueueTable, segments: SegmentMap, number: int, was: _Before) -> None:
    """Levels and time as the newest segment that is left knows them."""
    want, base = was.depth, was.previous  # a segment of the queue's path, counted, and where to look for it
    if base not in segments.held:
        table.depth[number] = want = 0  # all older ones are dropped: links start anew
    while want and (segment := segments.held.get(base)) is not None:
        run = segment.find(table.keys[number], number)
        if run is None or (run.depth < want < was.depth):
            break
        base = run.skip
        if run.depth <= want or want == was.depth:
            if want == was.depth:
                table.latest[number] = run.latest_ms
            table.set_level(number, want, segments.number(segment.base))
            is_counted = run.depth == want  # not so where it was rebuilt after older ones were dropped
            want &= want - 1
            if not is_counted:
                break
    while want:
        table.set_level(number, want, 0)
        want &= want - 1
