"""Making a closed segment's .idx anew from its frames, when the file is missing or damaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kourou.broker.store.columns import check_columns
from kourou.broker.store.indexbuild import build_index
from kourou.broker.store.indexfile import IndexFile
from kourou.broker.store.indexformat import RUN_DTYPE
from kourou.broker.store.openindex import NO_SEGMENT, NO_TIME, ROW_DTYPE, Links, OpenIndex, producer_mix
from kourou.broker.store.scan import ScannedFrame
from kourou.core.errors import ClientFault, DamagedLog
from kourou.core.frame import Kind, queue_key

ANY_TAG = 2**64 - 1


class IndexRebuild:
    """Takes a segment's frames in order. Touches no index in use; the links come from the older segments.

    Skip links are as short as ``previous``: correct, and only as slow as one more step.
    """

    def __init__(self, base: int, older: Sequence[OpenIndex | IndexFile]) -> None:
        self._rows = OpenIndex(base)
        self.older = older
        self._numbers: dict[int, int] = {}
        self._latest: list[int] = []

    def add(
        self,
        key: int,
        queue_offset: int,
        log_offset: int,
        size: int,
        count: int,
        tag_mask: int,
        store_ms: int,
        producer_id: int,
        sequence: int,
        key_hashes: NDArray[np.uint32] | None,
    ) -> None:
        if log_offset < self._rows.end:
            raise DamagedLog(f"frame at {log_offset} is indexed again; the index reaches to {self._rows.end}")
        number = self._numbers.setdefault(key, len(self._latest))
        if number == len(self._latest):
            self._latest.append(NO_TIME)
        store_ms = self._latest[number] = max(store_ms, self._latest[number])
        mix = producer_mix(producer_id, sequence) if producer_id else 0
        self._rows.add(number, queue_offset, log_offset, size, count, tag_mask, store_ms, mix, key_hashes)

    def build(self, end: int) -> list[bytes | memoryview]:
        """The parts of the file; ``end`` is the log offset behind the segment. Once.

        Raises DamagedIndex, naming an older segment; ``older`` may be replaced then, and this called again.
        """
        links, latest = self._links()
        rows = np.frombuffer(self._rows.rows, ROW_DTYPE)
        if len(rows):
            np.maximum(rows["store_ms"], latest[rows["queue"]], out=rows["store_ms"])
        self._rows.freeze(links, end)
        return build_index(self._rows)

    def _links(self) -> tuple[Links, NDArray[np.int64]]:
        """From the directories of older segments, newest first, until every queue is found or none are left."""
        count = len(self._numbers)
        keys = np.fromiter(self._numbers, np.uint64, count)
        previous = np.full(count, NO_SEGMENT, np.uint64)
        depth = np.ones(count, np.uint32)
        latest = np.full(count, NO_TIME, np.int64)
        missing = np.arange(count)
        for segment in reversed(self.older):
            if not len(missing):
                break
            directory = _directory(segment)
            at = directory["key"].searchsorted(keys[missing])
            at[at == len(directory)] = 0
            hit = directory["key"][at] == keys[missing] if len(directory) else np.zeros(len(missing), bool)
            found, there = missing[hit], at[hit]
            previous[found] = segment.base
            depth[found] = directory["depth"][there] + np.uint32(1)
            latest[found] = directory["latest_ms"][there]
            missing = missing[~hit]
        return Links(np.arange(count, dtype=np.uint32), keys, depth, previous, previous.copy()), latest


def _directory(segment: OpenIndex | IndexFile) -> NDArray[np.void]:
    if isinstance(segment, IndexFile):
        return segment.directory()
    links = segment.links
    assert links is not None
    directory = np.zeros(len(links.keys), RUN_DTYPE)
    directory["key"], directory["depth"] = links.keys, links.depth
    directory["latest_ms"] = [run[2] for run in sorted(segment.last_rows())]
    directory.sort(order="key")
    return directory


def frame_entry(item: ScannedFrame) -> tuple[int, int, int, int, int, int, int, int, int, NDArray[np.uint32] | None]:
    prefix, header = item.prefix, item.header
    mask, hashes = 0, None
    if header.kind == Kind.MESSAGES:
        try:
            facts = check_columns(item.sealed, 0, header)
        except ClientFault:  # a limit is stricter now than when it was stored: no reason to lose it
            mask = ANY_TAG
        else:
            mask, hashes = facts.tag_mask, facts.key_hashes
    return (
        queue_key(prefix.incarnation, header),
        prefix.queue_offset,
        prefix.log_offset,
        prefix.size,
        header.record_count,
        mask,
        prefix.store_ms,
        header.producer_id,
        header.sequence,
        hashes,
    )
