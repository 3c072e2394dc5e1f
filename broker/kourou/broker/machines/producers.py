"""Idempotence: what became of the last frames of each producer, a projection of the log's message frames.

A producer numbers its frames at each broker log; holes are legal. The broker keeps the results of the WINDOW sequences up
to the highest one it has stored. A frame in the window is a duplicate and gets its first answer again; one below it is
refused, because nobody can tell any more; anything else is new.

Windows are dropped after EXPIRE_MS of log time without a frame and, least recently used first, beyond ``producers_max``.
Both are decided by the frames alone, so every replica drops the same ones. A window that was captured for a snapshot is
copied before its next change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kourou.broker.machines.projection import decode_items, digest_of, encode_slices
from kourou.core.errors import FrameInvalid, SequenceExpired
from kourou.core.limits import PRODUCER_WINDOW

PRODUCERS_MAX = 20_000
EXPIRE_MS = 7 * 86_400_000
DROPPED_AT_ONCE_MAX = 64  # so that the first new producer after a quiet week does not hold the loop


class Stored(NamedTuple):
    """Where a frame went."""

    crc: int
    queue_key: int
    queue_offset: int
    log_offset: int
    end_offset: int
    store_ms: int


class _Window:
    __slots__ = ("captured", "highest", "results", "store_ms")

    def __init__(self, highest: int, store_ms: int, captured: int) -> None:
        self.highest = highest
        self.store_ms = store_ms
        self.captured = captured  # how many captures there had been when it was made
        self.results: dict[int, Stored] = {}

    def copy(self, captured: int) -> _Window:
        twin = _Window(self.highest, self.store_ms, captured)
        twin.results = self.results.copy()
        return twin


class ProducerWindows:
    def __init__(self, *, producers_max: int = PRODUCERS_MAX) -> None:
        self._windows: dict[int, _Window] = {}  # least recently used first
        self._producers_max = producers_max
        self._captures = 0

    def __len__(self) -> int:
        return len(self._windows)

    def check(self, producer_id: int, sequence: int, crc: int) -> Stored | None:
        """The result of this very frame if it was stored before, None if it is new.

        Raises SequenceExpired below the window, FrameInvalid when the sequence was used for other content.
        """
        window = self._windows.get(producer_id)
        if window is None or sequence > window.highest:
            return None
        known = window.results.get(sequence)
        if known is not None:
            if known.crc != crc:
                raise FrameInvalid(f"sequence {sequence} of producer {producer_id:#x} was used for a different frame")
            return known
        if sequence <= window.highest - PRODUCER_WINDOW:
            raise SequenceExpired(
                f"sequence {sequence} is too old: the broker keeps the results of the last {PRODUCER_WINDOW} sequences, "
                f"the highest is {window.highest}"
            )
        return None

    def applied(self, producer_id: int, sequence: int, stored: Stored) -> None:
        """Replay of a message frame."""
        window = self._windows.pop(producer_id, None)
        if window is None:
            window = _Window(sequence, stored.store_ms, self._captures)
            self._drop_old(stored.store_ms)
        else:
            if window.captured != self._captures:
                window = window.copy(self._captures)
            if sequence > window.highest:
                results = window.results
                first_out = window.highest - PRODUCER_WINDOW + 1
                last_out = sequence - PRODUCER_WINDOW
                if last_out - first_out >= PRODUCER_WINDOW:
                    results.clear()
                else:
                    for old in range(first_out, last_out + 1):
                        results.pop(old, None)
                window.highest = sequence
            window.store_ms = stored.store_ms
        if sequence > window.highest - PRODUCER_WINDOW:  # else: new when checked, but stored behind one far ahead of it
            window.results[sequence] = stored
        self._windows[producer_id] = window

    def _drop_old(self, now_ms: int) -> None:
        """Called for each new producer, so there are never more than ``producers_max``."""
        for _ in range(DROPPED_AT_ONCE_MAX):
            oldest = next(iter(self._windows), None)
            if oldest is None or (
                len(self._windows) < self._producers_max and self._windows[oldest].store_ms >= now_ms - EXPIRE_MS
            ):
                break
            del self._windows[oldest]

    # ---- projection

    def snapshot(self) -> Iterator[bytes]:
        """Captured now, encoded as it is drawn from."""
        self._captures += 1
        return encode_slices(_items(list(self._windows), list(self._windows.values())))

    def restore(self, data: bytes) -> None:
        """Become what was captured, whatever was here before."""
        self._windows.clear()
        for producer, highest, store_ms, results in decode_items(data):
            window = _Window(highest, store_ms, self._captures)
            window.results = {entry[0]: Stored(*entry[1:]) for entry in results}
            self._windows[producer] = window

    def digest(self) -> str:
        return digest_of(_items(self._windows, self._windows.values()))


def _items(producers: Iterable[int], windows: Iterable[_Window]) -> Iterator[Any]:
    """[producer, highest sequence, store ms, [[sequence, *result], ...]], least recently used first."""
    for producer, window in zip(producers, windows, strict=True):
        yield [producer, window.highest, window.store_ms, [[s, *window.results[s]] for s in sorted(window.results)]]
