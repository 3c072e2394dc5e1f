"""What a broker knows: the machines, as one deterministic projection of the log.

``replay`` and ``applied`` are the only ways in; they are called for every frame in log order, live and at recovery
alike, so restart, replica and simulator arrive at the same state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from kourou.broker.machines.groups import GroupRegistry
from kourou.broker.machines.offsets import OffsetTable
from kourou.broker.machines.producers import ProducerWindows, Stored
from kourou.broker.machines.topics import TopicRegistry
from kourou.broker.store.store import Appended, CheckedFrame
from kourou.core import frame
from kourou.core.errors import DamagedLog
from kourou.core.frame import Kind, Prefix, SealedHeader


class BrokerState:
    def __init__(self, *, broker: str) -> None:
        self.topics = TopicRegistry(broker)
        self.groups = GroupRegistry()
        self.offsets = OffsetTable()
        self.producers = ProducerWindows()

    # ---- replay

    def replay(self, record: dict[str, Any], *, log_offset: int, store_ms: int) -> None:
        """Apply one metadata record."""
        match record.get("t"):
            case "offsets" | "offsets-":
                self.offsets.replay(record, log_offset=log_offset, store_ms=store_ms)
            case "topic":
                self.topics.replay(record, log_offset=log_offset, store_ms=store_ms)
            case "topic-":
                self.topics.replay(record, log_offset=log_offset, store_ms=store_ms)
                self.offsets.topic_deleted(record["i"])
            case "group":
                self.groups.replay(record, log_offset=log_offset, store_ms=store_ms)
            case "group-":
                self.groups.replay(record, log_offset=log_offset, store_ms=store_ms)
                self.offsets.group_deleted(record["name"])
            case other:
                raise DamagedLog(f"metadata at log offset {log_offset} has unknown type {other!r}")

    def applied(self, checked: CheckedFrame, result: Appended) -> None:
        """Apply one message frame that was appended: only its producer's window changes."""
        header = checked.header
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
        elif header.kind == Kind.MESSAGES and header.producer_id:
            stored = Stored(
                int.from_bytes(sealed[-4:], "little"),
                prefix.incarnation << 32 | header.queue_id,
                prefix.queue_offset,
                prefix.log_offset,
                prefix.log_offset + prefix.size,
                prefix.store_ms,
            )
            self.producers.applied(header.producer_id, header.sequence, stored)

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
        }

    def restore(self, parts: dict[str, bytes]) -> None:
        self.topics.restore(parts["topics"])
        self.groups.restore(parts["groups"])
        self.offsets.restore(parts["offsets"])
        self.producers.restore(parts["producers"])

    def digest(self) -> dict[str, str]:
        return {
            "topics": self.topics.digest(),
            "groups": self.groups.digest(),
            "offsets": self.offsets.digest(),
            "producers": self.producers.digest(),
        }
