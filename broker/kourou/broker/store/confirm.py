"""The ``confirm`` file: up to which log offset everything is known to be durable.

It tells a torn tail from damage: an invalid frame at or above this offset was never promised to anybody, one below it
was. Two slots are written in turn, so that a write that is torn leaves the other; the valid one with the higher serial
holds. It is written after each fdatasync of the log, and not synced itself: after a power cut it may be a few seconds
old, which errs towards cutting what was durable only if that is damaged too.

    slot, at 0 and at 512:   0  u64 serial   8  u64 log offset   16  u32 crc32 of bytes 0..15      (little-endian)
"""

from __future__ import annotations

import zlib
from struct import Struct

from kourou.broker.store.files import Files
from kourou.core.errors import DiskFull

NAME = "confirm"
_SLOT = Struct("<QQI")
_SLOT_AT = 512  # a sector each


class Confirm:
    """``note`` and ``lower`` may run in different threads, never at once."""

    def __init__(self, files: Files) -> None:
        self._file = files.open(NAME)
        self._serial, self.offset = max(self._read(0), self._read(1))

    def _read(self, slot: int) -> tuple[int, int]:
        data = self._file.read(slot * _SLOT_AT, _SLOT.size)
        if len(data) < _SLOT.size:
            return 0, 0
        serial, offset, checksum = _SLOT.unpack(data)
        return (serial, offset) if zlib.crc32(data[:-4]) == checksum else (0, 0)

    def note(self, offset: int) -> None:
        """The log is durable up to here."""
        serial = self._serial + 1
        head = _SLOT.pack(serial, offset, 0)[:-4]
        try:
            self._file.overwrite((serial & 1) * _SLOT_AT, head + zlib.crc32(head).to_bytes(4, "little"))
        except DiskFull:
            return  # the older offset is right too
        self._serial, self.offset = serial, offset

    def lower(self, offset: int) -> None:
        """The log is about to be cut: what is above ``offset`` counts for nothing, also after a power cut."""
        if self.offset > offset:
            self.note(offset)
            self._file.sync()

    def close(self) -> None:
        self._file.close()
