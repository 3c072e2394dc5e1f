"""A data directory that begins as a copy of another member's: the state of its snapshot, and its log from where that starts.

    erase    "copy" says that nothing here counts; snapshots, indexes, segments and timers are deleted
    begin    copy.snap (the other's snapshot), epochs before the log's start, an empty segment there; "copy" says so
    ...      the log grows; what lies below the snapshot's offset is in the state already
    end      a snapshot of our own is written; "copy" and copy.snap are deleted

A crash at any point leaves one of these, and the next opening goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from kourou.broker.store import commitlog, snapshot, timerformat
from kourou.broker.store.epochs import NAME as EPOCHS
from kourou.broker.store.epochs import Epochs
from kourou.broker.store.files import Files
from kourou.core.errors import DamagedLog

NAME = "copy"
SNAPSHOT = "copy.snap"
INDEX_PART = "index"


@dataclass(slots=True)
class Copy:
    """What the state begins with. ``index``: of the other's log, for the queues of which this one has no frames."""

    offset: int
    parts: snapshot.Parts
    index: bytes | None = None
    epoch: int = 0  # of the master that gave it


def erase(files: Files) -> None:
    """*Blocking*. Nothing that is here counts any more, even after a power cut in the middle of this."""
    files.write_atomic(NAME, [b'{"erased":true}'])
    for folder in (snapshot.FOLDER, timerformat.FOLDER, commitlog.FOLDER):
        names = files.list(folder)
        for name in names:
            files.remove(f"{folder}/{name}")
        if names:
            files.sync_folder(folder)
    for name in (EPOCHS, "confirm", SNAPSHOT):
        files.remove(name)
    files.sync_folder(".")


def begin(files: Files, *, start: int, history: Sequence[tuple[int, int]], data: bytes, epoch: int) -> None:
    """*Blocking*. After ``erase``: a log from ``start`` on, with the other's snapshot as its state; ``epoch`` is the
    other's. Raises DamagedLog."""
    offset, _ = snapshot.decode(data, SNAPSHOT)
    if offset < start:
        raise DamagedLog(f"the snapshot at {offset} is older than the log, which starts at {start}")
    files.write_atomic(SNAPSHOT, [data])
    epochs = Epochs()
    epochs.entries = [pair for pair in history if pair[1] < start]
    epochs.save(files)
    files.open(commitlog.segment_name(start)).close()
    files.sync_folder(commitlog.FOLDER)
    files.write_atomic(NAME, [json.dumps({"erased": False, "offset": offset, "epoch": epoch}).encode()])


def load(files: Files) -> Copy | None:
    """*Blocking*, before the store is opened. The copy that is under way, if any; a half erased directory is emptied."""
    data = files.read_all(NAME)
    if data is None:
        return None
    marker = json.loads(data)
    if marker["erased"]:
        erase(files)
        end(files)
        return None
    content = files.read_all(SNAPSHOT)
    if content is None:
        raise DamagedLog(f"{SNAPSHOT} is missing: empty the data directory to copy anew")
    offset, parts = snapshot.decode(content, SNAPSHOT)
    return Copy(offset, parts, parts.pop(INDEX_PART, None), marker.get("epoch", 0))


def end(files: Files) -> None:
    """*Blocking*. It is a log like any other now."""
    files.remove(NAME)
    files.sync_folder(".")
    files.remove(SNAPSHOT)
