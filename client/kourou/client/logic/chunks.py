"""Cutting a list of bodies into batches, without a loop over the messages. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from kourou.core.limits import RECORDS_PER_FRAME_MAX


def chunks(sizes: list[int], largest: int, batch_bytes: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, bytes) of runs of messages that make a batch; without a loop over the messages."""
    count = len(sizes)
    if min(sizes) == largest:
        per = max(1, min(RECORDS_PER_FRAME_MAX, batch_bytes // max(1, largest)))
        for start in range(0, count, per):
            end = min(count, start + per)
            yield start, end, (end - start) * largest
        return
    ends = list(accumulate(sizes))
    start = 0
    before = 0
    while start < count:
        end = max(start + 1, bisect_right(ends, before + batch_bytes))
        end = min(end, start + RECORDS_PER_FRAME_MAX, count)
        yield start, end, ends[end - 1] - before
        start, before = end, ends[end - 1]
