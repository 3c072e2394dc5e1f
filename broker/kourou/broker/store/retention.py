"""Which segments are old enough, or too many, to be deleted. Decides; the store deletes.

A segment goes whole, oldest first: when the last frame stored in it is older than ``retention_ms``, or when the log
without it still has ``retention_bytes``. Never the last one, never one without its index, and never one that reaches
above ``floor``: what the older of the two snapshots does not cover is the only place where it is written.

Clocks lie. Set back, they only make segments look younger. Set forward, they would delete everything, so time here moves
no faster than the monotonic clock, plus a minute a step: enough to follow a machine that slept, slow enough to notice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kourou.broker.store.store import Store

SEGMENTS_PER_STEP = 4
CATCH_UP_MS = 60_000


class SteadyClock:
    """Wall time that does not jump ahead."""

    def __init__(self) -> None:
        self._now_ms: int | None = None
        self._monotonic_ms = 0

    def step(self, *, wall_ms: int, monotonic_ms: int) -> int:
        if self._now_ms is None:
            self._now_ms = wall_ms
        else:
            passed_ms = monotonic_ms - self._monotonic_ms
            self._now_ms = min(wall_ms, self._now_ms + passed_ms + CATCH_UP_MS)
        self._monotonic_ms = monotonic_ms
        return self._now_ms


@dataclass(slots=True)
class Expired:
    base: int
    end: int
    last_ms: int
    reason: str


class Retention:
    """``retention_bytes`` 0: any size."""

    def __init__(self, *, retention_ms: int, retention_bytes: int) -> None:
        self._retention_ms = retention_ms
        self._retention_bytes = retention_bytes
        self._clock = SteadyClock()
        self._last_ms: dict[int, int] = {}  # store time of the last frame, by base

    def due(self, store: Store, *, floor: int, wall_ms: int, monotonic_ms: int) -> list[Expired]:
        """What to delete now, with ``Store.drop_segment`` in this order; at most a few a call."""
        now_ms = self._clock.step(wall_ms=wall_ms, monotonic_ms=monotonic_ms)
        bases = store.droppable(floor=floor)[:SEGMENTS_PER_STEP]
        self._last_ms = {base: self._last_ms.get(base) or store.last_store_ms(base) or now_ms for base in bases}
        return list(self._choose(store, bases, now_ms))

    def _choose(self, store: Store, bases: Sequence[int], now_ms: int) -> Iterator[Expired]:
        for base in bases:
            end, last_ms = store.log.segment_end(base), self._last_ms[base]
            if last_ms + self._retention_ms <= now_ms:
                yield Expired(base, end, last_ms, "older than the retention time")
            elif self._retention_bytes and store.end_offset - end >= self._retention_bytes:
                yield Expired(base, end, last_ms, "more than the retention size")
            else:
                return
