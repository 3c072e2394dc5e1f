"""Timers in a snapshot: a line of JSON with the numbers, then the bits of the buckets, then the columns of the pages.

    {"counts", "deleted", "moved", "log_end", "bucket", "page",
     "buckets": [[number, count, start, end, ..., bytes of bits], ...],
     "pages": [[number, open, limit, frames, timers, lanes], ...]}\\n
    bits of each bucket
    of each page: log offsets u64, starts u16, records u16, lanes of frames u16; due times i64, alive u8; lanes u64

Columns are little-endian.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kourou.broker.machines.timerbuckets import Bucket
from kourou.broker.machines.timerpages import UNKNOWN, Page

_FRAME_BYTES = 8 + 2 + 2 + 2
_TIMER_BYTES = 8 + 1


@dataclass(slots=True)
class PageCopy:
    """A page as it was: what may still change is copied, the rest is shared."""

    number: int
    open: bool
    limit_ms: int
    offsets: array[int]
    starts: array[int]
    records: array[int]
    part_lanes: array[int]
    due: array[int]
    alive: bytes
    lanes: array[int]

    @staticmethod
    def of(page: Page) -> PageCopy:
        columns = page.offsets, page.starts, page.records, page.part_lanes, page.due
        lanes = page.lanes
        if page.open:
            columns, lanes = tuple(column[:] for column in columns), lanes[:]  # type: ignore[assignment]
        return PageCopy(page.number, page.open, page.limit_ms, *columns, bytes(page.alive), lanes)

    def restore(self) -> Page:
        page = Page(self.number)
        page.open, page.limit_ms = self.open, self.limit_ms
        page.offsets, page.starts, page.records = self.offsets, self.starts, self.records
        page.part_lanes, page.due, page.lanes = self.part_lanes, self.due, self.lanes
        page.alive = bytearray(self.alive)
        page.left = page.alive.count(1) if self.limit_ms > max(self.due, default=0) else UNKNOWN
        page.due_low = min(self.due, default=page.due_low)
        if page.open:
            page.know_lanes()
        return page


def encode(numbers: dict[str, Any], buckets: Iterable[Bucket], pages: list[PageCopy]) -> Iterator[bytes]:
    """Captured when called, encoded as it is drawn from."""
    bits = [bytes(bucket.bits) for bucket in buckets]
    head = {
        **numbers,
        "buckets": [[*bucket.numbers(), len(some)] for bucket, some in zip(buckets, bits, strict=True)],
        "pages": [[p.number, p.open, p.limit_ms, len(p.offsets), len(p.due), len(p.lanes)] for p in pages],
    }
    return _slices(json.dumps(head).encode() + b"\n", bits, pages)


def _slices(head: bytes, bits: list[bytes], pages: list[PageCopy]) -> Iterator[bytes]:
    yield head
    yield from filter(None, bits)
    for page in pages:
        columns = page.offsets, page.starts, page.records, page.part_lanes, page.due
        yield b"".join((*(column.tobytes() for column in columns), page.alive, page.lanes.tobytes()))


def decode(data: bytes) -> tuple[dict[str, Any], list[Bucket], list[Page]]:
    line, _, _ = data.partition(b"\n")
    head = json.loads(line)
    at = len(line) + 1

    def column(code: str, count: int) -> array[int]:
        nonlocal at
        values: array[int] = array(code)
        values.frombytes(data[at : at + count * values.itemsize])
        at += count * values.itemsize
        return values

    buckets = [Bucket.of(numbers, column("B", size).tobytes()) for *numbers, size in head["buckets"]]
    pages: list[Page] = []
    for number, is_open, limit_ms, frames, timers, lanes in head["pages"]:
        copied = PageCopy(
            number, is_open, limit_ms, column("Q", frames), column("H", frames), column("H", frames), column("H", frames),
            column("q", timers), column("B", timers).tobytes(), column("Q", lanes),
        )  # fmt: skip
        pages.append(copied.restore())
    return head, buckets, pages
