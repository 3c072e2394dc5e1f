"""How far a member of a broker group is, from its data directory alone: ``kourou log position``. Reads only.

Of members that have stopped, the one with the highest (epoch, log end) has everything that was confirmed, as long as one of
the last sync state set is among those that are compared.
"""

from __future__ import annotations

import json
from typing import Any

from kourou.broker.store import identity
from kourou.broker.store.commitlog import list_bases
from kourou.broker.store.files import Files
from kourou.broker.store.inspect import frames
from kourou.broker.store.standing import EMPTY, MASTER, PROMOTED, SLAVE, read_slots
from kourou.core.errors import DamagedLog

ROLES = {MASTER: "master", SLAVE: "slave", PROMOTED: "promoted"}


def position(files: Files) -> dict[str, Any]:
    """Raises DamagedLog when the directory does not say whose it is."""
    whose = _whose(files)
    epoch, end = _last(files)
    standing = max(read_slots(files), default=EMPTY)
    return {
        "broker": whose["broker"],
        "broker_id": whose["broker_id"],
        "epoch": epoch,
        "end": end,
        "promised": standing.promised,
        "heard_epoch": max(epoch, standing.epoch),
        "role": ROLES.get(standing.role),
    }


def _whose(files: Files) -> dict[str, Any]:
    data = files.read_all(identity.NAME)
    try:
        value = json.loads(data or b"")
        return {"broker": str(value["broker"]), "broker_id": int(value["broker_id"])}
    except (ValueError, KeyError, TypeError) as failure:
        raise DamagedLog(f"{identity.NAME} does not parse: {failure!r}") from None


def _last(files: Files) -> tuple[int, int]:
    """(epoch, end) of the last sound frame; what a crash has torn behind it is cut off at the next start."""
    epoch = end = 0
    for base in reversed(list_bases(files, ".seg")):
        for frame in frames(files, start=base):
            if "damaged" not in frame:
                epoch, end = frame["epoch"], frame["log_offset"] + frame["size"]
        if end:
            break
    return epoch, end
