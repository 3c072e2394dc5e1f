"""Which epoch wrote which part of the log: (epoch, log offset of its first frame), ascending.

The log itself holds the truth: every epoch begins with an EPOCH frame, every prefix names its epoch. The ``epochs`` file
is a cache of it, so that opening a large log need not look for them; without it they are read from the log again, and
those of parts that retention has deleted from the newest snapshot, which holds the same bytes.

    0  8 bytes  magic "KOUROUEP"   8  u32 version (1)   12  u32 entries   16  (u64 epoch, u64 log offset) each, u32 crc32
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from struct import Struct

from kourou.broker.store.files import Files
from kourou.core.errors import DiskFull, NewerFormat

NAME = "epochs"
PART = "epochs"  # of a snapshot
VERSION = 1
_HEAD = Struct("<8sII")
_ENTRY = Struct("<QQ")
_MAGIC = b"KOUROUEP"


class Epochs:
    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []

    @property
    def latest(self) -> int:
        return self.entries[-1][0] if self.entries else 0

    def note(self, epoch: int, log_offset: int) -> None:
        """A frame of this epoch lies here; frames come in the order of the log."""
        if epoch > self.latest:
            self.entries.append((epoch, log_offset))

    def at(self, log_offset: int) -> int:
        """The epoch of the frame at this log offset; 0 when the log knows none so early."""
        number = bisect_right(self.entries, log_offset, key=lambda entry: entry[1])
        return self.entries[number - 1][0] if number else 0

    def cut(self, log_offset: int) -> None:
        """The log was cut here."""
        while self.entries and self.entries[-1][1] >= log_offset:
            self.entries.pop()

    def encode(self) -> bytes:
        body = _HEAD.pack(_MAGIC, VERSION, len(self.entries)) + b"".join(_ENTRY.pack(*entry) for entry in self.entries)
        return body + zlib.crc32(body).to_bytes(4, "little")

    def save(self, files: Files) -> None:
        try:
            files.write_atomic(NAME, [self.encode()])
        except DiskFull:
            files.remove(NAME)  # none is better than one that lacks an epoch

    @staticmethod
    def load(files: Files) -> Epochs | None:
        """None when there is no such file or it is damaged. Raises NewerFormat."""
        return Epochs.decode(files.read_all(NAME))

    @staticmethod
    def decode(data: bytes | None) -> Epochs | None:
        """None where there is nothing, or nothing that can be read. Raises NewerFormat."""
        if data is None or len(data) < _HEAD.size + 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            return None
        magic, version, count = _HEAD.unpack_from(data)
        if magic == _MAGIC and version > VERSION:
            raise NewerFormat(f"{NAME} has format version {version}; this program knows up to {VERSION}")
        if magic != _MAGIC or len(data) != _HEAD.size + count * _ENTRY.size + 4:
            return None
        epochs = Epochs()
        epochs.entries = list(_ENTRY.iter_unpack(data[_HEAD.size : -4]))
        return epochs
