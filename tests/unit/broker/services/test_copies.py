"""One answer for several records."""

from __future__ import annotations

from kourou.broker.services.shared.copies import Copies
from kourou.core.errors import KourouError, OutcomeUnknown


def test_told_when_the_last_has_come() -> None:
    told: list[KourouError | None] = []
    copies = Copies()
    first, second = copies.one(), copies.one()
    first(None)
    copies.then(told.append)
    assert told == []
    second(None)
    assert told == [None]


def test_told_at_once_when_all_were_there_before() -> None:
    told: list[KourouError | None] = []
    copies = Copies()
    copies.one()(None)
    copies.then(told.append)
    assert told == [None]


def test_one_that_is_lost_is_told() -> None:
    told: list[KourouError | None] = []
    copies = Copies()
    first, second = copies.one(), copies.one()
    copies.then(told.append)
    lost = OutcomeUnknown("gone")
    first(lost)
    second(None)
    assert told == [lost]
