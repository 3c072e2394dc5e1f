"""Which dead letters an operator has dealt with: sent back, or thrown away. A projection of records and of redriven copies.

Dead letters lie in topics like any other; consumers of those topics are not concerned. Records (docs/formats.md):

    dead-   thrown away   {"i": incarnation of the dead letter topic, "e": [[queue, [offsets]], ...]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from kourou.broker.machines.projection import ITEM_ENTRIES, decode_items, digest_of, encode_slices
from kourou.core.sources import Source

Record = dict[str, Any]
Place = tuple[int, int]  # incarnation, queue


class _Dealt:
    """Everything below ``floor`` is dealt with, and what is in ``above``."""

    __slots__ = ("above", "captured", "floor")

    def __init__(self) -> None:
        self.floor = 0
        self.above: set[int] = set()
        self.captured = False

    def add(self, offset: int) -> None:
        if self.captured:
            self.above = self.above.copy()
            self.captured = False
        if offset < self.floor:
            return
        self.above.add(offset)
        while self.floor in self.above:
            self.above.discard(self.floor)
            self.floor += 1


class Graves:
    def __init__(self) -> None:
        self._queues: dict[Place, _Dealt] = {}

    def dealt_with(self, incarnation: int, queue: int, offset: int) -> bool:
        dealt = self._queues.get((incarnation, queue))
        return dealt is not None and (offset < dealt.floor or offset in dealt.above)

    def floor(self, incarnation: int, queue: int) -> int:
        """Below it nothing is left."""
        dealt = self._queues.get((incarnation, queue))
        return dealt.floor if dealt is not None else 0

    def count(self, incarnation: int, queue: int) -> int:
        """How many were dealt with."""
        dealt = self._queues.get((incarnation, queue))
        return dealt.floor + len(dealt.above) if dealt is not None else 0

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        for queue, offsets in record["e"]:
            dealt = self._queues.setdefault((record["i"], queue), _Dealt())
            for offset in offsets:
                dealt.add(offset)

    def moved(self, source: Source) -> None:
        """A dead letter was sent back."""
        self._queues.setdefault((source.incarnation, source.queue), _Dealt()).add(source.queue_offset)

    def topic_deleted(self, incarnation: int) -> None:
        for place in [place for place in self._queues if place[0] == incarnation]:
            del self._queues[place]

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        captured = []
        for place, dealt in self._queues.items():
            dealt.captured = True
            captured.append((place, dealt.floor, dealt.above))
        return encode_slices(_items(captured))

    def restore(self, data: bytes) -> None:
        self._queues.clear()
        for incarnation, queue, floor, above in decode_items(data):
            dealt = self._queues.setdefault((incarnation, queue), _Dealt())
            dealt.floor = floor
            dealt.above.update(above)

    def digest(self) -> str:
        return digest_of(
            [*place, dealt.floor, sorted(dealt.above)] for place, dealt in sorted(self._queues.items(), key=lambda p: p[0])
        )


def _items(captured: Iterable[tuple[Place, int, set[int]]]) -> Iterator[Any]:
    for (incarnation, queue), floor, above in captured:
        entries = iter(above)
        first = True
        while (some := list(islice(entries, ITEM_ENTRIES))) or first:
            first = False
            yield [incarnation, queue, floor, some]
