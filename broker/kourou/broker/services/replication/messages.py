"""The replication session on the wire: machine messages to and from JSON bodies and fixed structs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kourou.broker.machines.replication import (
    Ack,
    Batch,
    CopyNeeded,
    Hello,
    LogFacts,
    Member,
    Message,
    Ping,
    Ready,
    Refused,
    StaleMaster,
    Welcome,
)
from kourou.core import fields, wire
from kourou.core.errors import BadChecksum, BadRequest, NotMaster, ReplicaRefused
from kourou.core.wire import Code, WireMessage

PROTO = 1
HISTORY_MAX = 100_000
Answer = Welcome | CopyNeeded | StaleMaster | Refused  # to HELLO
U64 = (1 << 64) - 1
U32 = (1 << 32) - 1


def encode(message: Message) -> tuple[int, bytes, object | None]:
    """(code, header, JSON value or None) of a message that is sent by itself."""
    match message:
        case Hello(him, session, epoch, log, confirm, learner, address):
            value = {
                "proto": PROTO, "cluster": him.cluster, "group": him.group, "replica": him.replica, "storage": him.storage,
                "session": session, "epoch": epoch, "history": [list(pair) for pair in log.history], "start": log.start,
                "end": log.end, "flushed": log.flushed, "confirm": confirm, "learner": learner, "address": address,
            }  # fmt: skip
            return Code.REPLICA_HELLO, b"", value
        case Ready(session, end, flushed):
            return Code.REPLICA_READY, b"", {"session": session, "end": end, "flushed": flushed}
        case Ack(session, epoch, appended, flushed):
            return Code.REPLICA_ACK, wire.REPLICA_ACK_HEAD.pack(session, epoch, 0, appended, flushed), None
        case Ping(session, epoch, end, confirm, members, eligible, lease_ms):
            ping = {"session": session, "epoch": epoch, "end": end, "confirm": confirm}
            return Code.REPLICA_PING, b"", {**ping, "set": list(members), "eligible": list(eligible), "lease_ms": lease_ms}
    raise AssertionError(f"{message} is an answer")


def hello_of(value: Mapping[str, Any]) -> Hello:
    if value.get("proto") != PROTO:
        raise BadRequest(f"REPLICA_HELLO has proto {value.get('proto')}; this broker speaks {PROTO}")
    member = Member(
        fields.text(value, "cluster"), fields.text(value, "group"), fields.number(value, "replica", high=1_000_000),
        fields.text(value, "storage"),
    )  # fmt: skip
    log = LogFacts(history_of(value), _u64(value, "start"), _u64(value, "end"), _u64(value, "flushed"))
    return Hello(
        member,
        _u64(value, "session"),
        fields.number(value, "epoch", high=U32),
        log,
        _u64(value, "confirm"),
        fields.flag(value, "learner", False),
        fields.optional_text(value, "address"),
    )


def history_of(value: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    found = value.get("history")
    if not isinstance(found, list) or len(found) > HISTORY_MAX:
        raise BadRequest(f"field 'history' must be a list of up to {HISTORY_MAX} pairs")
    pairs: list[tuple[int, int]] = []
    for pair in found:
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and 0 <= n <= U64 for n in pair)):
            raise BadRequest("field 'history' must hold pairs of numbers")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def answer_to_json(answer: Answer, *, epoch: int) -> dict[str, Any]:
    """The answer to a HELLO that named ``epoch``. Raises NotMaster or ReplicaRefused where that is the answer."""
    match answer:
        case StaleMaster(mine):
            raise NotMaster(f"this broker was the master of epoch {mine}; epoch {epoch} has begun")
        case Refused(reason):
            raise ReplicaRefused(reason)
        case CopyNeeded(mine, session, common):
            return {"epoch": mine, "session": session, "common": common, "copy": {}}
    welcome = answer
    return {
        "epoch": welcome.epoch, "session": welcome.session, "truncate_to": welcome.truncate_to, "confirm": welcome.confirm,
        "start": welcome.start, "end": welcome.end, "all": welcome.ack_all,
    }  # fmt: skip


def answer_of(value: Mapping[str, Any]) -> Welcome | CopyNeeded:
    """What the master has answered to HELLO."""
    epoch, session = fields.number(value, "epoch", high=U32), _u64(value, "session")
    if "copy" in value:
        return CopyNeeded(epoch, session, _u64(value, "common"))
    return Welcome(
        epoch, session, _u64(value, "truncate_to"), _u64(value, "confirm"), _u64(value, "start"), _u64(value, "end"),
        fields.flag(value, "all", False),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What there is to copy."""

    start: int  # of the log
    history: tuple[tuple[int, int], ...]  # before that
    name: str  # of a snapshot
    size: int


def copy_of(value: Mapping[str, Any]) -> CopyFacts:
    found = value.get("copy")
    if not isinstance(found, dict):
        raise BadRequest("field 'copy' must be an object")
    return CopyFacts(_u64(found, "start"), history_of(found), fields.text(found, "name"), _u64(found, "size"))


def ready_of(value: Mapping[str, Any]) -> Ready:
    return Ready(_u64(value, "session"), _u64(value, "end"), _u64(value, "flushed"))


def ping_of(message: WireMessage) -> Ping:
    value = wire.decode_json(message.body, what="REPLICA_PING")
    return Ping(
        _u64(value, "session"),
        fields.number(value, "epoch", high=U32),
        _u64(value, "end"),
        _u64(value, "confirm"),
        tuple(fields.numbers(value, "set", count_max=1_000) or ()),
        tuple(fields.numbers(value, "eligible", count_max=1_000) or ()),
        fields.optional_number(value, "lease_ms"),
    )


def ack_of(message: WireMessage) -> Ack:
    if len(message.header) != wire.REPLICA_ACK_HEAD.size:
        raise BadRequest(f"REPLICA_ACK has a header of {len(message.header)} bytes")
    session, epoch, _, appended, flushed = wire.REPLICA_ACK_HEAD.unpack(message.header)
    return Ack(session, epoch, appended, flushed)


def batch_head(batch: Batch) -> bytes:
    """The checksum is of the head alone: each frame of the body has its own, and a slave checks them."""
    head = wire.REPLICA_BATCH_HEAD.pack(batch.session, batch.epoch, 0, batch.start, batch.confirm)
    return wire.REPLICA_BATCH_HEAD.pack(batch.session, batch.epoch, zlib.crc32(head), batch.start, batch.confirm)


def batch_of(message: WireMessage) -> Batch:
    """Raises BadChecksum when the head is not what was sent."""
    if len(message.header) != wire.REPLICA_BATCH_HEAD.size:
        raise BadRequest(f"REPLICA_BATCH has a header of {len(message.header)} bytes")
    session, epoch, crc, start, confirm = wire.REPLICA_BATCH_HEAD.unpack(message.header)
    if zlib.crc32(wire.REPLICA_BATCH_HEAD.pack(session, epoch, 0, start, confirm)) != crc:
        raise BadChecksum(f"the batch at log offset {start} arrived damaged")
    return Batch(session, epoch, start, start + len(message.body), confirm)


def _u64(value: Mapping[str, Any], name: str) -> int:
    return fields.number(value, name, high=U64)
