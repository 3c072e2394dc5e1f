"""What is known of a bucket without its file: what it holds, how far it was delivered, what of it was recalled; and
which of many are to be made one.

A bucket's file never changes. Its timers have positions, in order of time; those below the floor are retired, and above it
those whose bits are set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
Place = tuple[int, int]

MERGE_COUNT = 8  # so many neighbours of a size become one
MERGED_TIMERS_MAX = 512 * 1024
MERGED_BYTES_MAX = 1024 * 1024 * 1024
SMALLEST = 64  # up to so many timers are one size; the next is eight times that
REWRITE_AHEAD_MS = 6 * 3_600_000  # a half empty bucket that ends sooner is left alone


@dataclass(slots=True)
class Bucket:
    number: int
    count: int
    start: Place  # every timer in it was stored at or behind this place
    end: Place  # and before this one
    last_due_ms: int
    size: int  # of the file
    checksum: int  # of the file's head
    floor: int = 0
    next_due_ms: int = 0  # nothing at or above the floor is due before
    recalled: int = 0
    bits: bytearray = field(default_factory=bytearray)  # of the recalled; empty while there are none

    @property
    def left(self) -> int:
        """How many may still be waiting; those of deleted topics are counted too."""
        return self.count - self.floor - self.recalled

    def is_retired(self, position: int) -> bool:
        return position < self.floor or bool(self.bits and self.bits[position >> 3] >> (position & 7) & 1)

    def recall(self, position: int) -> bool:
        """Whether that changed anything."""
        if self.is_retired(position) or position >= self.count:
            return False
        if not self.bits:
            self.bits = bytearray((self.count + 7) // 8)
        self.bits[position >> 3] |= 1 << (position & 7)
        self.recalled += 1
        return True

    def set_floor(self, floor: int, next_due_ms: int) -> None:
        if floor > self.floor and self.bits:
            self.recalled -= sum(self.is_retired(position) for position in range(self.floor, floor))
        self.floor, self.next_due_ms = max(floor, self.floor), next_due_ms

    # ---- in a snapshot: the numbers in its head, the bits behind them

    def numbers(self) -> list[Any]:
        return [
            self.number, self.count, self.start, self.end, self.last_due_ms, self.size, self.checksum, self.floor,
            self.next_due_ms, self.recalled,
        ]  # fmt: skip

    @staticmethod
    def of(numbers: list[Any], bits: bytes) -> Bucket:
        number, count, start, end, last_due_ms, size, checksum, floor, next_due_ms, recalled = numbers
        return Bucket(
            number, count, (start[0], start[1]), (end[0], end[1]), last_due_ms, size, checksum, floor, next_due_ms, recalled,
            bytearray(bits),
        )  # fmt: skip


def bucket_of(record: Record) -> Bucket:
    """What a ``tm>`` record makes."""
    start, end = record["log"]
    last_due_ms, size, checksum = record["file"]
    floor, next_due_ms = record["floor"]
    bucket = Bucket(
        record["b"], record["n"], (start[0], start[1]), (end[0], end[1]), last_due_ms, size, checksum, floor, next_due_ms
    )
    for position in record["dead"]:
        bucket.recall(position)
    return bucket


def to_merge(buckets: Iterable[Bucket], *, now_ms: int) -> list[Bucket]:
    """Neighbours that are to become one bucket, or one that is half empty; none: all is well."""
    ordered = sorted(buckets, key=lambda bucket: bucket.start)
    for bucket in ordered:
        if bucket.left * 2 <= bucket.count and bucket.count > SMALLEST and bucket.last_due_ms > now_ms + REWRITE_AHEAD_MS:
            return [bucket]
    ceiling = SMALLEST
    while ceiling * MERGE_COUNT <= MERGED_TIMERS_MAX:
        run: list[Bucket] = []
        for bucket in ordered:
            run = [*run, bucket] if bucket.left <= ceiling else []
            run = run[-MERGE_COUNT:]
            if len(run) == MERGE_COUNT and sum(each.size for each in run) <= MERGED_BYTES_MAX:
                return run
        ceiling *= MERGE_COUNT
    return []
