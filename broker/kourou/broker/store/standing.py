"""The ``standing`` file: what a member of a broker group remembers of its role.

Two slots are written in turn, as in ``confirm``; the valid one with the higher serial holds. A change of role or epoch is
made durable at once. C is noted now and then and may be old after a crash, which errs towards what is safe: less is
shown and promised at first.

    slot, at 0 and at 512:   0  u64 serial   8  u32 highest epoch heard of   12  u32 epoch of its last promotion
                            16  u64 confirm offset   24  u64 promised offset
                            32  u32 role (0 none, 1 master, 2 slave, 3 promoted)   36  u32 crc32 of bytes 0..35
                                                                                                   (little-endian)

``PROMOTED`` is a master whose promotion no other member has confirmed yet: see ``promotion``.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import NamedTuple

from kourou.broker.store.files import Files
from kourou.core.errors import DiskFull

NAME = "standing"
_SLOT = Struct("<QIIQQI")
_SIZE = _SLOT.size + 4
_SLOT_AT = 512
NONE, MASTER, SLAVE, PROMOTED = range(4)


class StandingSlot(NamedTuple):
    serial: int
    epoch: int
    begun: int
    confirm: int
    promised: int
    role: int


EMPTY = StandingSlot(0, 0, 0, 0, 0, NONE)


def read_slots(files: Files) -> list[StandingSlot]:
    """Those that are valid, of a directory that somebody else may have open."""
    data = files.read_all(NAME) or b""
    return [slot for at in (0, _SLOT_AT) if (slot := _slot(data[at : at + _SIZE])) is not None]


def _slot(data: bytes) -> StandingSlot | None:
    if len(data) < _SIZE or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        return None
    return StandingSlot(*_SLOT.unpack(data[:-4]))


class StandingFile:
    def __init__(self, files: Files) -> None:
        self._file = files.open(NAME)
        slots = [_slot(self._file.read(at, _SIZE)) for at in (0, _SLOT_AT)]
        found = max((slot for slot in slots if slot is not None), default=EMPTY)
        self._serial, self.epoch, self.begun, self.confirm, self.promised, self.role = found

    def note(self, *, epoch: int, confirm: int, promised: int, role: int, begun: int = 0) -> None:
        """``begun``: the epoch of a promotion that begins. Raises DiskFull only where it matters: a new role or epoch."""
        begun = max(begun, self.begun)
        if (epoch, begun, confirm, promised, role) == (self.epoch, self.begun, self.confirm, self.promised, self.role):
            return
        durable = (epoch, begun, role) != (self.epoch, self.begun, self.role)
        serial = self._serial + 1
        slot = StandingSlot(serial, epoch, begun, confirm, promised, role)
        body = _SLOT.pack(*slot)
        try:
            self._file.overwrite((serial & 1) * _SLOT_AT, body + zlib.crc32(body).to_bytes(4, "little"))
        except DiskFull:
            if durable:
                raise
            return
        if durable:
            self._file.sync()
        self._serial, self.epoch, self.begun, self.confirm, self.promised, self.role = slot

    def close(self) -> None:
        self._file.close()
