"""After a fork: what lives on must not touch the parent's sockets, event loop or producer ids.

Objects that hold any of these register here and are told in the child, before anything else runs there. What they let go
of is kept alive, never closed: closing would take the parent's sockets out of the epoll object that both processes share.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    def forked(self) -> None:
        """Called in the child. Drop connections, tasks and ids; await nothing."""
        ...


_alive: weakref.WeakSet[Forked] = weakref.WeakSet()
_buried: list[object] = []  # bounded by what the parent had at the moment of the fork


def watch(item: Forked) -> None:
    """Tell ``item`` when this process turns out to be a forked child."""
    _alive.add(item)


def bury(*items: object) -> None:
    """Keep what belongs to the parent from being finalised here."""
    _buried.extend(items)


def _in_child() -> None:
    for item in list(_alive):
        item.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)
