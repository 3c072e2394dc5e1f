"""Periodic jobs: errors that are expected, bugs, stopping."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kourou.core.errors import Busy, DiskFull, InternalError
from kourou.runtime.tasks import LoopLag, Periodic


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.events.append((level, event, fields))


async def test_expected_errors_are_survived() -> None:
    log, bugs, calls = Log(), list[str](), list[int]()
    done = asyncio.Event()

    def job() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise DiskFull("no room")
        if len(calls) == 2:
            raise Busy("later")
        done.set()

    tasks = Periodic(log, on_bug=bugs.append)
    tasks.every(0, "job", job)
    await done.wait()
    await tasks.stop()
    assert bugs == []
    assert [(level, event, fields["reason"]) for level, event, fields in log.events] == [
        ("warning", "job_failed", "no room"),
        ("warning", "job_failed", "later"),
    ]


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), InternalError("a bug"), OSError("unforeseen")])
async def test_a_bug_is_the_owners(bug: Exception) -> None:
    """It is logged with its traceback and the job is not run again; other jobs go on."""
    log, bugs, calls, others = Log(), list[str](), list[int](), list[int]()
    told = asyncio.Event()

    async def job() -> None:
        calls.append(1)
        raise bug

    def on_bug(reason: str) -> None:
        bugs.append(reason)
        told.set()

    tasks = Periodic(log, on_bug=on_bug)
    tasks.every(0, "job", job)
    tasks.every(0, "other", lambda: others.append(1))
    await told.wait()
    before = len(others)
    while len(others) < before + 3:
        await asyncio.sleep(0)
    await tasks.stop()
    assert calls == [1]
    assert bugs == [f"job: {bug!r}"]
    assert log.events == [("error", "job_crashed", {"job": "job", "exc_info": bug})]


async def test_a_job_never_runs_beside_itself_and_is_stopped_inside() -> None:
    running, most, ended = 0, 0, False

    async def job() -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1
            ended = True

    tasks = Periodic(Log(), on_bug=lambda reason: None)
    tasks.every(0, "job", job)
    while not running:
        await asyncio.sleep(0)
    await tasks.stop()
    assert (running, most, ended) == (0, 1, True)
    await tasks.stop()


async def test_loop_lag_is_counted() -> None:
    lag = LoopLag()
    while sum(lag.buckets) < 3:
        await asyncio.sleep(LoopLag.PERIOD_S)
    lag.stop()
    assert len(lag.buckets) == len(LoopLag.BOUNDS_MS) + 1
    assert 0 <= lag.max_ms <= lag.sum_ms
