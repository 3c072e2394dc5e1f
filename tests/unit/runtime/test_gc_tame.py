"""When a full collection may run."""

from __future__ import annotations

from kourou.runtime.gc_tame import FULL_EVERY_S, IdleWatch


def test_a_full_collection_needs_idleness_and_time() -> None:
    watch = IdleWatch(now_s=0.0, cpu_s=0.0)
    now_s = cpu_s = 0.0
    due: list[float] = []
    for _ in range(300):  # idle, asked every 10 s for 50 minutes
        now_s, cpu_s = now_s + 10.0, cpu_s + 0.05
        if watch.due(now_s=now_s, cpu_s=cpu_s):
            due.append(now_s)
    assert due == [FULL_EVERY_S * n for n in range(1, 6)]


def test_a_busy_process_has_none() -> None:
    watch = IdleWatch(now_s=0.0, cpu_s=0.0)
    assert not any(watch.due(now_s=n * 10.0, cpu_s=n * 1.0) for n in range(1, 500))


def test_questions_in_quick_succession_say_nothing_about_idleness() -> None:
    watch = IdleWatch(now_s=0.0, cpu_s=0.0)
    watch.due(now_s=FULL_EVERY_S * 2 - 0.1, cpu_s=5_000.0)
    assert not watch.due(now_s=FULL_EVERY_S * 2, cpu_s=5_000.0)
    assert watch.due(now_s=FULL_EVERY_S * 2 + 10, cpu_s=5_000.0)
