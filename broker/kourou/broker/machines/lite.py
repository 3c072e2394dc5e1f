"""Lite topics: as many small ordered queues inside one topic as there are names; a projection of the log's records.

Each name gets a number when its first message comes, and that is the queue its messages lie in, above all declared queues.
Numbers are never given out again. Records (docs/formats.md):

    lite    named      {"i": incarnation, "e": [[number, name], ...]}
    lite-   let go of  {"i": incarnation, "e": [number, ...]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kourou.broker.machines.projection import ITEM_ENTRIES, decode_items, digest_of, encode_slices
from kourou.core.errors import LimitExceeded
from kourou.core.widedict import WideDict

Record = dict[str, Any]
RECORDS = frozenset({"lite", "lite-"})
BASE = 0x10000000  # the first number; declared queues are below
NAMES_MAX = 4_000_000  # live names of a topic


class _Names:
    __slots__ = ("count", "listed", "numbers")

    def __init__(self) -> None:
        self.listed: list[str | None] = []  # by number; only ever grows, None for those let go of
        self.numbers: WideDict[str, int] = WideDict()
        self.count = 0  # of those that were not let go of


class LiteTopics:
    def __init__(self) -> None:
        self._topics: dict[int, _Names] = {}

    @property
    def total(self) -> int:
        return sum(names.count for names in self._topics.values())

    def count(self, incarnation: int) -> int:
        names = self._topics.get(incarnation)
        return names.count if names is not None else 0

    def number(self, incarnation: int, name: str) -> int | None:
        """The queue of a lite topic, None where it has had no message."""
        names = self._topics.get(incarnation)
        return names.numbers.get(name) if names is not None else None

    def name(self, incarnation: int, number: int) -> str | None:
        names = self._topics.get(incarnation)
        at = number - BASE
        return names.listed[at] if names is not None and 0 <= at < len(names.listed) else None

    def portion(self, incarnation: int, first: int, limit: int) -> list[str | None] | None:
        """Names by number, from the ``first``-th number on, None in place of those let go of; None at the end."""
        names = self._topics.get(incarnation)
        return (names.listed[first : first + limit] or None) if names is not None else None

    def add(self, incarnation: int, name: str) -> Record:
        """The record that gives a new name its number. Raises LimitExceeded."""
        names = self._topics.get(incarnation)
        count = len(names.listed) if names is not None else 0
        if self.count(incarnation) >= NAMES_MAX:
            raise LimitExceeded(f"the topic has {NAMES_MAX} lite topics; that is the limit")
        return {"t": "lite", "i": incarnation, "e": [[BASE + count, name]]}

    def replay(self, record: Record, *, log_offset: int, store_ms: int) -> None:
        if record["t"] == "lite":
            names = self._topics.setdefault(record["i"], _Names())
            for number, name in record["e"]:
                self._put(names, number, name)
            return
        known = self._topics.get(record["i"])
        for number in record["e"] if known is not None else ():
            name = self.name(record["i"], number)
            if name is not None:
                del known.numbers[name]  # type: ignore[union-attr]
                known.count -= 1  # type: ignore[union-attr]
                known.listed[number - BASE] = None  # type: ignore[union-attr]

    @staticmethod
    def _put(names: _Names, number: int, name: str | None) -> None:
        at = number - BASE
        while len(names.listed) <= at:
            names.listed.append(None)
        names.listed[at] = name
        if name is not None:
            names.count += name not in names.numbers
            names.numbers[name] = number

    def topic_deleted(self, incarnation: int) -> None:
        self._topics.pop(incarnation, None)

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        """Captured now: lists only grow, and a name let go of meanwhile is let go of again by its record."""
        return encode_slices(_items([(i, names.listed, len(names.listed)) for i, names in self._topics.items()]))

    def restore(self, data: bytes) -> None:
        self._topics.clear()
        for incarnation, first, some in decode_items(data):
            names = self._topics.setdefault(incarnation, _Names())
            names.listed += [None] * (first - BASE - len(names.listed))
            names.listed += some
            numbered = [(name, number) for number, name in enumerate(some, first) if name is not None]
            names.numbers.update(numbered)
            names.count += len(numbered)

    def digest(self) -> str:
        return digest_of(_items([(i, names.listed, len(names.listed)) for i, names in sorted(self._topics.items())]))


def _items(captured: Iterable[tuple[int, list[str | None], int]]) -> Iterator[Any]:
    """[incarnation, number of the first, [name or null, ...]]"""
    for incarnation, listed, count in captured:
        for first in range(0, count, ITEM_ENTRIES):
            yield [incarnation, BASE + first, listed[first : min(count, first + ITEM_ENTRIES)]]
