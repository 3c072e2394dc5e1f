"""The garbage collector, kept from holding the loop.

A full collection walks every object that can be part of a cycle; with a million index entries in dicts that is tens of
milliseconds. Nearly everything here dies by reference counting, so what is alive after start-up is frozen (never walked
again), young collections run seldom, and a full one only when the owner calls ``collect`` in an idle moment.
"""

from __future__ import annotations

import gc


def tame() -> None:
    """Call once, when the process is ready to serve."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)


def collect() -> None:
    """A collection of the two young generations; bounded by what was made since the last one."""
    gc.collect(1)
