"""Messages that wait for their time: a projection of frames with due times, of the copies that deliver them, of recalls.

A delayed message is stored in a room beside its queue. When its time has come a copy is stored in the queue, which names
it as its source and so retires it. Records (docs/formats.md):

    tm-   recalled   {"e": [[log offset, record], ...]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any, NamedTuple

from kourou.broker.machines.projection import ITEM_ENTRIES, decode_items, digest_of, encode_slices

Record = dict[str, Any]
Place = tuple[int, int]  # log offset of the frame, record in it
RECORDS = frozenset({"tm-"})


class Timer(NamedTuple):
    due_ms: int
    log_offset: int
    record: int
    incarnation: int
    queue: int


class Timers:
    def __init__(self) -> None:
        self._pending: dict[Place, Timer] = {}
        self._heap: list[Timer] = []  # those that were retired are skipped

    def __len__(self) -> int:
        return len(self._pending)

    def find(self, place: Place) -> Timer | None:
        return self._pending.get(place)

    def next_due_ms(self) -> int | None:
        heap, pending = self._heap, self._pending
        while heap and (heap[0].log_offset, heap[0].record) not in pending:
            heappop(heap)
        return heap[0].due_ms if heap else None

    def take_due(self, now_ms: int, limit: int) -> list[Timer]:
        """Timers whose time has come, in order of their times; each is given once (again after a restart): whoever takes
        them either has them retired or gives them back."""
        taken: list[Timer] = []
        while len(taken) < limit and (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            taken.append(heappop(self._heap))
        return taken

    def give_back(self, timers: Iterable[Timer]) -> None:
        for timer in timers:
            heappush(self._heap, timer)

    def of_topic(self, incarnation: int, *, limit: int) -> list[Timer]:
        """What waits in a topic, soonest first."""
        return sorted(timer for timer in self._pending.values() if timer.incarnation == incarnation)[:limit]

    def lowest_log_offset(self) -> int | None:
        """Nothing from here on may be deleted from the log."""
        return next(iter(self._pending))[0] if self._pending else None

    # ---- replay

    def stored(self, log_offset: int, incarnation: int, queue: int, due_times: Iterable[int]) -> None:
        for number, due_ms in enumerate(due_times):
            timer = Timer(due_ms, log_offset, number, incarnation, queue)
            self._pending[log_offset, number] = timer
            heappush(self._heap, timer)

    def retired(self, place: Place) -> None:
        self._pending.pop(place, None)

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        for at, number in record["e"]:
            self.retired((at, number))

    def topic_deleted(self, incarnation: int) -> None:
        for place in [place for place, timer in self._pending.items() if timer.incarnation == incarnation]:
            del self._pending[place]

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        return encode_slices(_items(list(self._pending.values())))

    def restore(self, data: bytes) -> None:
        self._pending.clear()
        for some in decode_items(data):
            for values in some:
                timer = Timer(*values)
                self._pending[timer.log_offset, timer.record] = timer
        self._heap = list(self._pending.values())
        heapify(self._heap)

    def digest(self) -> str:
        return digest_of(_items(sorted(self._pending.values())))


def _items(timers: Iterable[Timer]) -> Iterator[Any]:
    entries = iter(timers)
    while some := list(islice(entries, ITEM_ENTRIES)):
        yield some
