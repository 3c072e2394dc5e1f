"""How fast slaves that catch up are sent old log."""

from __future__ import annotations

import pytest

from kourou.broker.services.replication.pace import Pace

MIB = 1024 * 1024


def seconds(pace: Pace, total: int, *, busy: bool = False, grows_per_s: float = 0.0) -> float:
    """How long it takes to send so much, a MiB at a time."""
    now = end = 0.0
    for _ in range(total // MIB):
        waited = pace.wait_s(MIB, end=int(end), busy=busy, now_s=now)
        now += waited
        end += waited * grows_per_s
    return now


def test_no_limit() -> None:
    assert seconds(Pace(0), 1000 * MIB) == 0


def test_the_rate_is_kept() -> None:
    assert seconds(Pace(100 * MIB), 1000 * MIB) == pytest.approx(10, rel=0.05)


def test_it_yields_to_members_that_wait() -> None:
    assert seconds(Pace(100 * MIB), 1000 * MIB, busy=True) == pytest.approx(40, rel=0.05)


def test_it_gets_there_however_fast_the_log_grows() -> None:
    """100 MiB/s on top of 400 MiB/s that are appended."""
    assert seconds(Pace(100 * MIB), 1000 * MIB, grows_per_s=400 * MIB) == pytest.approx(2, rel=0.1)


def test_a_pause_does_not_add_up() -> None:
    pace = Pace(100 * MIB)
    pace.wait_s(MIB, end=0, busy=False, now_s=0)
    assert pace.wait_s(60 * MIB, end=0, busy=False, now_s=1_000) == pytest.approx(0.5)
