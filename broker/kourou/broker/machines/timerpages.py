"""Timers in memory: pages of at most 4,096, filled in log order, each put in order of time when its first one is near.

A timer takes 9 bytes, 2 more once its page is in order, and 14 for its frame, of which many share one. Retired timers leave
holes; a page goes when all of its timers have. What was moved to a bucket is not searched for: a page has a limit, and
its timers from that time on are elsewhere.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import NamedTuple

PAGE = 4096
NEVER_MS = 2**63 - 1
UNKNOWN = -1
FEW = 32  # so many new timers are put into an order one by one
Place = tuple[int, int]  # log offset of the frame, record in it


class Timer(NamedTuple):
    due_ms: int
    log_offset: int
    record: int
    incarnation: int
    queue: int

    @property
    def place(self) -> Place:
        return self.log_offset, self.record


class Page:
    __slots__ = (
        "_lane_of", "alive", "at", "due", "due_low", "head_ms", "lanes", "left", "limit_ms", "number", "offsets", "open",
        "order", "part_lanes", "records", "starts",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.open = True  # more may be added
        # one entry a frame, or the part of it that lies here
        self.offsets = array("Q")  # log offset
        self.starts = array("H")  # number in the page of its first timer
        self.records = array("H")  # number in the frame of that one
        self.part_lanes = array("H")  # index into lanes
        # one entry a timer
        self.due = array("q")
        self.alive = bytearray()
        self.lanes = array("Q")  # incarnation << 32 | queue
        self._lane_of: dict[int, int] = {}
        self.due_low = NEVER_MS  # no timer here is due before
        self.limit_ms = NEVER_MS  # those due from here on were moved to a bucket
        self.head_ms = NEVER_MS  # the time for which the page is registered among others
        self.left = 0  # how many are alive and below the limit
        self.order: array[int] | None = None  # numbers by time, of those that were alive when it was made
        self.at = 0  # what of the order was taken

    def add(self, log_offset: int, record: int, lane: int, due_times: array[int]) -> None:
        """Timers of one frame, which fit."""
        start, count = len(self.due), len(due_times)
        number = self._lane_of.setdefault(lane, len(self.lanes))
        if number == len(self.lanes):
            self.lanes.append(lane)
        self.offsets.append(log_offset)
        self.starts.append(start)
        self.records.append(record)
        self.part_lanes.append(number)
        self.due.extend(due_times)
        self.alive += b"\1" * count
        self.left += count
        self.due_low = min(self.due_low, min(due_times))
        if self.order is None:
            return
        due = self.due.__getitem__
        if count <= FEW:
            for timer in range(start, start + count):
                insort(self.order, timer, self.at, key=due)
        else:
            rest = [*self.order[self.at :], *range(start, start + count)]
            self.order, self.at = array("H", sorted(rest, key=due)), 0

    def know_lanes(self) -> None:
        """After a restore: more may be added."""
        self._lane_of = {lane: number for number, lane in enumerate(self.lanes)}

    def close(self) -> None:
        self.open = False
        self._lane_of.clear()

    @property
    def first(self) -> Place:
        return self.offsets[0], self.records[0]

    @property
    def last(self) -> Place:
        return self.offsets[-1], self.records[-1] + len(self.due) - 1 - self.starts[-1]

    def find(self, place: Place) -> int:
        """Number of a timer that is alive here; -1 for none."""
        log_offset, record = place
        part = bisect_left(self.offsets, log_offset)
        if part == len(self.offsets) or self.offsets[part] != log_offset or record < self.records[part]:
            return -1
        number = self.starts[part] + record - self.records[part]
        end = self.starts[part + 1] if part + 1 < len(self.starts) else len(self.due)
        return number if number < end and self.alive[number] and self.due[number] < self.limit_ms else -1

    def timer(self, number: int) -> Timer:
        part = bisect_right(self.starts, number) - 1
        lane = self.lanes[self.part_lanes[part]]
        record = self.records[part] + number - self.starts[part]
        return Timer(self.due[number], self.offsets[part], record, lane >> 32, lane & 0xFFFFFFFF)

    def pending(self) -> Iterator[Timer]:
        """What is alive here, in log order."""
        limit_ms, due, number = self.limit_ms, self.due, self.alive.find(1)
        while number >= 0:
            if due[number] < limit_ms:
                yield self.timer(number)
            number = self.alive.find(1, number + 1)

    def of_topic(self, incarnation: int) -> Iterator[Timer]:
        if any(lane >> 32 == incarnation for lane in self.lanes):
            yield from (timer for timer in self.pending() if timer.incarnation == incarnation)

    # ---- in order of time

    def next_due_ms(self) -> int:
        """No timer that was not taken is due before; NEVER_MS for none."""
        if self.order is None:
            return self.due_low if self.due_low < self.limit_ms else NEVER_MS
        return self.due[self.order[self.at]] if self.at < len(self.order) else NEVER_MS

    def sort(self) -> None:
        due, alive, limit_ms = self.due, self.alive, self.limit_ms
        chosen = [number for number, due_ms in enumerate(due) if due_ms < limit_ms and alive[number]]
        self.left = len(chosen)
        self.order, self.at = array("H", sorted(chosen, key=due.__getitem__)), 0

    def take(self, bound_ms: int, limit: int) -> list[Timer]:
        """The next timers that are due at or before a time; each is given once."""
        if self.order is None:
            self.sort()
        order, at, due, alive = self.order, self.at, self.due, self.alive
        assert order is not None
        taken: list[Timer] = []
        while at < len(order) and due[order[at]] <= bound_ms and len(taken) < limit:
            if alive[order[at]]:
                taken.append(self.timer(order[at]))
            at += 1
        self.at = at
        return taken

    # ---- leaving

    def retire(self, number: int) -> None:
        self.alive[number] = 0
        if self.left > 0:
            self.left -= 1

    def set_limit(self, limit_ms: int) -> None:
        """Timers due from this time on are elsewhere."""
        if limit_ms >= self.limit_ms:
            return
        self.limit_ms = limit_ms
        self.left = 0 if self.due_low >= limit_ms else UNKNOWN
        if self.order is not None:
            cut = bisect_left(self.order, limit_ms, key=self.due.__getitem__)
            self.at = min(self.at, cut)
            del self.order[cut:]

    def is_empty(self) -> bool:
        if self.left == UNKNOWN and self.order is not None and self.at == len(self.order):
            self.left = sum(alive and due_ms < self.limit_ms for alive, due_ms in zip(self.alive, self.due, strict=True))
        return self.left == 0

    def clear(self, start: Place, end: Place, from_ms: int) -> int:
        """The same for timers between two places alone; how many there were."""
        gone = [
            number
            for number in range(self._number_at(start), self._number_at(end))
            if self.alive[number] and from_ms <= self.due[number] < self.limit_ms
        ]
        for number in gone:
            self.retire(number)
        return len(gone)

    def _number_at(self, place: Place) -> int:
        """Number of the first timer at or behind a place."""
        part = bisect_right(self.offsets, place[0]) - 1
        if part < 0:
            return 0
        end = self.starts[part + 1] if part + 1 < len(self.starts) else len(self.due)
        if self.offsets[part] < place[0]:
            return end
        return min(end, self.starts[part] + max(0, place[1] - self.records[part]))

    def bury(self, deleted: dict[int, int]) -> None:
        """Timers of topics that are no more."""
        if not deleted:
            return
        gone = {number for number, lane in enumerate(self.lanes) if lane >> 32 in deleted}
        if not gone:
            return
        for part, lane in enumerate(self.part_lanes):
            if lane in gone:
                start = self.starts[part]
                end = self.starts[part + 1] if part + 1 < len(self.starts) else len(self.due)
                for number in range(start, end):
                    if self.alive[number] and self.due[number] < self.limit_ms:
                        self.retire(number)
