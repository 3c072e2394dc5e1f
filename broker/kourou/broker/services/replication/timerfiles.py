"""The files of far timers on a slave: fetched from the master before the log names one, deleted when it no longer does.

The log says which buckets there are; what is in them only their files do. So a frame that names a bucket is appended when
its file is here: a slave that becomes master has what its log promises.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

from kourou.broker.machines.timers import Timers
from kourou.broker.services.replication.master import Log
from kourou.broker.store.files import Files
from kourou.broker.store.scan import ScannedFrame
from kourou.broker.store.timerfile import TimerFile
from kourou.broker.store.timerformat import FOLDER, bucket_name
from kourou.core.errors import Corrupted, MessageNotFound
from kourou.core.frame import Kind, record_bounds

Piece = Callable[[str, int], Awaitable[bytes]]  # (name, offset) -> what follows there; empty at the end

PART = ".tmp"


_NAMES = b'"tm>"'  # in every metadata frame that has such a record


class Named(NamedTuple):
    """A bucket's file, as the log describes it."""

    number: int
    size: int
    checksum: int


class TimerFiles:
    def __init__(self, files: Files, timers: Timers, *, log: Log) -> None:
        self._files = files
        self._timers = timers
        self._log = log
        self._here: set[int] = set()  # files that are here, and those that the master no longer has

    def missing_of_state(self) -> list[Named]:
        """Files of the buckets that the state has."""
        self._here &= self._timers.buckets.keys()
        return self._missing(Named(b.number, b.size, b.checksum) for b in self._timers.buckets.values())

    def missing_of(self, frames: Iterable[ScannedFrame]) -> list[Named]:
        """Files of the buckets that frames name which are about to be appended."""
        found: list[Named] = []
        for item in frames:
            if item.header.kind == Kind.METADATA and _NAMES in bytes(item.sealed):
                found += _named_in(item)
        return self._missing(found)

    def _missing(self, named: Iterable[Named]) -> list[Named]:
        """Reads a file's head when it sees one first."""
        missing: list[Named] = []
        for one in named:
            if one.number not in self._here:
                if self._is_here(one):
                    self._here.add(one.number)
                else:
                    missing.append(one)
        return missing

    def _is_here(self, named: Named) -> bool:
        try:
            TimerFile(self._files, named.number, checksum=named.checksum)
        except Corrupted:
            return False
        return True

    async def fetch(self, missing: Iterable[Named], piece: Piece) -> None:
        """Raises what the link raises, DamagedLog when a file is not the one that is named."""
        for named in missing:
            try:
                await self._fetch(named, piece)
            except MessageNotFound:
                # what retired it is further on in the master's log
                self._log.info("timers_gone", bucket=named.number)
            else:
                TimerFile(self._files, named.number, checksum=named.checksum)
                self._log.info("timers_fetched", bucket=named.number, bytes=named.size)
            self._here.add(named.number)

    async def _fetch(self, named: Named, piece: Piece) -> None:
        name = bucket_name(named.number)
        self._files.remove(name + PART)
        file = self._files.open(name + PART)
        try:
            while file.size < named.size:
                data = await piece(name, file.size)
                if not data:
                    break
                file.append([data])
            file.sync()
        finally:
            file.close()
        self._files.rename(name + PART, name)
        self._files.sync_folder(FOLDER)

    def sweep(self) -> None:
        """*Blocking*, a little. Delete what the state does not name; call it when the log is durable as far as it goes."""
        kept = {bucket_name(number).partition("/")[2] for number in self._timers.buckets}
        gone = [name for name in self._files.list(FOLDER) if name not in kept and not name.endswith(PART)]
        for name in gone:
            self._files.remove(f"{FOLDER}/{name}")
        if gone:
            self._files.sync_folder(FOLDER)


def _named_in(item: ScannedFrame) -> list[Named]:
    bounds = record_bounds(item.sealed, 0, item.header)
    records = item.sealed[item.header.records_at :]
    found: list[Named] = []
    for at, end in pairwise(bounds):
        record = json.loads(bytes(records[at:end]))
        if record.get("t") == "tm>":
            _, size, checksum = record["file"]
            found.append(Named(record["b"], size, checksum))
    return found
