"""The garbage collector, kept from holding the loop.

A full collection walks every object that can be part of a cycle; with a million index entries in dicts that is tens of
milliseconds. Nearly everything here dies by reference counting, so what is alive after start-up is frozen (never walked
again), young collections run seldom, and the owner calls ``collect`` every few seconds: it does the young generations
always, and a full one only in a process that does next to nothing at the time, at most every ten minutes. A process that
is never idle never has one; what it could leak that way is cycles that lived for more than one ``collect``, which we break
by hand where we know of them.
"""

from __future__ import annotations

import gc
import time
from typing import Final

IDLE_SHARE: Final = 0.02  # of one processor, since the last call
FULL_EVERY_S: Final = 600.0


def tame() -> None:
    """Call once, when the process is ready to serve."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000_000)  # the oldest generation: by ``collect`` alone


def collect_young() -> None:
    """For work that makes very many objects that stay, or replaces them: call it every few thousand. Python counts what is
    made less what goes, so it would let the young pile up and walk all of them at once, and ``collect`` would once more
    (50 ms each for 100,000 queues that are assigned anew). Those that live are not walked again by either."""
    gc.collect(1)


class IdleWatch:
    """Says when a full collection may run. Given the times, so that it can be tested."""

    def __init__(self, *, now_s: float, cpu_s: float) -> None:
        self._now_s = self._full_s = now_s
        self._cpu_s = cpu_s

    def due(self, *, now_s: float, cpu_s: float) -> bool:
        """Whether the process was idle since the last call and the last full collection is long ago."""
        passed_s, busy_s = now_s - self._now_s, cpu_s - self._cpu_s
        self._now_s, self._cpu_s = now_s, cpu_s
        if passed_s < 1.0 or busy_s > IDLE_SHARE * passed_s or now_s - self._full_s < FULL_EVERY_S:
            return False
        self._full_s = now_s
        return True


_watch = IdleWatch(now_s=time.monotonic(), cpu_s=time.process_time())


def collect() -> None:
    """A collection of the two young generations, bounded by what was made since the last one; of all when idle."""
    gc.collect(2 if _watch.due(now_s=time.monotonic(), cpu_s=time.process_time()) else 1)
