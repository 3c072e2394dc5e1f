"""Refusing writes before the disk is full, and coming back by itself.

Full is a share of used/(used + available). It is looked up once a second and estimated in between from what was written,
so a burst can't overshoot. The reserve file keeps room for consumers to commit their offsets while clients are refused.
"""

from __future__ import annotations

from kourou.broker.store.files import Files
from kourou.core.errors import DiskFull

RESERVE = "reserve"


class DiskSpace:
    def __init__(self, files: Files, *, full_ratio: float, reserve_bytes: int) -> None:
        self._files = files
        self._full_ratio = full_ratio
        usage = files.usage()
        self._reserve_bytes = min(reserve_bytes, (usage.used + usage.available) // 16)
        self._reserved = False
        self._room = 0  # bytes until full
        self.full = False
        self.ratio = usage.ratio

    def refresh(self) -> bool:
        """Look again; True when being full began or ended. Holds or releases the reserve. Blocking, but quick."""
        was_full = self.full
        usage = self._files.usage()
        self.ratio = usage.ratio
        total = usage.used + usage.available
        self._room = int(total * self._full_ratio) - usage.used
        # with the reserve released the ratio falls; don't take that for room
        missing = 0 if self._reserved else self._reserve_bytes
        self.full = self._room - missing <= 0 if was_full else self._room <= 0
        if self.full and self._reserved:
            self._files.remove(RESERVE)
            self._reserved = False
        elif not self.full and not self._reserved and self._room > 2 * self._reserve_bytes:
            try:
                self._files.reserve(RESERVE, self._reserve_bytes)
                self._reserved = True
            except DiskFull:
                self._reserved = False
        return self.full != was_full

    def check(self, size: int) -> None:
        """Raises DiskFull when ``size`` more bytes of clients' data should not be written."""
        if self.full or size > self._room:
            if not self.full:
                self.refresh()
            if self.full or size > self._room:
                raise DiskFull(
                    f"the disk is {self.ratio:.0%} full; writes are refused from {self._full_ratio:.0%} on",
                    retry_after_ms=1_000,
                )

    def wrote(self, size: int) -> None:
        self._room -= size

    def out_of_room(self) -> None:
        """The disk itself said so."""
        if not self.full:
            self.full = True
            if self._reserved:
                self._files.remove(RESERVE)
                self._reserved = False
