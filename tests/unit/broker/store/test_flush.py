"""Group commit: one fdatasync for all that wait, where it runs, and that a failure is final."""

from __future__ import annotations

import pytest

from kourou.broker.store.flush import GroupCommit, Where
from kourou.core.errors import FlushFailed


def make(interval_ms: int | None = None) -> GroupCommit[str]:
    return GroupCommit(interval_ms=interval_ms, inline_ms_max=1.0, synced=100, now_ms=0)


def once(commit: GroupCommit[str], *, took_ms: float, waiters: int = 1) -> Where:
    end = commit.end + 10
    commit.appended(end)
    for number in range(waiters):
        commit.wait(end, str(number))
    where = commit.step(now_ms=0).where
    commit.started(now_ms=0)
    assert len(commit.done(end, took_ms=took_ms)) == waiters
    return where


def test_waiters_share_a_call() -> None:
    commit = make()
    assert commit.step(now_ms=0).where is Where.IDLE
    commit.appended(200)
    assert commit.step(now_ms=0).where is Where.IDLE  # nobody waits
    assert not commit.wait(100, "durable already")
    commit.wait(150, "a")
    commit.wait(200, "b")
    assert commit.step(now_ms=0).where is Where.IN_THREAD
    commit.started(now_ms=0)
    commit.appended(300)
    commit.wait(300, "c")
    assert commit.step(now_ms=0).where is Where.IDLE  # one at a time
    assert commit.done(200, took_ms=0.1) == ["a", "b"]
    assert commit.step(now_ms=0).where is not Where.IDLE
    commit.started(now_ms=0)
    assert commit.done(300, took_ms=0.1) == ["c"]
    assert (commit.synced, commit.step(now_ms=0).where) == (300, Where.IDLE)


def test_a_lone_waiter_is_served_in_place_while_the_disk_is_fast() -> None:
    commit = make()
    places = [once(commit, took_ms=0.1) for _ in range(5)]
    assert places == [Where.IN_THREAD] + [Where.IN_PLACE] * 4
    assert once(commit, took_ms=0.1, waiters=2) is Where.IN_THREAD
    assert once(commit, took_ms=50) is Where.IN_PLACE
    places = [once(commit, took_ms=0.1) for _ in range(6)]
    assert places == [Where.IN_THREAD] * 3 + [Where.IN_PLACE] * 3


def test_interval() -> None:
    commit = make(interval_ms=200)
    assert commit.step(now_ms=1000).where is Where.IDLE
    commit.appended(120)
    early = commit.step(now_ms=150)
    assert (early.where, early.at_ms) == (Where.IDLE, 200)
    assert commit.step(now_ms=200).where is Where.IN_THREAD
    commit.started(now_ms=210)
    commit.done(120, took_ms=5)
    commit.appended(130)
    assert commit.step(now_ms=300).at_ms == 410
    commit.wait(130, "a")  # asked for by a topic that wants it
    assert commit.step(now_ms=300).where is Where.IN_THREAD


def test_failure_is_final() -> None:
    commit = make()
    commit.appended(200)
    commit.wait(150, "a")
    commit.wait(200, "b")
    commit.started(now_ms=0)
    assert commit.failed(FlushFailed("disk")) == ["a", "b"]
    with pytest.raises(FlushFailed):
        commit.wait(200, "c")
    assert not commit.wait(100, "was durable before")
    assert commit.step(now_ms=0).where is Where.IDLE


def test_cut() -> None:
    commit = make()
    commit.appended(300)
    for offset in (150, 200, 300):
        commit.wait(offset, str(offset))
    assert commit.cut(180) == ["200", "300"]
    commit.started(now_ms=0)
    assert commit.done(180, took_ms=1) == ["150"]
