"""Single messages out of the log: frames found by queue offset, decoded once, the most recently used kept.

Fresh frames of topics that somebody reads record by record are taken from memory as they are confirmed; others come from
the page cache on the loop, or from the disk in a thread.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from itertools import islice

from kourou.broker.services.journal import Arrived, Journal
from kourou.broker.store.openindex import FrameRef
from kourou.broker.store.reading import records_gone
from kourou.broker.store.store import Store
from kourou.core import compression, frame
from kourou.core.errors import BadChecksum, Corrupted, DamagedLog, FrameInvalid, MessageNotFound, UnsupportedVersion
from kourou.core.frame import PREFIX_SIZE, QUEUE_ID_MAX, Buffer, Column, Prefix, SealedHeader
from kourou.core.ids import format_id
from kourou.core.records import Field, readable_fields, readable_property, readable_text

CACHE_BYTES = 32 * 1024 * 1024
UNREADABLE = (BadChecksum, FrameInvalid, UnsupportedVersion)  # what a damaged frame raises
INFLATE_INLINE_BYTES = 64 * 1024
READ_AHEAD_BYTES = 64 * 1024


class StoredMessage:
    """One message as it lies in the log."""

    __slots__ = ("block", "body", "born_ms", "frame", "number", "queue_offset")

    def __init__(self, decoded: DecodedFrame, number: int) -> None:
        self.frame = decoded
        self.number = number
        self.queue_offset = decoded.prefix.queue_offset + number
        self.block, self.body = decoded.parts(number)
        self.born_ms = decoded.header.born_ms + (decoded.born_deltas[number] if decoded.born_deltas is not None else 0)

    @property
    def store_ms(self) -> int:
        return self.frame.prefix.store_ms

    @property
    def native_id(self) -> str:
        """The id of a message that does not carry one of its own."""
        header = self.frame.header
        if header.producer_id:
            return format_id(header.producer_id, header.sequence, self.number)
        return f"{self.frame.prefix.log_offset:016X}{self.number:08X}"

    @property
    def message_id(self) -> str:
        for field, value in readable_fields(self.block):
            if field == Field.MESSAGE_ID:
                return readable_text(value)
        return self.native_id

    def filtered_on(self) -> tuple[str | None, dict[str, str]]:
        """(tag, properties), as filters see them."""
        tag: str | None = None
        message_id = ""
        keys: list[str] = []
        properties: dict[str, str] = {}
        for field, value in readable_fields(self.block):
            if field == Field.PROPERTY:
                name, text = readable_property(value)
                properties[name] = text
            elif field == Field.TAG:
                tag = readable_text(value)
            elif field == Field.KEY:
                keys.append(readable_text(value))
            elif field == Field.MESSAGE_ID:
                message_id = readable_text(value)
        if tag is not None:
            properties.setdefault("TAGS", tag)
        if keys:
            properties.setdefault("KEYS", " ".join(keys))
        properties.setdefault("UNIQ_KEY", message_id or self.native_id)
        return tag, properties


class DecodedFrame:
    """A frame whose records can be taken one by one. ``records`` are inflated; where a producer stored something that does
    not inflate, ``unreadable`` says why, and all records are empty."""

    __slots__ = ("_bounds", "_sizes", "born_deltas", "groups", "header", "prefix", "records", "tags", "unreadable")

    def __init__(self, prefix: Prefix, header: SealedHeader, sealed: Buffer, at: int) -> None:
        self.prefix = prefix
        self.header = header
        start = at + header.records_at
        stored = memoryview(sealed)[start : start + header.records_size]
        self.records: Buffer = stored
        self.unreadable = ""
        if header.compression:
            try:
                self.records = compression.inflate(header.compression, stored, header.raw_size)
            except (Corrupted, FrameInvalid) as failure:
                self.unreadable, self.records = str(failure), b""
        if self.unreadable:
            self._bounds = [0] * (header.record_count + 1)
        elif header.record_count == 1:
            self._bounds = [0, header.raw_size]
        else:
            self._bounds = frame.record_bounds(sealed, at, header)
        columns = header.columns
        sized = columns & 8 and not self.unreadable
        self._sizes = frame.column(sealed, at, header, Column.PROPERTY_SIZES) if sized else None
        self.tags = frame.column(sealed, at, header, Column.TAG_HASHES) if columns & 2 else None
        self.born_deltas = frame.column(sealed, at, header, Column.BORN_DELTAS) if columns & 4 else None
        self.groups = frame.column(sealed, at, header, Column.GROUP_HASHES) if columns & 32 else None

    def parts(self, number: int) -> tuple[bytes, bytes]:
        """(properties, body) of a record."""
        start, end = self._bounds[number], self._bounds[number + 1]
        split = start + self._sizes[number] if self._sizes is not None else start
        return bytes(self.records[start:split]), bytes(self.records[split:end])

    def message(self, queue_offset: int) -> StoredMessage:
        return StoredMessage(self, queue_offset - self.prefix.queue_offset)

    @property
    def end(self) -> int:
        """Queue offset behind the last record."""
        return self.prefix.queue_offset + self.header.record_count


class RecordReader:
    def __init__(
        self,
        store: Store,
        journal: Journal,
        *,
        read_executor: Executor,
        topic_of: Callable[[int], str | None] = lambda incarnation: None,
    ) -> None:
        self._topic_of = topic_of  # for what is said of damage
        self._store = store
        self._journal = journal
        self._executor = read_executor
        self._cache: OrderedDict[tuple[int, int], DecodedFrame] = OrderedDict()  # by queue key and first queue offset
        self._cached_bytes = 0
        self._latest: dict[int, DecodedFrame] = {}  # the last one looked at in each queue
        self._wanted: set[int] = set()  # incarnations of topics read record by record
        journal.on_confirmed(self._arrived)

    def want(self, incarnation: int) -> None:
        """Keep fresh frames of a topic."""
        self._wanted.add(incarnation)

    def forget(self, incarnation: int) -> None:
        self._wanted.discard(incarnation)

    def _arrived(self, arrived: list[Arrived]) -> None:
        wanted = self._wanted
        for key, checked, placed in arrived if wanted else ():
            if key >> 32 in wanted and key & 0xFFFFFFFF <= QUEUE_ID_MAX and not checked.header.compression:
                size = PREFIX_SIZE + checked.header.size
                prefix = Prefix(size, placed.log_offset, 0, key >> 32, placed.queue_offset, placed.store_ms, 1, 0)
                self._keep(key, DecodedFrame(prefix, checked.header, bytes(checked.sealed), 0))

    def find(self, key: int, queue_offset: int) -> DecodedFrame | None:
        """The frame that holds a queue offset, if it is at hand. None: not in memory, ``load`` it; or not confirmed yet.

        The caller knows that the offset is below the end of the queue. Raises MessageNotFound where retention has taken
        it, DamagedLog.
        """
        latest = self._latest.get(key)
        if latest is not None and latest.prefix.queue_offset <= queue_offset < latest.end:
            return latest
        found = self._cache.get((key, queue_offset))
        if found is None:
            ref = self._ref(key, queue_offset)
            found = self._cache.get((key, ref.queue_offset))
            if found is None:
                if ref.log_offset >= self._journal.confirmed:
                    return None
                try:
                    found = self._read_ahead(key, ref.queue_offset)
                except UNREADABLE as failure:
                    raise self._damaged(key, ref, failure) from None
                if found is None:
                    return None
        self._latest[key] = found
        return found

    def _read_ahead(self, key: int, queue_offset: int) -> DecodedFrame | None:
        """The frame that begins at a queue offset, and small ones behind it, out of the page cache: whoever reads one record
        mostly wants the next. None: it is not there, or too large to be inflated here."""
        data = None
        for bytes_max in (READ_AHEAD_BYTES, 1):
            plan = self._store.plan(key, queue_offset, bytes_max=bytes_max, below=self._journal.confirmed)
            data = self._store.read(plan, cached_only=True)
            if data is not None:
                break
        if data is None:
            return None
        first: DecodedFrame | None = None
        frames = frame.iterate_frames(data)
        while True:
            try:
                at, prefix = next(frames, (0, None))
                if prefix is None:
                    break
                piece = data[at : at + prefix.size]
                header = frame.parse_sealed(piece, PREFIX_SIZE)
                if header.compression and header.raw_size > INFLATE_INLINE_BYTES:
                    break
                frame.check_frame(piece)
            except UNREADABLE:
                if first is None:
                    raise
                break  # whoever comes to it is told
            decoded = DecodedFrame(prefix, header, piece, PREFIX_SIZE)
            self._keep(key, decoded)
            first = first or decoded
        return first

    def _damaged(self, key: int, ref: FrameRef, failure: Exception) -> DamagedLog:
        reason = f"the frame at log offset {ref.log_offset} is damaged: {failure}"
        return self._gone(key, ref.queue_offset, ref.queue_offset + ref.count, reason)

    def _gone(self, key: int, start: int, end: int, reason: str) -> DamagedLog:
        return records_gone(key, self._topic_of(key >> 32) or "", start, end, reason)

    def _ref(self, key: int, queue_offset: int) -> FrameRef:
        if queue_offset < self._store.queue_bounds(key)[0]:
            raise MessageNotFound(f"queue offset {queue_offset} was deleted: it is older than the retention time")
        refs = self._store.index.refs(key, queue_offset, limit=1)
        if not refs or refs[0].queue_offset > queue_offset:
            end = refs[0].queue_offset if refs else self._store.queue_bounds(key)[1]
            raise self._gone(key, queue_offset, end, "the log is damaged, or a part of it was lost")
        return refs[0]

    def is_unconfirmed(self, key: int, queue_offset: int) -> bool:
        """Whether that is why a frame was not found."""
        confirmed = self._journal.confirmed
        return confirmed < self._store.end_offset and self._ref(key, queue_offset).log_offset >= confirmed

    async def load(self, key: int, queue_offset: int) -> DecodedFrame:
        """The same, reading the disk in a thread."""
        found = self.find(key, queue_offset)
        if found is not None:
            return found
        plan = self._store.plan(key, queue_offset, bytes_max=1, below=self._journal.confirmed)

        def read() -> DecodedFrame:
            data = self._store.read(plan, cached_only=False)
            assert data is not None
            prefix, header = frame.check_frame(data)
            return DecodedFrame(prefix, header, data, PREFIX_SIZE)

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._executor, read)
        except UNREADABLE as failure:
            raise self._damaged(key, self._ref(key, queue_offset), failure) from None
        self._keep(key, found)
        self._latest[key] = found
        return found

    async def at(self, log_offset: int) -> DecodedFrame:
        """The frame at a log offset. Raises DamagedLog."""

        def read() -> DecodedFrame:
            data = self._store.read_frame(log_offset)
            prefix, header = frame.check_frame(data)
            return DecodedFrame(prefix, header, data, PREFIX_SIZE)

        return await asyncio.get_running_loop().run_in_executor(self._executor, read)

    def _keep(self, key: int, decoded: DecodedFrame) -> None:
        place = key, decoded.prefix.queue_offset
        if place in self._cache:
            return
        self._cache[place] = decoded
        self._cached_bytes += decoded.header.raw_size + 1024
        if self._cached_bytes > CACHE_BYTES:
            self._shed()

    def _shed(self) -> None:
        """Drop the oldest; frames are not moved up when they are used: reading goes forward."""
        dropped: Iterable[tuple[int, int]] = list(islice(self._cache, max(1, len(self._cache) // 8)))
        for place in dropped:
            self._cached_bytes -= self._cache.pop(place).header.raw_size + 1024
        self._latest.clear()
