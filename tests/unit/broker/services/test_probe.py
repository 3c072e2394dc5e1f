"""Whether a process has ended, judged by how its host answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kourou.broker.services.replication.master import has_ended

pytestmark = pytest.mark.virtual_time


async def ended(answers: Iterator[bool]) -> bool:
    async def refused(address: str) -> bool:
        assert address == "h:1"
        return next(answers)

    return await has_ended("h:1", refused)


async def test_two_refusals_in_a_row() -> None:
    assert await ended(iter([True, True]))


async def test_it_accepts_while_it_is_ending() -> None:
    """Its listening socket may be the last that is closed."""
    assert await ended(iter([False, True, False, False, True, True]))


async def test_it_is_there() -> None:
    def always() -> Iterator[bool]:
        while True:
            yield False

    assert not await ended(always())
