"""Refusing writes before the disk is full, and coming back by itself.

Full is a share of used/(used + available). It is looked up once a second and estimated in between from what was written,
so a burst can't overshoot by more than a moment's writes. The reserve file keeps room for consumers to commit their
offsets while clients are refused: it is deleted when the disk is full and made again when there is room for it. As
deleting it looks like room, the disk only counts as having room again when the reserve would fit beside it.

``refresh`` may run in another thread: what is written meanwhile may be missing from the estimate until the next one.
"""

from __future__ import annotations

from kourou.broker.store.files import Files
from kourou.core.errors import DiskFull

RESERVE = "reserve"
RESERVE_PARTS = 16  # of a small file system the reserve takes at most one part in so many


class DiskSpace:
    def __init__(self, files: Files, *, full_ratio: float, reserve_bytes: int) -> None:
        self._files = files
        self._full_ratio = full_ratio
        usage = files.usage()
        self._reserve_bytes = min(reserve_bytes, (usage.used + usage.available) // RESERVE_PARTS)
        self._reserved = files.size(RESERVE) is not None  # left by an earlier process
        self._room = 0  # bytes until full
        self._again = self._reserve_bytes // 4  # room to begin again with: more than none, so as not to go back and forth
        self._known_full = False  # what refresh answered
        self.full = False
        self.ratio = usage.ratio
        self._counted = usage.ratio  # the same, with the reserve counted even while it is given back

    def refresh(self) -> bool:
        """*Blocking*, but quick. Look again, hold or release the reserve; True when being full began or ended since the
        last look."""
        usage = self._files.usage()
        self.ratio = usage.ratio
        total = usage.used + usage.available
        counted = usage.used + (0 if self._reserved else self._reserve_bytes)
        self._counted = min(1.0, counted / total) if total else 1.0
        self._room = int(total * self._full_ratio) - counted
        self.full = self._room <= (self._again if self.full else 0)
        if self.full:
            self._release()
        elif not self._reserved and self._reserve_bytes:
            try:
                self._files.reserve(RESERVE, self._reserve_bytes)
                self._reserved = True
            except DiskFull:
                pass  # a quota, say; tried again next time
        was_full, self._known_full = self._known_full, self.full
        return self.full != was_full

    def check(self, size: int) -> None:
        """Raises DiskFull when ``size`` more bytes of clients' data should not be written."""
        if not self.full and size > self._room:
            known_full = self._known_full
            self.refresh()
            self._known_full = known_full  # the next one to look announces it
            if size > self._room:
                self.out_of_room()
        if self.full:
            raise DiskFull(self._refusal(), retry_after_ms=1_000)

    def _refusal(self) -> str:
        text = f"the disk is {self._counted:.0%} full"
        if self._reserve_bytes:
            text += f", the {_mib(self._reserve_bytes)} counted that are kept for consumers' offsets"
        text += f"; writes are refused from {self._full_ratio:.0%} on"
        missing = self._again - self._room
        return f"{text} and begin again when {_mib(missing)} more are free" if missing > 0 else text

    def wrote(self, size: int) -> None:
        self._room -= size

    def out_of_room(self) -> bool:
        """The disk itself said so. True when this set room free."""
        self.full = True
        return self._release()

    def _release(self) -> bool:
        if not self._reserved:
            return False
        self._files.remove(RESERVE)
        self._reserved = False
        return True


def _mib(size: int) -> str:
    return f"{-(-size // (1024 * 1024))} MiB"
