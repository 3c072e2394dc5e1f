"""The closed segments of a log's index, and finding among them the one where a queue's offset or time lies.

Searches start at the newest segment that holds the queue and follow its links (see ``queuetable``). A link to a segment
that was lost costs a look into every older one until the queue is found, but never hides what is older than the loss. Who
reads old frames on and on is remembered with a cursor, so that the next read begins where the last one stopped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from kourou.broker.store.indexfile import IndexFile
from kourou.broker.store.openindex import NO_SEGMENT, OpenIndex, QueueRun, index_of_offset

PROBES: Final = 3  # following segments that a reader looks into before it searches by links
CURSORS_MAX: Final = 4096

Segment = OpenIndex | IndexFile
Place = tuple[Segment, QueueRun]


class SegmentMap:
    """``held`` has sealed and sealing segments by base, ascending. A segment's number is its place in ``bases`` + 1."""

    def __init__(self) -> None:
        self.held: dict[int, Segment] = {}
        self.bases: list[int] = []  # of every segment since the oldest ever known, also dropped ones
        self._cursors: dict[int, tuple[int, int]] = {}  # key → base and row behind the last frame read

    def hold(self, segment: Segment) -> None:
        is_last = not self.held or segment.base > next(reversed(self.held)) or segment.base in self.held
        self.held[segment.base] = segment
        if not is_last:
            self.held = dict(sorted(self.held.items()))

    def number(self, base: int) -> int:
        """The number of a segment; a newest one gets its number here."""
        at = bisect_left(self.bases, base)
        if at == len(self.bases):
            self.bases.append(base)
        assert self.bases[at] == base, "segments are numbered in the order of their bases"
        return at + 1

    def cut(self, base: int) -> None:
        """Forget segments from this base on."""
        self._cursors.clear()
        for at in [at for at in self.held if at >= base]:
            del self.held[at]
        del self.bases[bisect_left(self.bases, base) :]

    def locate(self, key: int, number: int, last: int, queue_offset: int) -> Place | None:
        """The first frame's segment that ends behind the queue offset; ``last`` is the newest that holds the queue."""
        cursor = self._cursors.get(key)
        if cursor is not None:
            place = self._near(cursor[0], key, number, queue_offset)
            if place is not None:
                return place
        return self.earliest(key, number, last, lambda run: run.next_offset > queue_offset)

    def earliest(self, key: int, number: int, last: int, reaches: Callable[[QueueRun], bool]) -> Place | None:
        """The oldest segment whose run of the queue reaches far enough; the newer ones must then do so too."""
        place = self._at_or_below(self.bases[last - 1], key, number) if last else None
        if place is None or not reaches(place[1]):
            return None
        while True:
            run = place[1]
            older = self._at_or_below(run.skip, key, number)
            if older is None or not reaches(older[1]):
                older = self._at_or_below(run.previous, key, number) if run.previous != run.skip else None
                if older is None or not reaches(older[1]):
                    return place
            place = older

    def index(self, segment: Segment, run: QueueRun, queue_offset: int) -> int:
        """The first frame of the run that ends behind the queue offset."""
        base, index = self._cursors.get(run.key, (NO_SEGMENT, 0))
        if base == segment.base and index < run.rows and segment.row(run, index)[0] == queue_offset:
            return index
        return index_of_offset(segment, run, queue_offset)

    def remember(self, key: int, base: int, index: int) -> None:
        """A reader of the queue goes on at this row of the segment. At the bound the oldest cursor is forgotten."""
        cursors = self._cursors
        cursors.pop(key, None)
        if len(cursors) >= CURSORS_MAX:
            del cursors[next(iter(cursors))]
        cursors[key] = base, index

    def _near(self, base: int, key: int, number: int, queue_offset: int) -> Place | None:
        """As ``locate``, for one who has read in the segment at ``base``; None when it is not there or just behind."""
        at = bisect_left(self.bases, base)
        for step, near in enumerate(self.bases[at : at + 1 + PROBES]):
            segment = self.held.get(near)
            run = segment.find(key, number) if segment is not None else None
            if segment is None or run is None:
                if not step:
                    return None
                continue
            if not step and run.first_offset > queue_offset:
                return None
            if run.next_offset > queue_offset:
                return segment, run
        return None

    def _at_or_below(self, base: int, key: int, number: int) -> Place | None:
        """The segment that a link leads to. Where its file was lost, or frames of the queue in it, the next older one that
        holds the queue; None where there is none: the link leads to a dropped segment, or from the first."""
        segment = self.held.get(base)
        if segment is not None:
            run = segment.find(key, number)
            if run is not None:
                return segment, run
        if base == NO_SEGMENT or not self.held or base < next(iter(self.held)):
            return None
        for older in reversed(self.held.values()):
            if older.base < base:
                run = older.find(key, number)
                if run is not None:
                    return older, run
        return None
