"""Records on their way to becoming a frame: gathered, sealed once, and answered together."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Sequence

from kourou.core.compression import compress
from kourou.core.errors import KourouError
from kourou.core.frame import Column, Compression, key_hash, seal, tag_hash
from kourou.core.ids import format_id

QueueName = tuple[str, int]  # broker, queue id


class Stored:
    """Where a batch went."""

    __slots__ = (
        "broker", "dues", "duplicate", "log_offset", "offset", "producer_id", "queue_id", "sequence", "store_ms",
    )  # fmt: skip

    def __init__(
        self,
        broker: str,
        queue_id: int,
        offset: int,
        store_ms: int,
        duplicate: bool,
        producer_id: int,
        sequence: int,
        log_offset: int = 0,
        dues: list[int] | None = None,
    ) -> None:
        self.broker = broker
        self.queue_id = queue_id
        self.offset = offset
        self.store_ms = store_ms
        self.duplicate = duplicate
        self.producer_id = producer_id
        self.sequence = sequence
        self.log_offset = log_offset  # of the frame
        self.dues = dues  # of delayed messages: when each is due

    def id(self, number: int) -> str:
        return format_id(self.producer_id, self.sequence, number)


Outcome = Stored | KourouError
Done = Callable[["Batch", Outcome], None]


class Batch:
    """Records for one queue of a topic; which one is decided when it is sent, unless it is ``pinned``."""

    __slots__ = (
        "attempts",
        "attributes",
        "born_ms",
        "deadline",
        "done",
        "dues",
        "first_born_ms",
        "groups",
        "keys",
        "number",
        "pinned",
        "plain",
        "priorities",
        "property_sizes",
        "queue",
        "records",
        "refusal",
        "sealed",
        "sequence",
        "size",
        "tags",
        "topic",
        "unknown",
        "waiters",
    )

    def __init__(
        self, topic: str, *, pinned: QueueName | None, deadline: float, born_ms: int, done: Done | None = None
    ) -> None:
        self.topic = topic
        self.pinned = pinned
        self.deadline = deadline
        self.first_born_ms = born_ms
        self.records: Sequence[bytes] = []
        self.size = 0  # bytes of the records
        self.tags: list[int] | None = None
        self.property_sizes: list[int] | None = None
        self.groups: list[int] | None = None
        self.dues: list[int] | None = None
        self.priorities: list[int] | None = None
        self.attributes = 0
        self.plain = True  # of a topic of type normal: it may be compressed as a whole
        self.born_ms: list[int] | None = None
        self.keys: list[tuple[int, int]] = []  # (hash, record)
        self.waiters: list[tuple[int, Callable[[int, Outcome], None]]] = []  # (record, called with it)
        self.done = done
        self.sealed: bytes | None = None  # set once it may have been written: from then on the bytes never change
        self.sequence = 0
        self.queue: QueueName | None = None
        self.attempts = 0
        self.number = 0  # in the order of their making
        self.unknown = False  # it may be stored: only the same bytes at the same broker can tell
        self.refusal: KourouError | None = None  # why it was not stored the last time

    def add_body(self, body: bytes, born_ms: int) -> None:
        """A record without properties."""
        records = self.records
        assert isinstance(records, list)
        records.append(body)
        self.size += len(body)
        if born_ms != self.first_born_ms or self.born_ms is not None:
            self._born(born_ms)
        if self.property_sizes is not None:
            self.property_sizes.append(0)
        if self.tags is not None:
            self.tags.append(0)

    def add(
        self,
        body: bytes,
        properties: bytes,
        born_ms: int,
        *,
        tag: str | None,
        keys: Sequence[str],
        group: str | None,
        due_ms: int | None = None,
        priority: int | None = None,
    ) -> None:
        """A record with properties already encoded."""
        before = len(self.records)
        self.add_body(properties + body if properties else body, born_ms)
        if properties:
            if self.property_sizes is None:
                self.property_sizes = [0] * (before + 1)
            self.property_sizes[-1] = len(properties)
        if tag is not None:
            if self.tags is None:
                self.tags = [0] * (before + 1)
            self.tags[-1] = tag_hash(tag)
        for key in keys:
            self.keys.append((key_hash(self.topic, key), before))
        if group is not None:
            if self.groups is None:
                self.groups = []
            self.groups.append(zlib.crc32(group.encode()) or 1)
        if due_ms is not None:
            if self.dues is None:
                self.dues = []
            self.dues.append(due_ms)
        if priority is not None:
            if self.priorities is None:
                self.priorities = []
            self.priorities.append(priority)

    def _born(self, born_ms: int) -> None:
        if self.born_ms is None:
            self.born_ms = [0] * (len(self.records) - 1)
        self.born_ms.append(max(0, born_ms - self.first_born_ms))

    def seal(self, *, queue_id: int, producer_id: int, sequence: int, compression: Compression) -> bytes:
        columns: dict[Column, array[int]] = {}
        if self.tags is not None:
            columns[Column.TAG_HASHES] = array("I", self.tags)
        if self.born_ms is not None and any(self.born_ms):
            columns[Column.BORN_DELTAS] = array("I", self.born_ms)
        if self.property_sizes is not None:
            columns[Column.PROPERTY_SIZES] = array("I", self.property_sizes)
        if self.keys:
            columns[Column.KEYS] = array("I", [hashed for hashed, _ in self.keys] + [record for _, record in self.keys])
        if self.groups is not None:
            columns[Column.GROUP_HASHES] = array("I", self.groups)
        if self.dues is not None:
            columns[Column.DUE_TIMES] = array("q", self.dues)
        if self.priorities is not None:
            columns[Column.PRIORITIES] = array("i", self.priorities)
        stored: bytes | None = None
        if compression is not Compression.NONE:
            stored = compress(compression, b"".join(self.records))
            if len(stored) >= self.size:
                stored, compression = None, Compression.NONE
        return seal(
            topic=self.topic,
            queue_id=queue_id,
            records=self.records,
            born_ms=self.first_born_ms,
            producer_id=producer_id,
            sequence=sequence,
            compression=compression,
            stored=stored,
            columns=columns,
            attributes=self.attributes,
        )

    def finish(self, outcome: Outcome) -> None:
        """Tell everybody who waits; once."""
        for number, called in self.waiters:
            called(number, outcome)
        self.waiters.clear()
        if self.done is not None:
            self.done(self, outcome)
            self.done = None
