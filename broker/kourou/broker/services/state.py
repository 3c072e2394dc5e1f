"""What a broker knows: the machines, as one deterministic projection of the log.

``replay`` and ``applied`` are the only ways in; they are called for every frame in log order, live and at recovery
alike, so restart, replica and simulator arrive at the same state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from kourou.broker.machines.graves import Graves
from kourou.broker.machines.groups import GroupRegistry
from kourou.broker.machines.lite import RECORDS as LITE_RECORDS
from kourou.broker.machines.lite import LiteTopics
from kourou.broker.machines.offsets import OffsetTable
from kourou.broker.machines.producers import ProducerWindows, Stored
from kourou.broker.machines.shared import RECORDS as SHARED_RECORDS
from kourou.broker.machines.shared import SharedGroups
from kourou.broker.machines.timers import RECORDS as TIMER_RECORDS
from kourou.broker.machines.timers import Timers
from kourou.broker.machines.topics import TopicRegistry
from kourou.broker.machines.transactions import RECORDS as TRANSACTION_RECORDS
from kourou.broker.machines.transactions import Half, Transactions
from kourou.broker.store.store import Appended, CheckedFrame
from kourou.core import frame
from kourou.core.errors import DamagedLog
from kourou.core.frame import HALF, MOVED, Buffer, Column, Kind, Prefix, SealedHeader
from kourou.core.records import Field, iterate_fields, readable_fields
from kourou.core.sources import Reason, decode_source

RECOVERY_MS_MAX = 3_600_000


class BrokerState:
    def __init__(self, *, broker: str) -> None:
        self.topics = TopicRegistry(broker)
        self.groups = GroupRegistry()
        self.offsets = OffsetTable()
        self.producers = ProducerWindows()
        self.shared = SharedGroups()
        self.timers = Timers()
        self.transactions = Transactions()
        self.lite = LiteTopics()
        self.graves = Graves()
        self.secret: bytes | None = None  # signs the handles that are given out; the same on every replica

    # ---- replay

    def replay(self, record: dict[str, Any], *, log_offset: int, store_ms: int) -> None:
        """Apply one metadata record."""
        match record.get("t"):
            case kind if kind in SHARED_RECORDS:
                self.shared.replay(record, log_offset=log_offset, store_ms=store_ms)
            case "offsets" | "offsets-":
                self.offsets.replay(record, log_offset=log_offset, store_ms=store_ms)
            case kind if kind in TRANSACTION_RECORDS:
                self.transactions.replay(record, log_offset=log_offset, store_ms=store_ms)
            case kind if kind in LITE_RECORDS:
                self.lite.replay(record, log_offset=log_offset, store_ms=store_ms)
                if kind == "lite-":
                    self.shared.queues_deleted(record["i"], record["e"])
            case "dead-":
                self.graves.replay(record, log_offset=log_offset, store_ms=store_ms)
            case kind if kind in TIMER_RECORDS:
                self.timers.replay(record, log_offset=log_offset, store_ms=store_ms)
            case "secret":
                self.secret = bytes.fromhex(record["k"])
            case "topic":
                self.topics.replay(record, log_offset=log_offset, store_ms=store_ms)
            case "topic-":
                self.topics.replay(record, log_offset=log_offset, store_ms=store_ms)
                for machine in (self.offsets, self.shared, self.timers, self.transactions, self.lite, self.graves):
                    machine.topic_deleted(record["i"])
            case "group":
                self.groups.replay(record, log_offset=log_offset, store_ms=store_ms)
            case "group-":
                self.groups.replay(record, log_offset=log_offset, store_ms=store_ms)
                self.offsets.group_deleted(record["name"])
                self.shared.group_deleted(record["name"])
            case other:
                raise DamagedLog(f"metadata at log offset {log_offset} has unknown type {other!r}")

    def applied(self, checked: CheckedFrame, result: Appended) -> None:
        """Apply one message frame that was appended."""
        header = checked.header
        if header.attributes & (HALF | MOVED) or header.columns & Column.DUE_TIMES:
            self._waits_or_moves(checked.sealed, header, checked.incarnation, result.log_offset, result.store_ms)
        if header.producer_id:
            stored = Stored(
                checked.crc,
                checked.key,
                result.queue_offset,
                result.log_offset,
                result.end_offset,
                result.store_ms,
            )
            self.producers.applied(header.producer_id, header.sequence, stored)

    def recovered(self, prefix: Prefix, header: SealedHeader, sealed: memoryview) -> None:
        """Apply one frame that is read back from the log."""
        if header.kind == Kind.METADATA:
            bounds = frame.record_bounds(sealed, 0, header)
            records = sealed[header.records_at :]
            for at, end in pairwise(bounds):
                record = json.loads(bytes(records[at:end]))
                self.replay(record, log_offset=prefix.log_offset, store_ms=prefix.store_ms)
            return
        if header.kind != Kind.MESSAGES:
            return
        if header.attributes & (HALF | MOVED) or header.columns & Column.DUE_TIMES:
            self._waits_or_moves(sealed, header, prefix.incarnation, prefix.log_offset, prefix.store_ms)
        if header.producer_id:
            stored = Stored(
                int.from_bytes(sealed[-4:], "little"),
                frame.queue_key(prefix.incarnation, header),
                prefix.queue_offset,
                prefix.log_offset,
                prefix.log_offset + prefix.size,
                prefix.store_ms,
            )
            self.producers.applied(header.producer_id, header.sequence, stored)

    def _waits_or_moves(
        self, sealed: Buffer, header: SealedHeader, incarnation: int, log_offset: int, store_ms: int
    ) -> None:
        """Messages that wait for a time or a decision, and copies of those that do no longer."""
        if header.attributes & MOVED:
            for block in frame.property_blocks(sealed, 0, header):
                for field, value in iterate_fields(block):
                    if field == Field.SOURCE:
                        self._moved(value, incarnation)
        elif not self.topics.is_live(incarnation):
            return
        elif header.columns & Column.DUE_TIMES:
            due_times = frame.column(sealed, 0, header, Column.DUE_TIMES)
            assert due_times is not None
            self.timers.stored(log_offset, incarnation, header.queue_id, due_times)
        else:
            halves = (
                Half(incarnation, header.queue_id, store_ms, recovery_ms(block))
                for block in frame.property_blocks(sealed, 0, header)
            )
            self.transactions.stored(log_offset, halves)

    def _moved(self, value: bytes, incarnation: int) -> None:
        source = decode_source(value)
        if source.reason == Reason.TIMER:
            self.timers.retired((source.log_offset, source.record), incarnation)
        elif source.reason == Reason.COMMIT:
            self.transactions.committed((source.log_offset, source.record))
        elif source.reason == Reason.REDRIVE:
            self.graves.moved(source)
        else:
            self.shared.moved(source)

    def window(self, checked: CheckedFrame) -> Appended | None:
        """The result of the same frame stored before; None when it is new. Raises what the window refuses."""
        header = checked.header
        stored = self.producers.check(header.producer_id, header.sequence, checked.crc)
        return Appended(stored.log_offset, stored.end_offset, stored.queue_offset, stored.store_ms) if stored else None

    # ---- snapshots

    def parts(self) -> dict[str, Iterator[bytes]]:
        """Captured at once, encoded in slices as the iterators are drawn from."""
        return {
            "topics": self.topics.snapshot(),
            "groups": self.groups.snapshot(),
            "offsets": self.offsets.snapshot(),
            "producers": self.producers.snapshot(),
            "shared": self.shared.snapshot(),
            "timers": self.timers.snapshot(),
            "transactions": self.transactions.snapshot(),
            "lite": self.lite.snapshot(),
            "graves": self.graves.snapshot(),
            "secret": iter((self.secret or b"",)),
        }

    def restore(self, parts: dict[str, bytes]) -> None:
        self.topics.restore(parts["topics"])
        self.groups.restore(parts["groups"])
        self.offsets.restore(parts["offsets"])
        self.producers.restore(parts["producers"])
        self.shared.restore(parts.get("shared", b""))  # absent in snapshots of the first version
        self.timers.restore(parts.get("timers", b""))
        self.transactions.restore(parts.get("transactions", b""))
        self.lite.restore(parts.get("lite", b""))
        self.graves.restore(parts.get("graves", b""))
        self.secret = parts.get("secret", b"") or None

    def digest(self) -> dict[str, str]:
        return {
            "topics": self.topics.digest(),
            "groups": self.groups.digest(),
            "offsets": self.offsets.digest(),
            "producers": self.producers.digest(),
            "shared": self.shared.digest(),
            "timers": self.timers.digest(),
            "transactions": self.transactions.digest(),
            "lite": self.lite.digest(),
            "graves": self.graves.digest(),
        }


def recovery_ms(block: bytes) -> int:
    """When the producer of a half message wants to be asked, 0 where it does not say."""
    for field, value in readable_fields(block):
        if field == Field.RECOVERY_MS:
            return max(0, min(int.from_bytes(value[:8], "little", signed=True), RECOVERY_MS_MAX))
    return 0
