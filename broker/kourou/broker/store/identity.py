"""Whose data a directory holds: identity.json. A directory is never opened as another broker's."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from kourou.broker.store.files import Files
from kourou.core.errors import AlreadyExists, DamagedLog, NewerFormat

NAME = "identity.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Identity:
    cluster: str
    broker: str
    broker_id: int
    storage_uuid: str


def claim(files: Files, wanted: Identity) -> Identity:
    """The identity of the directory; a new one becomes ``wanted``'s. Raises AlreadyExists, NewerFormat, DamagedLog."""
    data = files.read_all(NAME)
    if data is None:
        if files.list("log"):
            raise DamagedLog(f"{NAME} is missing beside a log; put it back, or start anew in an empty directory")
        files.write_atomic(NAME, [json.dumps({"format": FORMAT, **asdict(wanted)}, indent=2).encode() + b"\n"])
        return wanted
    try:
        value = json.loads(data)
        version = int(value["format"])
        if version > FORMAT:
            raise NewerFormat(f"{NAME} has format {version}; this program knows up to {FORMAT}")
        found = Identity(value["cluster"], value["broker"], int(value["broker_id"]), value["storage_uuid"])
    except (ValueError, KeyError, TypeError) as failure:
        raise DamagedLog(f"{NAME} does not parse: {failure!r}") from None
    for field in ("cluster", "broker", "broker_id"):
        if getattr(found, field) != getattr(wanted, field):
            raise AlreadyExists(
                f"the data directory belongs to {field} {getattr(found, field)!r}, not {getattr(wanted, field)!r}"
            )
    return found
