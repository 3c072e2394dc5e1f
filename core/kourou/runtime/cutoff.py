"""A thread that cuts a process off from its clients when the time until which it may serve them has passed.

Whoever serves under a lease moves that time on from its event loop. A loop that is held up can't; nor can it stop to
serve: what the kernel has accepted and received waits for it, and is answered when it goes on. So when the time has
passed, the thread shuts down every socket of the ports that are served, the listening ones too. The loop finds the
ends, is told, and has to listen again.

Sockets are shut down through duplicates of their descriptors and never closed: a number stays the loop's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable

GRACE_MS = 50  # for a loop that runs: it stops by itself, and nobody needs to be cut off
LOOK_S = 0.5  # the clock may go on while the machine sleeps, and a wait does not
DESCRIPTORS = "/proc/self/fd"
SWITCH_S = 1e-5


class CutOff:
    """``allow`` it in the loop that made it; ``told`` is called there after the cut."""

    def __init__(
        self, ports: Callable[[], frozenset[int]], *, now_ms: Callable[[], int], told: Callable[[int], None]
    ) -> None:
        """``ports``: what is served; called in the thread."""
        self.until_ms: int | None = None  # written by the loop, read by the thread
        self._ports = ports
        self._now_ms = now_ms
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._has_cut = False  # and the loop has not been told yet
        self._closed = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cutoff", daemon=True)
        self._thread.start()

    def allow(self, until_ms: int | None) -> None:
        """Clients may be served until then, by ``now_ms``; None: as long as the loop likes."""
        before, self.until_ms = self.until_ms, until_ms
        if before != until_ms and (before is None or until_ms is None or until_ms < before):
            self._wake.set()

    def is_over(self) -> bool:
        """Has the time passed, whether or not the thread has seen it?"""
        until_ms = self.until_ms
        return until_ms is not None and self._now_ms() >= until_ms

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    # ---- the thread

    def _watch(self) -> None:
        while not self._closed:
            until_ms = self.until_ms
            if until_ms is None or self._has_cut:
                self._wake.wait()
            elif (left_ms := until_ms + GRACE_MS - self._now_ms()) > 0:
                self._wake.wait(min(left_ms / 1000, LOOK_S))
            else:
                self._cut()
            self._wake.clear()

    def _cut(self) -> None:
        self._has_cut = True
        count = shut_down(self._ports())
        try:
            self._loop.call_soon_threadsafe(self._tell, count)
        except RuntimeError:
            pass  # the loop has ended

    # ---- the loop

    def _tell(self, count: int) -> None:
        self.until_ms = None  # until something is allowed anew
        if not self._closed:
            self._told(count)
        self._has_cut = False
        self._wake.set()


def shut_down(ports: frozenset[int]) -> int:
    """Shut down this process's TCP sockets of these ports, listening and connected; how many there were."""
    count = 0
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)  # each call below may have to win the interpreter back from what holds the loop up
    try:
        for name in os.listdir(DESCRIPTORS):
            count += _shut_down(name, ports)
    finally:
        sys.setswitchinterval(interval_s)
    return count


def _shut_down(name: str, ports: frozenset[int]) -> bool:
    try:
        if not os.readlink(f"{DESCRIPTORS}/{name}").startswith("socket:"):
            return False
        duplicate = os.dup(int(name))
    except OSError:
        return False  # closed in the meantime
    try:
        found = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return False
    with found:
        if found.family not in (socket.AF_INET, socket.AF_INET6) or found.getsockname()[1] not in ports:
            return False
        try:
            found.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # its peer was faster
        return True
