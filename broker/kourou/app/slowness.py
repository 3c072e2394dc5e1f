"""Is this broker too slow to be a master? What holds it up is counted; three times in a minute are too many.

A loop that is late by a second answers nobody for a second, and appends are written by the loop: a disk whose cache is
full holds it up as well. With ``flush = sync`` every answer waits for an fdatasync; one that goes on for so long that
clients give up is enough by itself.
"""

from __future__ import annotations

from collections import deque

LOOP_LATE_MS = 1_000
SYNC_LATE_MS = 2_000
SYNC_STUCK_MS = 10_000
TIMES = 3
WITHIN_MS = 60_000


class Slowness:
    """Told how it was since it was told last; pure."""

    def __init__(self) -> None:
        self._late: deque[tuple[int, str]] = deque(maxlen=TIMES)
        self._sync_counted = False  # the fdatasync that runs
        self._stuck_ms = 0.0  # how long the fdatasync that does not come back has taken, when that was last asked for
        self._loop_ms = self._sync_ms = 0.0  # the worst, since it was asked for

    @property
    def stuck(self) -> bool:
        """There is an fdatasync that does not come back."""
        return self._stuck_ms > 0

    def facts(self) -> dict[str, float]:
        """The worst since this was asked for last."""
        facts = {"loop_lag_ms": round(self._loop_ms, 1), "sync_ms": round(self._sync_ms, 1)}
        self._loop_ms = self._sync_ms = 0.0
        return facts

    def loop_was_late(self, late_ms: float, *, now_ms: int) -> str | None:
        """Why it is too slow, if it is."""
        self._loop_ms = max(self._loop_ms, late_ms)
        if late_ms < LOOP_LATE_MS:
            return None
        return self._count(f"the event loop was held up for {late_ms:.0f} ms", now_ms)

    def sync_took(self, took_ms: float, *, running: bool, now_ms: int) -> str | None:
        """``running``: so long already. One that is stuck is told once, and once more when it is over."""
        self._sync_ms = max(self._sync_ms, took_ms)
        before_ms, self._stuck_ms = self._stuck_ms, took_ms if running and took_ms >= SYNC_STUCK_MS else 0.0
        if self.stuck:
            return None if before_ms else f"fdatasync has not come back for {took_ms:.0f} ms"
        if before_ms:
            self._sync_counted = False
            return f"fdatasync is no longer stuck: it took {max(before_ms, took_ms):.0f} ms"
        if took_ms < SYNC_LATE_MS:
            self._sync_counted = False
            return None
        counted, self._sync_counted = self._sync_counted, running
        return None if counted else self._count(f"fdatasync took {took_ms:.0f} ms", now_ms)

    def _count(self, what: str, now_ms: int) -> str | None:
        self._late.append((now_ms, what))
        if len(self._late) < TIMES or now_ms - self._late[0][0] > WITHIN_MS:
            return None
        self._late.clear()
        return f"{what}, for the third time within a minute"
