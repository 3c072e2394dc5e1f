"""What is known of every queue, in memory: a dict from its key to a dense number, and columns by that number.

A queue costs about 106 bytes in the dict and 36 in columns, and 4 more for each level of links. Levels are how the
segments' skip links are made without reading older files: of the segments that hold a queue, counted from 1, the k-th
links to the (k & k - 1)-th. Following such links from k visits k, then k without its lowest bit, and so on; level j is
the segment on this path whose count has j as its lowest bit. Appending segment k + 1 needs just those: its skip link is
the level of the lowest bit of (k + 1) & k. An old offset is then O(log² segments) directories away, without a forward
pointer ever being written into a file.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store.openindex import NO_TIME, Links, OpenIndex
from kourou.core.widedict import WideDict


@dataclass(slots=True)
class QueueTable:
    """Segments have numbers here, from 1, ascending with their bases; 0 is none."""

    numbers: WideDict[int, int]
    keys: array[int]
    next: array[int]  # queue offset that the next record gets
    first: array[int]  # queue offset of the first record that is still there
    latest: array[int]  # effective store time of the last frame
    depth: array[int]  # how many sealed (or sealing) segments held the queue
    levels: list[array[int]]

    @staticmethod
    def empty() -> QueueTable:
        return QueueTable(WideDict(), array("Q"), array("Q"), array("Q"), array("q"), array("I"), [])

    def add(self, key: int, first_offset: int) -> int:
        """The number of a new queue, of which nothing before ``first_offset`` is there."""
        number = len(self.keys)
        self.numbers[key] = number
        self.keys.append(key)
        self.next.append(first_offset)
        self.first.append(first_offset)
        self.latest.append(NO_TIME)
        self.depth.append(0)
        for level in self.levels:
            level.append(0)
        return number

    def last_segment(self, number: int) -> int:
        """The number of the newest sealed (or sealing) segment that holds the queue, 0 for none."""
        depth = self.depth[number]
        return self.levels[(depth & -depth).bit_length() - 1][number] if depth else 0

    def digest(self) -> str:
        """Where each queue goes on, in hex; the same in every member whose log has the same end."""
        keys, ends = np.frombuffer(self.keys, np.uint64), np.frombuffer(self.next, np.uint64)
        order = np.argsort(keys)
        order = order[ends[order] > 0]  # all that it had was cut off again: as if it had never been
        return hashlib.sha256(keys[order].tobytes() + ends[order].tobytes()).hexdigest()

    def set_level(self, number: int, depth: int, segment: int) -> None:
        self._level((depth & -depth).bit_length() - 1)[number] = segment

    def link(self, opened: OpenIndex, bases: NDArray[np.uint64], segment: int) -> Links:
        """Put a segment on top of its queues' links. ``bases`` holds the base of each segment number."""
        numbers = opened.queues()
        before = np.frombuffer(self.depth, np.uint32)[numbers] if len(numbers) else numbers
        depth = before + np.uint32(1)
        previous = self._segments_at(before, numbers)
        skip = self._segments_at(depth & before, numbers)
        links = Links(numbers, self._keys_of(numbers), depth, bases[previous], bases[skip])
        self._push(numbers, depth, segment)
        return links

    def merge(self, directory: NDArray[Any], segment: int) -> None:
        """Take over the directory of a sealed segment that is newer than everything known."""
        keys, firsts = directory["key"].tolist(), directory["first_offset"].tolist()
        get, add = self.numbers.get, self.add
        known = [get(key) for key in keys]
        numbers = np.array(
            [number if number is not None else add(keys[i], firsts[i]) for i, number in enumerate(known)], np.uint32
        )
        if not keys:
            return
        np.frombuffer(self.next, np.uint64)[numbers] = directory["next_offset"]
        latest = np.frombuffer(self.latest, np.int64)
        latest[numbers] = np.maximum(latest[numbers], directory["latest_ms"])  # a snapshot may know of a later one
        self._push(numbers, directory["depth"], segment)

    def drop(self, keys: list[int], next_offsets: list[int]) -> None:
        """What lies before these queue offsets is gone."""
        get, first = self.numbers.get, self.first
        for key, next_offset in zip(keys, next_offsets, strict=True):
            number = get(key)
            if number is not None and first[number] < next_offset:
                first[number] = next_offset

    def apply(self, opened: OpenIndex) -> None:
        """Take over the rows of an open segment that was restored."""
        for number, next_offset, store_ms in opened.last_rows():
            self.next[number] = next_offset
            self.latest[number] = store_ms

    def _segments_at(self, depths: NDArray[np.uint32], numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """For each queue the segment that is the depth-th to hold it, for depths that its links visit."""
        found = np.zeros(len(numbers), np.uint32)
        lowest = depths & (~depths + np.uint32(1))
        for j, level in enumerate(self.levels):
            at = np.flatnonzero(lowest == (1 << j))
            if len(at):
                found[at] = np.frombuffer(level, np.uint32)[numbers[at]]
        return found

    def _push(self, numbers: NDArray[np.uint32], depth: NDArray[np.uint32], segment: int) -> None:
        if not len(numbers):
            return
        np.frombuffer(self.depth, np.uint32)[numbers] = depth
        lowest = depth & (~depth + np.uint32(1))
        present = int(np.bitwise_or.reduce(lowest))  # each is one bit; numpy.unique would do, at the price of an import
        for j in range(present.bit_length()):
            if present >> j & 1:
                level = np.frombuffer(self._level(j), np.uint32)
                level[numbers[lowest == 1 << j]] = segment

    def _level(self, j: int) -> array[int]:
        while len(self.levels) <= j:
            self.levels.append(array("I", bytes(4 * len(self.keys))))
        return self.levels[j]

    def _keys_of(self, numbers: NDArray[np.uint32]) -> NDArray[np.uint64]:
        return np.frombuffer(self.keys, np.uint64)[numbers] if len(numbers) else np.empty(0, np.uint64)
