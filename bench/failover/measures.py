"""The measures of one round: something is done to a cluster that a producer sends to, and what the producer saw of it.

Each gives figures by name, in ms where nothing else is said. *First OK*: from the fault to the end of the first OK send that
was called after it. *Gap*: the longest time without an OK answer, from the fault on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bench.failover.contestant import Cluster, Sender
from bench.failover.process import Running, TimedOut, until

Figures = dict[str, Any]
STEADY_S = 1.0
AFTER_S = 2.0  # watched after the first OK send
STALL_S = 8.0  # watched after a follower is lost: longer than any default time-out
FIRST_OK_S = 90.0  # then it is mended without one
QUIET_S = 10.0  # sends measured before a follower comes back


class Round:
    def __init__(self, cluster: Cluster, sender: Sender, rate: int) -> None:
        self.cluster = cluster
        self.sender = sender
        self.rate = rate

    def steady(self) -> None:
        """The cluster is whole, and sends have gone well for a while."""
        self.cluster.settled()
        since = time.monotonic_ns()
        needed = max(1, int(self.rate * STEADY_S * 0.9))
        until(
            lambda: self.sender.sends.refresh().ok_since(since) >= needed,
            f"{self.cluster.name}: sends go well",
            timeout_s=120,
        )

    # ---- the master goes, unplanned

    def kill(self) -> Figures:
        leader = self.cluster.members[self.cluster.now_leads()]
        return self._lost_master(leader.kill, leader.start)

    def freeze(self) -> Figures:
        leader = self.cluster.members[self.cluster.now_leads()]
        return self._lost_master(leader.freeze, leader.thaw)

    def cut(self) -> Figures:
        host = self.cluster.hosts[self.cluster.now_leads()]
        return self._lost_master(host.cut, host.mend, begins_with=False)

    def _lost_master(self, fault: Callable[[], None], heal: Callable[[], None], *, begins_with: bool = True) -> Figures:
        """``begins_with``: the fault is there when ``fault`` is called, not only when it has returned."""
        at = time.monotonic_ns()
        wall = stamp()
        fault()
        if not begins_with:
            at, wall = time.monotonic_ns(), stamp()
        try:
            first = self._first_ok(at)
            time.sleep(AFTER_S)
        finally:
            heal()
        healed = time.monotonic_ns()
        figures = {"at": wall, "first_ok": self._since(at, first), **self._window(at, healed)}
        return {**figures, "whole_s": round(self.cluster.settled("whole after the fault"), 2)}

    @staticmethod
    def _since(at: int, first: int | None) -> float:
        """In ms; ``FIRST_OK_S`` stands for "not within that"."""
        return (first - at) / 1e6 if first is not None else FIRST_OK_S * 1e3

    def _first_ok(self, at: int) -> int | None:
        found: list[int] = []

        def is_there() -> bool:
            first = self.sender.sends.refresh().first_ok(at)
            if first is not None:
                found.append(first)
            return bool(found)

        try:
            until(is_there, "a send is OK", timeout_s=FIRST_OK_S)
        except TimedOut:
            return None
        return found[0]

    # ---- planned

    def switchover(self) -> Figures:
        leader = self.cluster.now_leads()
        at = time.monotonic_ns()
        self.cluster.switch_over((leader + 1) % 3)
        until(lambda: self.cluster.leader() not in (None, leader), f"{self.cluster.name}: another one leads")
        self._first_ok(time.monotonic_ns())
        time.sleep(AFTER_S)
        return {
            **self._window(at, time.monotonic_ns()),
            "whole_s": round(self.cluster.settled("whole after a switchover"), 2),
        }

    # ---- a follower goes

    def kill_follower(self) -> Figures:
        follower = self.cluster.members[(self.cluster.now_leads() + 1) % 3]
        return self._lost_other(follower.kill, follower.start)

    def freeze_follower(self) -> Figures:
        follower = self.cluster.members[(self.cluster.now_leads() + 1) % 3]
        return self._lost_other(follower.freeze, follower.thaw)

    def _lost_other(self, fault: Callable[[], object], heal: Callable[[], None], seconds: float = STALL_S) -> Figures:
        at, wall = time.monotonic_ns(), stamp()
        fault()
        try:
            time.sleep(seconds)
            self._first_ok(time.monotonic_ns())  # a gap that goes on is watched to its end
        finally:
            heal()
        figures = {"at": wall, **self._window(at, time.monotonic_ns())}
        return {**figures, "whole_s": round(self.cluster.settled("whole with all members"), 2)}

    # ---- what elects goes

    def coordinator(self) -> Figures:
        """The leader of those that elect is killed."""
        leader = self.cluster.coordinator_leader()
        return self._lost_other(leader.kill, leader.start)

    def coordinators_down(self, seconds: float) -> Figures:
        """All of them are killed, and come back later."""
        processes = self.cluster.coordinator_processes()

        def kill() -> None:
            for process in processes:
                process.kill()

        def start() -> None:
            for process in processes:
                process.start()

        return self._lost_other(kill, start, seconds)

    # ---- much data

    def far_behind(self, gib: float) -> Figures:
        """A follower is away while much is written, and comes back; meanwhile a producer sends."""
        follower = self.cluster.members[(self.cluster.now_leads() + 1) % 3]
        follower.kill()
        self.cluster.load(int(gib * 1024))
        before = time.monotonic_ns()
        time.sleep(QUIET_S)
        back = time.monotonic_ns()
        follower.start()
        seconds = self.cluster.settled("the follower has caught up", timeout_s=1_800)
        after = time.monotonic_ns()
        quiet, busy = self.sender.sends.refresh().window(before, back), self.sender.sends.window(back, after)
        return {
            "caught_up_s": round(seconds, 2), "failed": busy.failed, "gap": busy.gap_ms,
            "p99_before": quiet.p99_ms, "p99_meanwhile": busy.p99_ms,
            "p99_times": busy.p99_ms / quiet.p99_ms if busy.p99_ms and quiet.p99_ms else None,
        }  # fmt: skip

    def restart_one(self) -> Figures:
        """kill -9 of a follower that has much data; from its start until it says that it serves."""
        follower = self.cluster.members[(self.cluster.now_leads() + 1) % 3]
        follower.kill()
        follower.start()
        ready: list[float] = []
        self._ready(follower, ready)
        return {"ready_s": max(ready, default=None), "whole_s": round(self.cluster.settled("whole after a restart"), 2)}

    def restart_all(self) -> Figures:
        """kill -9 of all three, which have much data; from their start to the first OK send."""
        members = self.cluster.members
        for member in members:
            member.kill()
        at = time.monotonic_ns()
        for member in members:
            member.start()
        ready: list[float] = []
        watchers = [threading.Thread(target=self._ready, args=(member, ready)) for member in members]
        for watcher in watchers:
            watcher.start()
        first = self._first_ok(at)
        for watcher in watchers:
            watcher.join()
        figures: Figures = {"first_ok": self._since(at, first), "ready_s": max(ready, default=None)}
        return {**figures, "whole_s": round(self.cluster.settled("whole after a restart of all"), 2)}

    def _ready(self, member: Running, into: list[float]) -> None:
        if self.cluster.ready_line:
            try:
                member.wait_for(self.cluster.ready_line)
            except (TimedOut, RuntimeError):
                return
            into.append(round(time.monotonic() - member.started, 3))

    def _window(self, since: int, before: int) -> Figures:
        window = self.sender.sends.refresh().window(since, before)
        return {"gap": window.gap_ms, "failed": window.failed, "good": window.ok, "p99": window.p99_ms, "max": window.max_ms}


def stamp() -> str:
    """The time of day, as servers have it in their logs."""
    return datetime.now(UTC).strftime("%H:%M:%S.%f")
