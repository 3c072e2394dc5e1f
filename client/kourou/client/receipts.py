"""What ``send_many`` gives back, and what it raises: receipts are made when they are looked at."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import overload

from kourou.client.logic.batch import Stored
from kourou.client.logic.recalls import format_recall
from kourou.client.message import Receipt
from kourou.core.errors import KourouError, OutcomeUnknown


class Receipts(Sequence[Receipt]):
    """A receipt for each message, in the order they were given."""

    def __init__(self, topic: str, parts: list[tuple[int, int, Stored]]) -> None:
        """``parts``: (first message, number of its record, where it went), sorted, each up to the next."""
        self._topic = topic
        self._parts = parts
        self._starts = [start for start, _, _ in parts]
        self._count = 0

    def close(self, count: int) -> Receipts:
        self._count = count
        return self

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Receipt: ...

    @overload
    def __getitem__(self, index: slice) -> list[Receipt]: ...

    def __getitem__(self, index: int | slice) -> Receipt | list[Receipt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(index)
        start, first, stored = self._parts[bisect_right(self._starts, index) - 1]
        return make_receipt(self._topic, stored, first + index - start)

    def __iter__(self) -> Iterator[Receipt]:
        return (self[i] for i in range(self._count))


def make_receipt(topic: str, stored: Stored, number: int) -> Receipt:
    recall_handle = None
    if stored.dues is not None:
        recall_handle = format_recall(stored.broker, stored.log_offset, number, stored.dues[number])
    return Receipt(
        stored.id(number),
        topic,
        stored.broker,
        stored.queue_id,
        stored.offset + number,
        stored.store_ms,
        stored.duplicate,
        recall_handle,
    )


class SendFailed(KourouError):
    """Some messages of ``send_many``, or of those given to ``post``, were not stored, or it is not known whether they were.

    ``failures`` holds (how many messages, why). ``unknown`` is True if any of them may be stored all the same.
    """

    def __init__(self, topic: str, failures: list[tuple[int, KourouError]]) -> None:
        self.failures = failures
        self.unknown = any(isinstance(failure, OutcomeUnknown) for _, failure in failures)
        count = sum(number for number, _ in failures)
        kinds = sorted({type(failure).__name__ for _, failure in failures})
        super().__init__(f"{count} messages to {topic} failed ({', '.join(kinds)}); the first: {failures[0][1]}")
