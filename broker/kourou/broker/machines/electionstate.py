"""What a broker group keeps in etcd, below ``/mq/{cluster}/g/{group}/``. docs/failover.md has the table.

    state         who is master of which epoch, and who may become it: the only truth
    lease         rewritten by the master at each renewal; unchanged for long enough, the master is over
    replica/{id}  where a member is, on which disk, started for the how manieth time
    live/{id}     that a member is there, how far its log goes, how it feels: only for order, and for people
    op            what an operator asks for

Values come from outside: they are parsed strictly, and what does not parse is not acted on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

LOSSY_MAX = 16  # epochs remembered
MEMBERS_MAX = 65
LOADS_MAX = 16
PREFIX = "/mq"


class Unreadable(ValueError):
    """A value in etcd is not what it should be."""


@dataclass(frozen=True, slots=True)
class GroupState:
    epoch: int
    master: int | None
    sss: tuple[int, ...]  # sync state set: they have everything below C
    elr: tuple[int, ...]  # left the set when it was at its least: they have it, too
    cold: tuple[tuple[int, int, int], ...]  # (replica, epoch and end of its log) of those that lost their page cache
    min_isr: int
    lossy: tuple[int, ...]  # epochs that began without some of what was acknowledged
    nonce: str  # of whoever wrote it

    def encode(self) -> bytes:
        return _encode(
            {
                "epoch": self.epoch, "master": self.master, "sss": self.sss, "elr": self.elr, "cold": self.cold,
                "min_isr": self.min_isr, "lossy_epochs": self.lossy, "nonce": self.nonce,
            }
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lease:
    epoch: int
    replica: int
    seq: int
    nonce: str  # of the master's process
    released: bool = False  # the master has stopped
    to: int | None = None  # whom it wants for its successor

    def encode(self) -> bytes:
        return _encode(
            {
                "epoch": self.epoch, "replica": self.replica, "seq": self.seq, "nonce": self.nonce,
                "released": self.released, "to": self.to,
            }
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replica:
    storage: str  # of the data directory
    nonce: str  # of the process
    address: str  # host:port of its data plane

    @property
    def incarnation(self) -> str:
        """Of this disk and this process; a session's HELLO has it."""
        return f"{self.storage}.{self.nonce}"

    def encode(self) -> bytes:
        return _encode({"storage_uuid": self.storage, "nonce": self.nonce, "address": self.address})


@dataclass(frozen=True, slots=True)
class Hint:
    """``able``: it would take over if it was its turn. ``load`` is for people."""

    epoch: int
    end: int
    able: bool
    phase: str
    load: dict[str, float]

    def encode(self) -> bytes:
        return _encode({"epoch": self.epoch, "end": self.end, "able": self.able, "phase": self.phase, "load": self.load})


@dataclass(frozen=True, slots=True)
class Operation:
    """``switchover``: the master hands over. ``elect``: this replica becomes master, whatever it lacks."""

    kind: str
    to: int
    nonce: str

    def encode(self) -> bytes:
        return _encode({"kind": self.kind, "to": self.to, "nonce": self.nonce})


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of a group's keys."""

    cluster: str
    group: str

    @property
    def prefix(self) -> str:
        return f"{PREFIX}/{self.cluster}/g/{self.group}/"

    @property
    def state(self) -> str:
        return self.prefix + "state"

    @property
    def lease(self) -> str:
        return self.prefix + "lease"

    @property
    def op(self) -> str:
        return self.prefix + "op"

    def replica(self, number: int) -> str:
        return f"{self.prefix}replica/{number}"

    def live(self, number: int) -> str:
        return f"{self.prefix}live/{number}"


def state_of(data: bytes) -> GroupState:
    value = _decode(data)
    state = GroupState(
        _number(value, "epoch"),
        None if value.get("master") is None else _number(value, "master"),
        _numbers(value, "sss"),
        _numbers(value, "elr"),
        tuple(_triple(item) for item in _list(value, "cold")),
        _number(value, "min_isr"),
        _numbers(value, "lossy_epochs"),
        _text(value, "nonce"),
    )
    if set(state.sss) & set(state.elr) or (state.master is not None and state.master not in state.sss):
        raise Unreadable(f"its sets don't fit together: {state}")
    return state


def lease_of(data: bytes) -> Lease:
    value = _decode(data)
    to = None if value.get("to") is None else _number(value, "to")
    released = value.get("released")
    if not isinstance(released, bool):
        raise Unreadable("released is neither true nor false")
    return Lease(
        _number(value, "epoch"), _number(value, "replica"), _number(value, "seq"), _text(value, "nonce"), released, to
    )


def replica_of(data: bytes) -> Replica:
    value = _decode(data)
    return Replica(_text(value, "storage_uuid"), _text(value, "nonce"), _text(value, "address"))


def hint_of(data: bytes) -> Hint:
    value = _decode(data)
    load = value.get("load")
    if not isinstance(load, dict) or len(load) > LOADS_MAX:
        raise Unreadable("load is not an object")
    numbers = {str(name)[:40]: float(number) for name, number in load.items() if isinstance(number, int | float)}
    return Hint(_number(value, "epoch"), _number(value, "end"), value.get("able") is True, _text(value, "phase"), numbers)


def operation_of(data: bytes) -> Operation:
    value = _decode(data)
    return Operation(_text(value, "kind"), _number(value, "to"), _text(value, "nonce"))


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _decode(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None
    if not isinstance(value, dict):
        raise Unreadable("it is not an object")
    return value


def _number(value: dict[str, Any], name: str) -> int:
    return _check(value.get(name), name)


def _check(found: Any, name: str) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 63:
        raise Unreadable(f"{name} is {found!r}, not a number")
    return found


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or len(found) > 300:
        raise Unreadable(f"{name} is not a text")
    return found


def _list(value: dict[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, list) or len(found) > MEMBERS_MAX:
        raise Unreadable(f"{name} is not a list")
    return found


def _numbers(value: dict[str, Any], name: str) -> tuple[int, ...]:
    numbers = tuple(_check(item, name) for item in _list(value, name))
    if list(numbers) != sorted(set(numbers)):
        raise Unreadable(f"{name} is not ascending")
    return numbers


def _triple(item: Any) -> tuple[int, int, int]:
    if not isinstance(item, list) or len(item) != 3:
        raise Unreadable("an item of cold is not a triple")
    return _check(item[0], "cold"), _check(item[1], "cold"), _check(item[2], "cold")
