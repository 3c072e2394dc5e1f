"""What a producer saw of its sends, and the sums over it. Pure, but for reading the file that a client process appends to.

Each record is one send that ended: its number, when it was called, when it ended (CLOCK_MONOTONIC, ns), and how.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("<qqqB")
OK, FAILED = 1, 2


class Send(NamedTuple):
    number: int
    called: int
    ended: int
    outcome: int


class Sends:
    """The records so far; ``refresh`` reads what was appended since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self.all: list[Send] = []

    def refresh(self) -> Sends:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
            whole = len(data) // RECORD.size * RECORD.size
            self._at += whole
            self.all += [Send(*fields) for fields in RECORD.iter_unpack(data[:whole])]
        return self

    def ok_since(self, when: int) -> int:
        """How many sends were called after a time and ended well."""
        return sum(1 for send in reversed(self._tail(when)) if send.called > when and send.outcome == OK)

    def _tail(self, when: int) -> Sequence[Send]:
        """At least those that ended after a time; records are about in the order in which they ended."""
        first = len(self.all)
        while first and self.all[max(0, first - 1_000)].ended > when:
            first = max(0, first - 1_000)
        return self.all[max(0, first - 1_000) :]

    def first_ok(self, fault: int) -> int | None:
        """When the first OK send ended that was called after the fault. Answers to earlier ones may have been on their way, or
        waited at a busy client; nobody but the new master can have answered these."""
        return min((send.ended for send in self._tail(fault) if send.outcome == OK and send.called > fault), default=None)

    def window(self, since: int, before: int) -> Window:
        return Window.of(self._tail(since), since, before)


@dataclass(frozen=True)
class Window:
    """Of the sends that ended between two times."""

    ok: int
    failed: int
    gap_ms: float  # the longest time without an OK answer
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @classmethod
    def of(cls, sends: Iterable[Send], since: int, before: int) -> Window:
        inside = [send for send in sends if since < send.ended <= before]
        good = [send for send in inside if send.outcome == OK]
        ends = [since, *sorted(send.ended for send in good), before]
        gap = max(b - a for a, b in zip(ends, ends[1:], strict=False))
        times = sorted((send.ended - send.called) / 1e6 for send in good)
        return cls(
            len(good),
            len(inside) - len(good),
            gap / 1e6,
            quantile(times, 0.5),
            quantile(times, 0.99),
            times[-1] if times else None,
        )


def quantile(rising: Sequence[float], share: float) -> float | None:
    """Of values in rising order: the least that ``share`` of them don't exceed."""
    if not rising:
        return None
    return rising[min(len(rising) - 1, max(0, -int(-share * len(rising) // 1) - 1))]


@dataclass(frozen=True)
class Verdict:
    """Every acknowledged message has to be there; what was not acknowledged may be, and a message may be there twice."""

    acknowledged: int
    failed: int
    read: int
    lost: tuple[int, ...]
    twice: int
    unexpected: int

    @classmethod
    def of(cls, sends: Iterable[Send], called: int, read: Iterable[int]) -> Verdict:
        """``called``: how many sends there were, numbered from 0."""
        ended = list(sends)
        good = {send.number for send in ended if send.outcome == OK}
        times = Counter(read)
        return cls(
            acknowledged=len(good),
            failed=len(ended) - len(good),
            read=len(times),
            lost=tuple(sorted(good - times.keys())),
            twice=sum(count - 1 for count in times.values()),
            unexpected=sum(1 for number in times if not 0 <= number < called),
        )
