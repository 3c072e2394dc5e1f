"""What a replica knows of its group's keys: the newest of everything that it was shown, and since when the lease is so.

Reads may be old and events may come twice or late: whatever is older than what is known is dropped, key by key.
"""

from __future__ import annotations

from kourou.broker.machines.coordination import Picture, Value
from kourou.broker.machines.electionstate import (
    GroupState,
    Hint,
    Keys,
    Lease,
    Operation,
    Replica,
    Unreadable,
    hint_of,
    lease_of,
    operation_of,
    replica_of,
    state_of,
)

LIVE_MS = 10_000


class ElectorView:
    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.complete = False  # has there been a picture?
        self.state: GroupState | None = None
        self.lease: Lease | None = None
        self.op: Operation | None = None
        self.replicas: dict[int, Replica] = {}
        self.lease_seen_ms = 0  # when the lease was first seen as it is
        self.broken: dict[str, str] = {}  # keys whose value does not parse, and why
        self.revision = 0  # the highest that was seen
        self.gone_back: str | None = None  # how it is known that etcd is older than it was
        self._live: dict[int, tuple[int, Hint | None]] = {}  # when they were last heard of, and what they said
        self._mods: dict[str, int] = {}  # of the value that is known, 0 when it is not there
        self._known: dict[str, int] = {}  # the revision up to which a key is known

    def mod(self, key: str) -> int:
        return self._mods.get(key, 0)

    def live(self, now_ms: int, *, within_ms: int = LIVE_MS) -> dict[int, Hint | None]:
        """Who seems to be there."""
        return {replica: hint for replica, (seen_ms, hint) in self._live.items() if now_ms - seen_ms <= within_ms}

    def picture(self, picture: Picture, *, now_ms: int) -> None:
        """A picture that is older than what is known does no harm."""
        if not self.complete:
            self.complete = True
            self.lease_seen_ms = now_ms  # that there is none has to be seen for a time, too
        found = {value.key for value in picture.values}
        for value in picture.values:
            self.adopt(value, picture.revision, now_ms=now_ms)
        for key in [key for key in self._mods if key not in found]:
            self.adopt(Value(key, None, 0), picture.revision, now_ms=now_ms)

    def event(self, value: Value, *, now_ms: int) -> None:
        self.adopt(value, value.mod, now_ms=now_ms)

    def adopt(self, value: Value, revision: int, *, now_ms: int) -> None:
        """A key was so at a revision."""
        key = value.key
        if not key.startswith(self.keys.prefix) or revision < self._known.get(key, 0):
            return
        self._known[key] = revision
        self.revision = max(self.revision, revision)
        mod, before = 0 if value.value is None else value.mod, self._mods.get(key, 0)
        if mod == before:
            return
        if 0 < mod < before:
            self.gone_back = f"{key} was written at revision {before}, and now at {mod}"
        self._mods[key] = mod
        self.broken.pop(key, None)
        if key == self.keys.lease:
            self.lease_seen_ms = now_ms
        try:
            self._set(key, value.value, now_ms)
        except Unreadable as failure:
            self.broken[key] = str(failure)

    def answered(self, revision: int, seen: int) -> None:
        """A transaction was answered that was sent when ``seen`` was the highest revision: etcd can't be older than that."""
        if revision < seen:
            self.gone_back = f"it has been at revision {seen}, and is at {revision}"
        self.revision = max(self.revision, revision)

    def _set(self, key: str, data: bytes | None, now_ms: int) -> None:
        keys = self.keys
        if key == keys.state:
            self.state = None
            self.state = None if data is None else state_of(data)
        elif key == keys.lease:
            self.lease = None
            self.lease = None if data is None else lease_of(data)
        elif key == keys.op:
            self.op = None
            self.op = None if data is None else operation_of(data)
        else:
            kind, _, number = key.removeprefix(keys.prefix).partition("/")
            if number.isascii() and number.isdigit() and len(number) < 6:
                self._member(kind, int(number), data, now_ms)

    def _member(self, kind: str, replica: int, data: bytes | None, now_ms: int) -> None:
        if kind == "replica":
            self.replicas.pop(replica, None)
            if data is not None:
                self.replicas[replica] = replica_of(data)
        elif kind == "live":
            if data is None:
                self._live.pop(replica, None)
            else:
                self._live[replica] = (now_ms, None)
                self._live[replica] = (now_ms, hint_of(data))

    def unreadable(self) -> str | None:
        """Why nothing may be decided."""
        for key in (self.keys.state, self.keys.lease):
            if key in self.broken:
                return f"{key} in etcd can't be read: {self.broken[key]}"
        return None
