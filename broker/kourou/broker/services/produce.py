"""Taking sealed frames from producers: check everything, hand what passes to the journal, answer all together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import FrameJob, Journal, Source
from kourou.broker.services.state import BrokerState
from kourou.broker.store.columns import check_columns
from kourou.broker.store.store import Appended, CheckedFrame
from kourou.core.errors import (
    BadRequest,
    FrameInvalid,
    InternalError,
    KourouError,
    QueueNotFound,
    TopicTypeMismatch,
)
from kourou.core.frame import HALF, MOVED, Column, Kind, SealedHeader, check_sealed_crc, column, parse_sealed
from kourou.core.limits import FRAMES_PER_REQUEST_MAX
from kourou.core.route import TopicType


@dataclass(slots=True)
class FrameResult:
    """What became of one frame: stored (error is None) or refused."""

    queue_id: int = 0
    queue_offset: int = 0
    log_offset: int = 0
    store_ms: int = 0
    duplicate: bool = False
    error: KourouError | None = None


class ProduceService:
    """Validates and submits; counts what came in."""

    def __init__(self, state: BrokerState, journal: Journal, *, check_due: Callable[[int], None]) -> None:
        self._state = state
        self._journal = journal
        self._check_due = check_due  # raises when a message may not wait that long
        self.messages_in = 0
        self.bytes_in = 0
        self.frames_in = 0
        self.refused = 0
        self.duplicates = 0

    def produce(self, body: memoryview, count: int, done: Callable[[list[FrameResult]], None]) -> None:
        """Store the ``count`` sealed parts that lie one after the other in ``body``; ``done`` gets a result for each.

        Raises BadRequest or FrameInvalid when the request can't be cut into frames; nothing is stored then.
        """
        if not 0 < count <= FRAMES_PER_REQUEST_MAX:
            raise BadRequest(f"request says {count} frames; from 1 to {FRAMES_PER_REQUEST_MAX} are allowed")
        headers: list[tuple[int, SealedHeader]] = []
        at = 0
        for _ in range(count):
            header = parse_sealed(body, at)
            headers.append((at, header))
            at += header.size
        if at != len(body):
            raise FrameInvalid(f"{count} frames take {at} bytes, the request has {len(body)}")
        results = [FrameResult() for _ in headers]
        collector = _Collector(self, results, done)
        for number, (at, header) in enumerate(headers):
            result = results[number]
            result.queue_id = header.queue_id
            try:
                frame = self.check(body[at : at + header.size], header)
            except KourouError as failure:
                collector.refuse(result, header, failure)
                continue
            self._journal.submit(FrameJob(frame, collector.expect(result, header), collector.stopped))
        collector.all_submitted()

    def note(self, header: SealedHeader) -> None:
        """Count a frame that was stored."""
        self.frames_in += 1
        self.messages_in += header.record_count
        self.bytes_in += header.raw_size

    def check(self, sealed: memoryview, header: SealedHeader) -> CheckedFrame:
        """The frame, if it may be appended; raises what is wrong with it. O(1) in Python for any number of records."""
        if header.kind != Kind.MESSAGES:
            raise FrameInvalid("producers may send message frames only")
        topic = self._state.topics.get(header.topic)
        if header.queue_id >= topic.queues and self._state.lite.name(topic.incarnation, header.queue_id) is None:
            raise QueueNotFound(f"topic {topic.name} has {topic.queues} queues on this broker, not queue {header.queue_id}")
        check_type(topic, header)
        crc = check_sealed_crc(sealed, 0, header.size)
        if header.columns & Column.DUE_TIMES:
            self._check_due(max(column(sealed, 0, header, Column.DUE_TIMES) or (0,)))
        return CheckedFrame(sealed, header, crc, topic.incarnation, check_columns(sealed, 0, header))


def check_type(topic: Topic, header: SealedHeader) -> None:
    """A topic takes the messages it was created for."""
    columns, kind = header.columns, topic.type
    if header.attributes & MOVED:
        raise FrameInvalid("frames of moved messages are made by brokers alone")
    if kind is not TopicType.NORMAL and header.compression:
        raise FrameInvalid(f"topic {topic.name} has type {kind.value}: its frames are not compressed as a whole")
    found = _kind_of(header)
    if found is kind:
        return
    if kind is TopicType.LITE and found is TopicType.NORMAL and header.queue_id >= topic.queues:
        return  # its queue says which lite topic
    if kind is TopicType.LITE:
        raise TopicTypeMismatch(f"topic {topic.name} has type lite: every message needs a lite topic")
    if kind is TopicType.FIFO:
        raise TopicTypeMismatch(f"topic {topic.name} has type fifo: every message needs a message group")
    if columns & Column.GROUP_HASHES and kind is TopicType.NORMAL:
        raise TopicTypeMismatch(f"topic {topic.name} has type normal: a message group needs a topic of type fifo")
    raise TopicTypeMismatch(f"topic {topic.name} has type {kind.value} and takes no messages of type {found.value}")


def _kind_of(header: SealedHeader) -> TopicType:
    """The type of message that a frame holds, as RocketMQ ranks them."""
    columns = header.columns
    if header.attributes & HALF:
        return TopicType.TRANSACTION
    if columns & Column.DUE_TIMES:
        return TopicType.DELAY
    if columns & Column.GROUP_HASHES:
        return TopicType.FIFO
    if columns & Column.PRIORITIES:
        return TopicType.PRIORITY
    return TopicType.NORMAL


class _Collector:
    """Waits for the results of a request's frames."""

    __slots__ = ("_done", "_missing", "_results", "_service", "_submitted", "stopped")

    def __init__(
        self, service: ProduceService, results: list[FrameResult], done: Callable[[list[FrameResult]], None]
    ) -> None:
        self._service = service
        self._results = results
        self._done = done
        self._missing = 0
        self._submitted = False
        self.stopped: set[Source] = set()  # with a refused frame in this request: those behind it are refused too

    def refuse(self, result: FrameResult, header: SealedHeader, failure: KourouError) -> None:
        result.error = failure
        self._service.refused += 1
        if header.producer_id:
            self.stopped.add((header.producer_id, header.topic, header.queue_id))

    def expect(
        self, result: FrameResult, header: SealedHeader
    ) -> Callable[[Appended | None, bool, KourouError | None], None]:
        self._missing += 1
        service = self._service

        def done(appended: Appended | None, duplicate: bool, failure: KourouError | None) -> None:
            if appended is None:
                self.refuse(result, header, failure or InternalError("the frame was not stored"))
            else:
                result.queue_offset = appended.queue_offset
                result.log_offset = appended.log_offset
                result.store_ms = appended.store_ms
                result.duplicate = duplicate
                if duplicate:
                    service.duplicates += 1
                else:
                    service.note(header)
            self._missing -= 1
            if self._missing == 0 and self._submitted:
                self._done(self._results)

        return done

    def all_submitted(self) -> None:
        self._submitted = True
        if self._missing == 0:
            self._done(self._results)
