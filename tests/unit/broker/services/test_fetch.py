"""Reads that wait."""

from __future__ import annotations

import asyncio

import pytest

from kourou.broker.services.fetch import WAITING_OF_ONE_MAX, FetchService, Waits
from kourou.core.errors import NotConnected, TooManyRequests
from kourou.core.route import Placement, TopicType
from tests.unit.broker.services.engine import Engine


async def test_what_waits_ends_with_its_connection() -> None:
    async with Engine() as engine:
        await engine.admin.create_topic("t", TopicType.NORMAL, (Placement("a", 1),), automatic=False)
        fetch = FetchService(engine.store, engine.state, engine.journal, read_executor=engine.reads)
        gone, there = Waits(), Waits()

        def read(waits: Waits) -> asyncio.Task[object]:
            return asyncio.create_task(fetch.fetch("t", 0, 0, bytes_max=100, wait_ms=30_000, waits=waits))

        tasks = [read(gone) for _ in range(WAITING_OF_ONE_MAX)]
        other = read(there)
        await engine.turns()
        with pytest.raises(TooManyRequests, match="of this connection"):
            await read(gone)
        gone.end()
        for failure in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(failure, NotConnected)
        assert not other.done()
        assert fetch._waiting_count == len(there.waiting) == 1
        there.end()
        with pytest.raises(NotConnected):
            await other
        assert fetch._waiting_count == 0
        assert fetch._waiting == {}
