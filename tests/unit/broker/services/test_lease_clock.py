"""Leases go by a time that does not jump with the wall clock, nor at a takeover."""

from __future__ import annotations

from kourou.broker.services.shared.leaseclock import LeaseClock
from kourou.core.clock import ManualClock

HOUR_MS = 3_600_000


def test_it_begins_with_the_walls_time_and_does_not_jump_with_it() -> None:
    clock = ManualClock(monotonic_ms=5)
    leases = LeaseClock(clock)
    began_ms = clock.wall_ms()
    assert leases.wall_ms() == began_ms
    clock.jump_wall(HOUR_MS)
    clock.advance(1_000)
    assert leases.wall_ms() == began_ms + 1_000
    clock.jump_wall(-3 * HOUR_MS)
    assert leases.wall_ms() == began_ms + 1_000


def test_a_new_master_goes_on_with_the_time_of_the_former() -> None:
    clock = ManualClock(monotonic_ms=70_000)
    former_ms = clock.wall_ms() - HOUR_MS  # this member's clock is an hour ahead
    leases = LeaseClock(clock, former_ms - 60_000)
    assert leases.wall_ms() == former_ms + 10_000
    clock.advance(500)
    assert leases.wall_ms() == former_ms + 10_500
    assert leases.monotonic_ms() == 70_500
