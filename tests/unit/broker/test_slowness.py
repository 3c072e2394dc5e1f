"""When a broker finds itself too slow for a master."""

from __future__ import annotations

from kourou.app.slowness import LOOP_LATE_MS, SYNC_LATE_MS, SYNC_STUCK_MS, WITHIN_MS, Slowness


def test_three_late_loops_within_a_minute() -> None:
    slow = Slowness()
    assert slow.loop_was_late(LOOP_LATE_MS - 1, now_ms=0) is None
    found = [slow.loop_was_late(LOOP_LATE_MS, now_ms=ms) for ms in (0, 2, WITHIN_MS + 1, WITHIN_MS + 2)]
    found.append(slow.loop_was_late(LOOP_LATE_MS, now_ms=WITHIN_MS + 2))  # it begins anew
    assert [reason is not None for reason in found] == [False, False, False, True, False]
    assert found[3] is not None
    assert "held up" in found[3]


def test_late_loops_that_are_far_apart() -> None:
    slow = Slowness()
    assert not any(slow.loop_was_late(LOOP_LATE_MS, now_ms=ms * WITHIN_MS) for ms in range(10))


def test_a_sync_counts_once_however_often_it_is_looked_at() -> None:
    slow = Slowness()
    for number in range(3):
        looks = [slow.sync_took(SYNC_LATE_MS + ms, running=ms < 300, now_ms=number) for ms in (0, 100, 200, 300)]
        assert [reason is not None for reason in looks] == [number == 2, False, False, False]
        assert slow.sync_took(1, running=True, now_ms=number) is None  # the next one


def test_a_sync_that_does_not_come_back() -> None:
    slow = Slowness()
    assert slow.sync_took(SYNC_STUCK_MS - 1, running=True, now_ms=0) is None
    assert slow.sync_took(SYNC_STUCK_MS, running=True, now_ms=1) is not None


def test_a_sync_that_hangs_is_told_once_and_once_more_when_it_is_over() -> None:
    slow = Slowness()
    for _ in range(2):
        assert not slow.stuck
        looks = [slow.sync_took(SYNC_STUCK_MS + ms, running=True, now_ms=ms) for ms in (0, 250, 500)]
        assert [reason is not None for reason in looks] == [True, False, False]
        assert slow.stuck
        over = slow.sync_took(SYNC_STUCK_MS + 700, running=False, now_ms=750)
        assert over is not None
        assert f"{SYNC_STUCK_MS + 700} ms" in over
    assert not slow.stuck
    assert slow.sync_took(1, running=True, now_ms=1_000) is None


def test_the_next_sync_runs_already_when_one_that_hung_is_over() -> None:
    slow = Slowness()
    slow.sync_took(SYNC_STUCK_MS, running=True, now_ms=0)
    slow.sync_took(SYNC_STUCK_MS + 200, running=True, now_ms=250)  # the longest since: it is over
    over = slow.sync_took(5, running=True, now_ms=500)
    assert over is not None
    assert f"{SYNC_STUCK_MS + 200} ms" in over


def test_the_worst_is_told_once() -> None:
    slow = Slowness()
    slow.loop_was_late(12, now_ms=0)
    slow.loop_was_late(3, now_ms=0)
    slow.sync_took(40, running=False, now_ms=0)
    assert slow.facts() == {"loop_lag_ms": 12, "sync_ms": 40}
    assert slow.facts() == {"loop_lag_ms": 0, "sync_ms": 0}
