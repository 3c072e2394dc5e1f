"""The frames of one producer that are under way to one broker log.

One sequence counts the frames; at most PRODUCER_WINDOW may be unresolved and they never span more than that, so that the
broker's window always knows the answer to a retry. A frame whose answer was lost is *unknown*: the same bytes are sent
again on a new connection until it is answered or its deadline passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import error

from kourou.client.logic.batch import Batch, Outcome, QueueName, Stored
from kourou.client.logic.deadlines import AnswerTime
from kourou.client.logic.faults import Faults
from kourou.core import wire
from kourou.core.errors import FlushFailed, InternalError, KourouError, OutcomeUnknown, SequenceExpired, from_code
from kourou.core.limits import PRODUCER_WINDOW
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection

_ONE_FRAME = wire.PRODUCE_REQUEST.pack(0, 1, 0)
Resolved = Callable[["Lane", Batch, Outcome], None]


class Lane:
    def __init__(
        self,
        broker: str,
        *,
        producer_id: int,
        loop: asyncio.AbstractEventLoop,
        faults: Faults,
        resolved: Resolved,
        pump: Callable[[], None],
        reconnect: Callable[[Lane], None],
    ) -> None:
        self.broker = broker
        self.connection: Connection | None = None
        self.connecting = False
        self.unresolved: dict[int, Batch] = {}  # by sequence, rising
        self.blocked = False  # the socket takes no more at present; ``writable`` is called when it does
        self.busy: set[tuple[str, int]] = set()  # (topic, queue id) with an ordered frame under way
        self.answers = AnswerTime()
        self._producer_id = producer_id
        self._loop = loop
        self._faults = faults
        self._resolved = resolved
        self._pump = pump
        self._reconnect = reconnect
        self._sequence = 0
        self._unknown: dict[int, Batch] = {}
        self._asked: dict[int, Connection] = {}  # by sequence: whose answer is awaited

    @property
    def usable(self) -> bool:
        connection = self.connection
        return connection is not None and not connection.closed and not connection.going_away

    @property
    def has_slot(self) -> bool:
        """Whether a frame may be sent now, on a usable connection."""
        if self.blocked:
            return False
        unresolved = self.unresolved
        if not unresolved:
            return True
        return len(unresolved) < PRODUCER_WINDOW and self._sequence + 1 - next(iter(unresolved)) < PRODUCER_WINDOW

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def send(self, batch: Batch, queue: QueueName) -> None:
        """Write a sealed batch. ``resolved`` is called later, once, unless it is given up."""
        batch.queue = queue
        self.unresolved[batch.sequence] = batch
        if batch.pinned is not None:
            self.busy.add((batch.topic, queue[1]))
        self._write(batch)

    def _write(self, batch: Batch) -> None:
        connection = self.connection
        assert connection is not None
        assert batch.sealed is not None
        started = self._loop.time()
        self._asked[batch.sequence] = connection

        def answered(result: WireMessage | KourouError) -> None:
            self._answered(batch, connection, started, result)

        connection.request(Code.PRODUCE, answered, header=_ONE_FRAME, parts=(batch.sealed,))

        if not connection.writable:
            self.blocked = True
            connection.on_writable(self._writable)

    def _writable(self) -> None:
        self.blocked = False
        self._pump()

    def _answered(self, batch: Batch, asked: Connection, started: float, result: WireMessage | KourouError) -> None:
        sequence = batch.sequence
        if self.unresolved.get(sequence) is not batch:
            return  # given up meanwhile
        if self._asked.get(sequence) is not asked:
            self._answered_late(batch, result)
            return
        del self._asked[sequence]
        now = self._loop.time()
        if isinstance(result, OutcomeUnknown):
            self._faults.failed(self.broker, now)
            batch.unknown = True
            self._unknown[sequence] = batch
            self._reconnect(self)
            return
        self.answers.took(now - started)
        self._faults.answered(self.broker, now - started, now)
        outcome = result if isinstance(result, KourouError) else self._parse(batch, result)
        if isinstance(outcome, KourouError) and self._stays_unknown(batch, outcome):
            batch.unknown = True
            batch.refusal = outcome
            batch.attempts += 1
            delay_ms = max(outcome.retry_after_ms or 0, min(1_000, 10 << min(batch.attempts, 7)))
            self._loop.call_later(delay_ms / 1000, self._again, batch)
            return
        if batch.unknown and isinstance(outcome, SequenceExpired):
            outcome = OutcomeUnknown(f"broker {self.broker} has forgotten the attempt whose answer was lost: {outcome}")
        self._settle(batch)
        self._resolved(self, batch, outcome)

    def _answered_late(self, batch: Batch, result: WireMessage | KourouError) -> None:
        """By a former master, after its successor has been asked: only that it is stored counts."""
        outcome = result if isinstance(result, KourouError) else self._parse(batch, result)
        if isinstance(outcome, Stored):
            self._settle(batch)
            self._resolved(self, batch, outcome)

    @staticmethod
    def _stays_unknown(batch: Batch, refusal: KourouError) -> bool:
        """A frame that may be stored must not move to another queue for a refusal that comes afterwards: that says
        nothing about the attempt whose answer was lost. A failed flush is such an attempt itself."""
        return isinstance(refusal, FlushFailed) or (batch.unknown and refusal.retry)

    def _again(self, batch: Batch) -> None:
        if self.unresolved.get(batch.sequence) is not batch:
            return
        if self.usable:
            self._write(batch)
        else:
            self._unknown[batch.sequence] = batch
            self._reconnect(self)

    def _settle(self, batch: Batch) -> None:
        self.unresolved.pop(batch.sequence, None)
        self._unknown.pop(batch.sequence, None)
        self._asked.pop(batch.sequence, None)
        if batch.pinned is not None and batch.queue is not None:
            self.busy.discard((batch.topic, batch.queue[1]))

    def _parse(self, batch: Batch, message: WireMessage) -> Outcome:
        body = message.body
        try:
            code, duplicate, queue_id, offset, log_offset, store_ms = wire.PRODUCE_RESULT.unpack_from(body)
        except error:
            return InternalError(f"broker {self.broker} sent an answer to PRODUCE that is cut off")
        if code:
            try:
                errors = wire.decode_json(body[wire.PRODUCE_RESULT.size :], what="errors of PRODUCE").get("errors", {})
                described = errors.get("0", {})
                return from_code(code, str(described.get("message")), retry_after_ms=described.get("retry_after_ms"))
            except (KourouError, AttributeError):
                return from_code(code, f"broker {self.broker} refused it without saying why")
        return Stored(
            self.broker,
            queue_id,
            offset,
            store_ms,
            bool(duplicate),
            self._producer_id,
            batch.sequence,
            log_offset,
            batch.dues,
        )

    def left(self) -> None:
        """Another process is the master now. The former one may never answer, as when it is frozen or cut off."""
        self.connection = None
        for sequence in self._asked:
            batch = self.unresolved[sequence]
            batch.unknown = True
            self._unknown[sequence] = batch
        self._asked.clear()

    def connected(self, connection: Connection) -> None:
        """Take a new connection, and send again what is unknown, in order."""
        self.connection = connection
        self.blocked = False
        unknown, self._unknown = self._unknown, {}
        for sequence in sorted(unknown):
            if self.unresolved.get(sequence) is unknown[sequence]:
                self._write(unknown[sequence])

    def give_up(self, batch: Batch) -> None:
        """The deadline of a frame under way has passed: its sequence stays a hole."""
        self._settle(batch)
