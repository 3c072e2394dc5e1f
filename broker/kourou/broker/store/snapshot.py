"""Snapshots of the projections: a file of named parts, each with its checksum.

     0  8 bytes  magic "KOUROUSN"
     8  u32      format version (1)
    12  u32      size of the head
    16           head: JSON {"offset": log offset up to which everything below it is applied,
                             "parts": [{"name", "size", "crc"}]}
        u32      crc32 of the head
                 the parts, one after the other

Little-endian. Two are kept, so that one that turns out to be damaged is no loss; the log is deleted only below the older.

One that is ahead of the log belongs to a log that was lost or moved away. It is put aside when the directory is opened
(``*.snap.ahead``), before anything is written: once the new log had grown past it, it would pass for one of its own.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any

from kourou.broker.store.commitlog import parse_name
from kourou.broker.store.files import Files
from kourou.core.errors import DamagedLog, NewerFormat

FOLDER = "snapshots"
VERSION = 1
AHEAD = ".ahead"  # behind the names of what belongs to a longer log
DAMAGED = ".damaged"
_HEAD = Struct("<8sII")
_CRC = Struct("<I")
_MAGIC = b"KOUROUSN"

Notice = Callable[[str, dict[str, object]], None]
Parts = dict[str, bytes]


def snapshot_name(offset: int) -> str:
    return f"{FOLDER}/{offset:020d}.snap"


def encode(offset: int, parts: Mapping[str, Sequence[bytes]]) -> list[bytes]:
    """The pieces of the file; a part is given in slices."""
    described = []
    data: list[bytes] = []
    for name, slices in parts.items():
        crc = size = 0
        for piece in slices:
            crc, size = zlib.crc32(piece, crc), size + len(piece)
        described.append({"name": name, "size": size, "crc": crc})
        data += slices
    head = json.dumps({"offset": offset, "parts": described}).encode()
    return [_HEAD.pack(_MAGIC, VERSION, len(head)), head, _CRC.pack(zlib.crc32(head)), *data]


def decode(data: bytes, name: str) -> tuple[int, Parts]:
    """(offset, parts). Raises DamagedLog or NewerFormat."""
    if len(data) < _HEAD.size:
        raise DamagedLog(f"{name} is cut off")
    magic, version, head_size = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise DamagedLog(f"{name} is not a snapshot")
    if version > VERSION:
        raise NewerFormat(f"{name} has format version {version}; this program knows up to {VERSION}")
    at = _HEAD.size + head_size
    head = data[_HEAD.size : at]
    if len(data) < at + 4 or _CRC.unpack_from(data, at)[0] != zlib.crc32(head):
        raise DamagedLog(f"{name} has a damaged head")
    value: dict[str, Any] = json.loads(head)
    at += 4
    parts: Parts = {}
    for part in value["parts"]:
        piece = data[at : at + part["size"]]
        if len(piece) != part["size"] or zlib.crc32(piece) != part["crc"]:
            raise DamagedLog(f"{name} has a damaged part {part['name']!r}")
        parts[part["name"]] = piece
        at += part["size"]
    return value["offset"], parts


def list_offsets(files: Files) -> list[int]:
    """Offsets of the snapshots that are there, newest first."""
    found = (parse_name(name, ".snap") for name in files.list(FOLDER))
    return sorted((offset for offset in found if offset is not None), reverse=True)


def offsets(files: Files) -> list[int]:
    """The same, and what interrupted writes left is deleted."""
    for name in files.list(FOLDER):
        if name.endswith(".tmp"):
            files.remove(f"{FOLDER}/{name}")
    return list_offsets(files)


def load_newest(files: Files, *, log_end: int, notice: Notice) -> tuple[int, Parts] | None:
    """The newest snapshot that is whole and not ahead of the log; None when there is none.

    Those that are ahead or damaged must not count as one of the two that are kept, nor be loaded later: they are renamed.
    """
    for offset in offsets(files):
        name = snapshot_name(offset)
        if offset > log_end:
            notice("snapshot_skipped", {"name": name, "reason": f"it is ahead of the log, which ends at {log_end}"})
            _put_aside(files, name, AHEAD)
            continue
        data = files.read_all(name)
        try:
            assert data is not None, name
            return decode(data, name)
        except DamagedLog as failure:
            notice("snapshot_skipped", {"name": name, "reason": str(failure)})
            _put_aside(files, name, DAMAGED)
    return None


def _put_aside(files: Files, name: str, suffix: str) -> None:
    files.rename(name, name + suffix)
    files.sync_folder(FOLDER)


def any_ahead(files: Files) -> bool:
    """Whether snapshots of a longer log were put aside, now or at an earlier start."""
    return any(name.endswith(AHEAD) for name in files.list(FOLDER))


def write(files: Files, offset: int, pieces: Sequence[bytes], *, keep: int = 2) -> None:
    """Write one, durably, and delete all but the newest ``keep``. Blocking."""
    files.write_atomic(snapshot_name(offset), pieces)
    for old in offsets(files)[keep:]:
        files.remove(snapshot_name(old))
