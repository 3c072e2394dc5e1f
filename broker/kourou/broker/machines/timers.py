"""Messages that wait for their time: a projection of frames with due times, of the copies that deliver them, of recalls.

A delayed message is stored in a room beside its queue. When its time has come a copy is stored in the queue, which names
it as its source and so retires it. New timers are held in memory (``timerpages``). Whoever drives this writes those that
are due later into an immutable file, a *bucket*, and says so in the log; from then on only numbers are held of them
(``timerbuckets``): how far the bucket was delivered, which of it were recalled. What was delivered since the last time
anybody said how far is held by place, so that a crash in between delivers nothing twice.

Records (docs/formats.md):

    tm-   recalled                "e": places in memory, "b": [[bucket, position, incarnation], ...]
    tm>   a bucket was written    from memory ("due": all from that time on) or from older buckets ("m")
    tm<   delivered so far        "f": [[bucket, floor, next due time], ...]; all that is below is retired
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from kourou.broker.machines.projection import ITEM_ENTRIES, digest_of
from kourou.broker.machines.timerbuckets import Bucket, bucket_of
from kourou.broker.machines.timerpages import NEVER_MS, PAGE, Page, Place, Timer
from kourou.broker.machines.timersnapshot import PageCopy, decode, encode

__all__ = ["RECORDS", "PageCopy", "Place", "Timer", "Timers"]

Record = dict[str, Any]
RECORDS = frozenset({"tm-", "tm>", "tm<"})
_BEHIND_ALL = 1 << 32  # behind every record number


class Timers:
    def __init__(self, *, page_size: int = PAGE) -> None:
        self._page_size = page_size
        self._clear()

    def _clear(self) -> None:
        self.buckets: dict[int, Bucket] = {}
        self.next_bucket = 1
        self.moved: set[Place] = set()  # delivered out of buckets, maybe above their floors
        self._pages: dict[int, Page] = {}  # in log order
        self._firsts: list[tuple[int, int, int]] = []  # (place of its first timer, number) of each page, in order
        self._next_page = 0
        self._counts: dict[int, int] = {}  # waiting, by incarnation
        self._deleted: dict[int, int] = {}  # topics that may still have timers here: incarnation, log end at deletion
        self._log_end = 0  # behind the last timer
        self._heads: list[tuple[int, int]] = []  # (nothing is due before, page): stale ones are skipped
        self._returned: list[Timer] = []  # given back; those that were retired since are skipped

    def __len__(self) -> int:
        return sum(self._counts.values())

    def count(self, incarnation: int) -> int:
        """How many wait in a topic."""
        return self._counts.get(incarnation, 0)

    def is_deleted(self, incarnation: int) -> bool:
        return incarnation in self._deleted

    def find(self, place: Place) -> Timer | None:
        """A timer that waits in memory."""
        page = self._page_of(place)
        number = page.find(place) if page is not None else -1
        if page is None or number < 0:
            return None
        timer = page.timer(number)
        return None if timer.incarnation in self._deleted else timer

    def _page_of(self, place: Place) -> Page | None:
        number = bisect_right(self._firsts, (*place, _BEHIND_ALL)) - 1
        return self._pages[self._firsts[number][2]] if number >= 0 else None

    # ---- those in memory, in order of time

    def next_due_ms(self) -> int | None:
        """No timer in memory is due before; None when there is none."""
        head = self._head()
        due_ms = head[0] if head is not None else NEVER_MS
        if self._next_returned() is not None:
            due_ms = min(due_ms, self._returned[0].due_ms)
        return due_ms if due_ms < NEVER_MS else None

    def take_due(self, now_ms: int, limit: int) -> list[Timer]:
        """Timers in memory whose time has come, in order of their times; each is given once (again after a restart):
        whoever takes them either has them retired or gives them back."""
        taken: list[Timer] = []
        while len(taken) < limit:
            head, returned = self._head(), self._next_returned()
            if returned is not None and (head is None or returned.due_ms <= head[0]):
                if returned.due_ms > now_ms:
                    break
                taken.append(heappop(self._returned))
                continue
            if head is None or head[0] > now_ms:
                break
            page = self._pages[heappop(self._heads)[1]]
            page.head_ms = NEVER_MS
            bound_ms = now_ms
            if self._heads:  # at equal times the older page goes first
                bound_ms = min(bound_ms, self._heads[0][0] - (self._heads[0][1] < page.number))
            if returned is not None:
                bound_ms = min(bound_ms, returned.due_ms - 1)
            page.bury(self._deleted)
            taken += page.take(bound_ms, limit - len(taken))
            self._register(page)
            if page.head_ms == NEVER_MS:
                self._drop_if_empty(page)
        return taken

    def give_back(self, timers: Iterable[Timer]) -> None:
        for timer in timers:
            heappush(self._returned, timer)

    def _head(self) -> tuple[int, int] | None:
        """(nothing is due before, page) of the page whose next timer is the soonest."""
        heads = self._heads
        while heads:
            due_ms, number = heads[0]
            page = self._pages.get(number)
            current = page is not None and page.head_ms == due_ms
            if page is not None and current and page.next_due_ms() == due_ms:
                return heads[0]
            heappop(heads)
            if page is not None and current:
                self._register(page)
        return None

    def _register(self, page: Page) -> None:
        due_ms = page.next_due_ms()
        if due_ms != page.head_ms:
            page.head_ms = due_ms
            if due_ms < NEVER_MS:
                heappush(self._heads, (due_ms, page.number))

    def _next_returned(self) -> Timer | None:
        while self._returned and self.find(self._returned[0].place) is None:
            heappop(self._returned)
        return self._returned[0] if self._returned else None

    def of_topic(self, incarnation: int) -> Iterator[list[Timer]]:
        """What waits in memory in a topic, page by page, which others may work between."""
        for page in list(self._pages.values()):
            if incarnation not in self._deleted:
                yield list(page.of_topic(incarnation))

    # ---- what holds the log, what is to be moved

    def lowest_log_offset(self) -> int | None:
        """Nothing from here on may be deleted from the log."""
        for page in self._pages.values():
            page.bury(self._deleted)
            for timer in page.pending():
                return timer.log_offset
        return None

    @property
    def pages(self) -> int:
        return len(self._pages)

    @property
    def fresh_pages(self) -> int:
        """Full ones of which nothing was moved yet."""
        return sum(page.limit_ms == NEVER_MS and not page.open for page in self._pages.values())

    def copy_pages(self, limit: int, *, from_ms: int) -> list[PageCopy]:
        """The oldest pages that may hold timers due from a time on, as they are now, for another thread to read."""
        copies: list[PageCopy] = []
        for page in self._pages.values():
            if len(copies) == limit:
                break
            if page.limit_ms <= from_ms:
                continue
            page.bury(self._deleted)
            if len(page.due):
                copies.append(PageCopy.of(page))
        return copies

    def alive(self, page: int) -> bytes:
        """Which timers of a page that was copied are alive now; none: the page is gone."""
        found = self._pages.get(page)
        if found is None:
            return b""
        found.bury(self._deleted)
        return bytes(found.alive)

    # ---- replay

    def stored(self, log_offset: int, incarnation: int, queue: int, due_times: array[int]) -> None:
        at, count, lane = 0, len(due_times), incarnation << 32 | queue
        self._counts[incarnation] = self._counts.get(incarnation, 0) + count
        self._log_end = log_offset + 1
        page = next(reversed(self._pages.values())) if self._pages else None
        while at < count:
            if page is None or not page.open:
                page = self._new_page((log_offset, at))
            some = due_times[at : at + self._page_size - len(page.due)]
            page.add(log_offset, at, lane, some)
            at += len(some)
            self._register(page)
            if len(page.due) == self._page_size:
                page.close()
                self._drop_if_empty(page)

    def _new_page(self, first: Place) -> Page:
        page = self._pages[self._next_page] = Page(self._next_page)
        insort(self._firsts, (*first, page.number))
        self._next_page += 1
        return page

    def retired(self, place: Place, incarnation: int) -> None:
        """A copy of it was stored, which delivers it."""
        page = self._page_of(place)
        number = page.find(place) if page is not None else -1
        if page is not None and number >= 0:
            page.retire(number)
            self._drop_if_empty(page)
        elif place in self.moved or not any(bucket.start <= place < bucket.end for bucket in self.buckets.values()):
            return
        else:
            self.moved.add(place)
        self._less(incarnation, 1)

    def _drop_if_empty(self, page: Page) -> None:
        if not page.open and page.is_empty():
            del self._pages[page.number]
            self._firsts.remove((*page.first, page.number))

    def _less(self, incarnation: int, count: int) -> None:
        left = self._counts.get(incarnation, 0) - count
        if left > 0:
            self._counts[incarnation] = left
        else:
            self._counts.pop(incarnation, None)

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        match record["t"]:
            case "tm>":
                self._bucket_written(record)
            case "tm<":
                self._delivered(record)
            case _:
                self._recalled(record)
        for incarnation, count in record.get("lost", ()):
            self._less(incarnation, count)

    def _recalled(self, record: Record) -> None:
        for at, number in record.get("e", ()):
            timer = self.find((at, number))
            if timer is not None:
                self.retired(timer.place, timer.incarnation)
        for bucket, position, incarnation in record.get("b", ()):
            if bucket in self.buckets and self.buckets[bucket].recall(position):
                self._less(incarnation, 1)

    def _delivered(self, record: Record) -> None:
        for number, floor, next_due_ms in record["f"]:
            bucket = self.buckets.get(number)
            if bucket is not None:
                bucket.set_floor(floor, next_due_ms)
                if bucket.left <= 0:
                    del self.buckets[number]
        self.moved.clear()

    def _bucket_written(self, record: Record) -> None:
        for number in record.get("m", ()):
            del self.buckets[number]
        self.next_bucket = max(self.next_bucket, record["b"] + 1)
        bucket = bucket_of(record)
        if bucket.left > 0:
            self.buckets[bucket.number] = bucket
        if "due" in record:
            for page in list(self._pages.values()):
                self._leave(page, bucket.start, bucket.end, record["due"])

    def _leave(self, page: Page, start: Place, end: Place, from_ms: int) -> None:
        if not page.due or page.last < start or page.first >= end:
            return
        if start <= page.first and page.last < end and not page.open:
            page.set_limit(from_ms)
        else:
            page.clear(start, end, from_ms)
        self._drop_if_empty(page)

    def topic_deleted(self, incarnation: int) -> None:
        if self._counts.pop(incarnation, 0):
            self._deleted[incarnation] = self._log_end

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        self._forget_deleted()
        copies = []
        for page in self._pages.values():
            page.bury(self._deleted)
            copies.append(PageCopy.of(page))
        return encode(self._numbers(), self.buckets.values(), copies)

    def restore(self, data: bytes) -> None:
        self._clear()
        if not data:
            return
        numbers, buckets, pages = decode(data)
        self._counts, self._deleted = dict(numbers["counts"]), dict(numbers["deleted"])
        self._log_end, self.next_bucket, self._next_page = numbers["log_end"], numbers["bucket"], numbers["page"]
        self.moved = {(at, number) for at, number in numbers["moved"]}
        self.buckets = {bucket.number: bucket for bucket in buckets}
        for page in pages:
            self._pages[page.number] = page
            if page.due:
                self._firsts.append((*page.first, page.number))
            self._register(page)

    def digest(self) -> str:
        """Of what waits, wherever memory holds it."""
        return digest_of(self._items())

    def _items(self) -> Iterator[Any]:
        yield sorted(self._counts.items())
        yield sorted(self.moved)
        for bucket in sorted(self.buckets.values(), key=lambda bucket: bucket.number):
            yield [*bucket.numbers(), bucket.bits.hex()]
        some: list[Timer] = []
        for page in self._pages.values():
            page.bury(self._deleted)
            for timer in page.pending():
                some.append(timer)
                if len(some) == ITEM_ENTRIES:
                    yield some
                    some = []
        yield some

    def _numbers(self) -> dict[str, Any]:
        return {
            "counts": list(self._counts.items()),
            "deleted": list(self._deleted.items()),
            "moved": list(self.moved),
            "log_end": self._log_end,
            "bucket": self.next_bucket,
            "page": self._next_page,
        }

    def _forget_deleted(self) -> None:
        """Topics none of whose timers can be here any more."""
        lowest = min((bucket.start[0] for bucket in self.buckets.values()), default=self._log_end)
        if self._firsts:
            lowest = min(lowest, self._firsts[0][0])
        self._deleted = {topic: end for topic, end in self._deleted.items() if end > lowest}
