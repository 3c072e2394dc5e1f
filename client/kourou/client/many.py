"""The outcomes of one ``send_many``, gathered as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kourou.client.logic.batch import Batch, Outcome, Stored
from kourou.client.receipts import Receipts, SendFailed
from kourou.core.errors import KourouError


class Many:
    def __init__(self, topic: str, future: asyncio.Future[None]) -> None:
        self._topic = topic
        self._future = future
        self._missing = 0
        self._waiting = False
        self._parts: list[tuple[int, int, Stored]] = []
        self._failures: list[tuple[int, KourouError]] = []

    def expect(self, start: int) -> Callable[[Batch, Outcome], None]:
        """For a batch whose first record is message number ``start``."""
        self._missing += 1

        def done(batch: Batch, outcome: Outcome) -> None:
            if isinstance(outcome, Stored):
                self._parts.append((start, 0, outcome))
            else:
                self._failures.append((len(batch.records), outcome))
            self._arrived()

        return done

    def expect_one(self, index: int) -> Callable[[int, Outcome], None]:
        """For a message that shares its batch with others."""
        self._missing += 1

        def called(number: int, outcome: Outcome) -> None:
            if isinstance(outcome, Stored):
                self._parts.append((index, number, outcome))
            else:
                self._failures.append((1, outcome))
            self._arrived()

        return called

    def _arrived(self) -> None:
        self._missing -= 1
        if self._missing == 0 and self._waiting and not self._future.done():
            self._future.set_result(None)

    async def wait(self, count: int) -> Receipts:
        self._waiting = True
        if self._missing:
            await self._future
        if self._failures:
            raise SendFailed(self._topic, self._failures)
        self._parts.sort(key=lambda part: part[0])
        return Receipts(self._topic, self._parts).close(count)
