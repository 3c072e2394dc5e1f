"""What a consumer gets: batches of frames as they came off the wire, decoded when they are looked at.

``bodies()`` makes nothing but the bodies; where all records of a frame have one length a single precompiled ``struct``
call cuts them (12 ns each). ``messages()`` makes objects, whose fields are decoded on access.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING

from kourou.client.fields import MessageFields
from kourou.core import frame
from kourou.core.compression import inflate
from kourou.core.frame import PREFIX_SIZE, Column, Prefix, SealedHeader
from kourou.core.ids import format_id
from kourou.core.records import Field, readable_fields, readable_text

if TYPE_CHECKING:
    from kourou.client.subscription import Position

_UNIFORM_MAX = 4_096  # records that one struct format describes


@lru_cache(maxsize=64)
def _uniform(size: int, count: int) -> Struct:
    return Struct(f"{size}s" * count)


class DeliveredFrame:
    """One frame, checked; the records from ``first`` on (a position may lie within a frame)."""

    __slots__ = ("_bounds", "_columns", "_data", "_records", "_sealed_at", "chosen", "header", "prefix")

    def __init__(self, data: memoryview, at: int, prefix: Prefix, *, start: int) -> None:
        self._data = data
        self._sealed_at = at + PREFIX_SIZE
        self.prefix = prefix
        self.header: SealedHeader = frame.parse_sealed(data, self._sealed_at, available=prefix.size - PREFIX_SIZE)
        self._records: memoryview | bytes | None = None
        self._bounds: list[int] | None = None
        self._columns: dict[Column, object] = {}
        first = max(0, start - prefix.queue_offset)
        self.chosen: range | list[int] = range(first, self.header.record_count)

    @property
    def end(self) -> int:
        """Queue offset behind the last record."""
        return self.prefix.queue_offset + self.header.record_count

    def verify(self) -> None:
        """Both checksums. Raises BadChecksum."""
        at = self._sealed_at - PREFIX_SIZE
        frame.check_frame(self._data[at : at + self.prefix.size])

    def decode(self, tags: frozenset[str] | None = None) -> None:
        """Take the records apart, keeping those that have the tags. Raises what is wrong with them: FrameInvalid or
        BadChecksum, or NotSupported where a codec is missing here."""
        if tags is not None:
            self.chosen = self._with_tags(tags)
        if not self.chosen:
            return
        if self.header.compression:
            self.records()
        if self.header.columns & Column.LENGTHS:
            self.bounds()

    def _column(self, which: Column) -> object:
        if which not in self._columns:
            self._columns[which] = frame.column(self._data, self._sealed_at, self.header, which)
        return self._columns[which]

    def _with_tags(self, tags: frozenset[str]) -> list[int]:
        hashes = frame.column(self._data, self._sealed_at, self.header, Column.TAG_HASHES)
        if hashes is None:
            return []
        wanted = set(map(frame.tag_hash, tags))
        return [number for number in self.chosen if hashes[number] in wanted and self.tag(number) in tags]

    def records(self) -> memoryview | bytes:
        """The inflated records."""
        if self._records is None:
            header = self.header
            at = self._sealed_at + header.records_at
            stored = self._data[at : at + header.records_size]
            self._records = inflate(header.compression, stored, header.raw_size) if header.compression else stored
        return self._records

    def bounds(self) -> list[int]:
        if self._bounds is None:
            self._bounds = frame.record_bounds(self._data, self._sealed_at, self.header)
        return self._bounds

    def bodies(self) -> list[bytes]:
        header, records = self.header, self.records()
        columns, count = header.columns, header.record_count
        whole = isinstance(self.chosen, range) and self.chosen.start == 0
        if not columns & (Column.LENGTHS | Column.PROPERTY_SIZES) and whole and count <= _UNIFORM_MAX:
            return list(_uniform(header.raw_size // count, count).unpack(records))
        bounds = self.bounds()
        if not columns & Column.PROPERTY_SIZES and isinstance(self.chosen, range):
            raw = bytes(records)
            return [raw[start:end] for start, end in pairwise(bounds[self.chosen.start :])]
        return [self.body(number) for number in self.chosen]

    def _properties_size(self, number: int) -> int:
        sizes = self._column(Column.PROPERTY_SIZES)
        return sizes[number] if sizes is not None else 0  # type: ignore[index]

    def body(self, number: int) -> bytes:
        bounds = self.bounds()
        return bytes(self.records()[bounds[number] + self._properties_size(number) : bounds[number + 1]])

    def properties(self, number: int) -> bytes:
        size = self._properties_size(number)
        start = self.bounds()[number]
        return bytes(self.records()[start : start + size]) if size else b""

    def tag(self, number: int) -> str | None:
        for field, value in readable_fields(self.properties(number)):
            if field == Field.TAG:
                return readable_text(value)
        return None

    def born_ms(self, number: int) -> int:
        deltas = self._column(Column.BORN_DELTAS)
        return self.header.born_ms + (deltas[number] if deltas is not None else 0)  # type: ignore[index]


class ReceivedMessage(MessageFields):
    """A message that was delivered. Fields are decoded when they are read."""

    __slots__ = ("_body", "_frame", "_number", "broker", "position", "queue")

    def __init__(
        self,
        frame_: DeliveredFrame,
        number: int,
        broker: str,
        queue: int,
        body: bytes | None = None,
        position: Position | None = None,
    ) -> None:
        self._frame = frame_
        self._number = number
        self._body = body
        self._fields = None
        self.broker = broker
        self.queue = queue
        self.position = position  # of the consumer that was handed it; None for one that was looked up

    def __repr__(self) -> str:
        return f"ReceivedMessage(topic={self.topic!r}, queue={self.queue}, offset={self.offset}, id={self.id!r})"

    @property
    def body(self) -> bytes:
        if self._body is None:
            self._body = self._frame.body(self._number)
        return self._body

    @property
    def topic(self) -> str:
        return self._frame.header.topic

    @property
    def offset(self) -> int:
        """The queue offset."""
        return self._frame.prefix.queue_offset + self._number

    @property
    def id(self) -> str:
        chosen = self._first(Field.MESSAGE_ID)
        if chosen is not None:
            return chosen
        header = self._frame.header
        return format_id(header.producer_id, header.sequence, self._number)

    @property
    def born_ms(self) -> int:
        """When the producer made it, ms since 1970 UTC by its clock."""
        return self._frame.born_ms(self._number)

    @property
    def store_ms(self) -> int:
        """When the broker stored it, ms since 1970 UTC by its clock."""
        return self._frame.prefix.store_ms

    def _block(self) -> bytes:
        return self._frame.properties(self._number)


def messages_of(frames: list[DeliveredFrame], position: Position) -> Iterator[ReceivedMessage]:
    broker, queue = position.subscription.broker, position.queue
    for delivered in frames:
        if isinstance(delivered.chosen, range) and not delivered.header.columns & Column.PROPERTY_SIZES:
            for number, body in zip(delivered.chosen, delivered.bodies(), strict=True):
                yield ReceivedMessage(delivered, number, broker, queue, body, position)
        else:
            for number in delivered.chosen:
                yield ReceivedMessage(delivered, number, broker, queue, None, position)
