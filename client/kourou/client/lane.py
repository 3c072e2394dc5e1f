"""The frames of one producer that are under way to one broker log.

One sequence counts the frames; at most PRODUCER_WINDOW may be unresolved and they never span more than that, so that the
broker's window always knows the answer to a retry. A frame whose answer was lost is *unknown*: the same bytes are sent
again on a new connection until it is answered or its deadline passes.
"""

from __future__ import annotations

from collections.abc import Callable

from kourou.client.logic.batch import Batch, Outcome, QueueName, Stored
from kourou.core import wire
from kourou.core.errors import InternalError, KourouError, OutcomeUnknown, from_code
from kourou.core.limits import PRODUCER_WINDOW
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection

Resolved = Callable[["Lane", Batch, Outcome], None]

SLOW_S = 1.0  # an answer that takes longer makes the broker second choice for a while
AVOID_S = 3.0


class Lane:
    def __init__(self, broker: str, *, producer_id: int, now: Callable[[], float], resolved: Resolved) -> None:
        self.broker = broker
        self.connection: Connection | None = None
        self.connecting = False
        self.unresolved: dict[int, Batch] = {}  # by sequence, rising
        self.busy: set[tuple[str, int]] = set()  # (topic, queue id) with an ordered frame under way
        self.avoid_until = 0.0
        self._producer_id = producer_id
        self._now = now
        self._resolved = resolved
        self._sequence = 0
        self._unknown: dict[int, Batch] = {}

    @property
    def usable(self) -> bool:
        connection = self.connection
        return connection is not None and not connection.closed and not connection.going_away

    @property
    def has_slot(self) -> bool:
        unresolved = self.unresolved
        if not unresolved:
            return True
        return len(unresolved) < PRODUCER_WINDOW and self._sequence + 1 - next(iter(unresolved)) < PRODUCER_WINDOW

    @property
    def needs_connection(self) -> bool:
        return not self.usable and bool(self._unknown)

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def send(self, batch: Batch, queue: QueueName) -> None:
        """Write a sealed batch. Whatever happens, ``resolved`` is called later, once."""
        batch.queue = queue
        self.unresolved[batch.sequence] = batch
        if batch.pinned is not None:
            self.busy.add((batch.topic, queue[1]))
        self._write(batch)

    def _write(self, batch: Batch) -> None:
        assert self.connection is not None
        assert batch.sealed is not None
        started = self._now()

        def answered(result: WireMessage | KourouError) -> None:
            self._answered(batch, started, result)

        self.connection.request(Code.PRODUCE, answered, header=wire.PRODUCE_REQUEST.pack(0, 1, 0), parts=(batch.sealed,))

    def _answered(self, batch: Batch, started: float, result: WireMessage | KourouError) -> None:
        if self.unresolved.get(batch.sequence) is not batch:
            return  # given up meanwhile
        if isinstance(result, OutcomeUnknown):
            self._unknown[batch.sequence] = batch
            self.avoid_until = self._now() + AVOID_S
            self._resolved(self, batch, result)
            return
        if self._now() - started > SLOW_S:
            self.avoid_until = self._now() + AVOID_S
        self._settle(batch)
        self._resolved(self, batch, result if isinstance(result, KourouError) else self._parse(batch, result))

    def _settle(self, batch: Batch) -> None:
        self.unresolved.pop(batch.sequence, None)
        self._unknown.pop(batch.sequence, None)
        if batch.pinned is not None and batch.queue is not None:
            self.busy.discard((batch.topic, batch.queue[1]))

    def _parse(self, batch: Batch, message: WireMessage) -> Outcome:
        body = message.body
        if len(body) < wire.PRODUCE_RESULT.size:
            return InternalError(f"broker {self.broker} sent an answer to PRODUCE that is cut off")
        code, duplicate, queue_id, offset, _, store_ms = wire.PRODUCE_RESULT.unpack_from(body)
        if code:
            errors = wire.decode_json(body[wire.PRODUCE_RESULT.size :], what="errors of PRODUCE").get("errors", {})
            described = errors.get("0", {})
            return from_code(code, str(described.get("message")), retry_after_ms=described.get("retry_after_ms"))
        return Stored(self.broker, queue_id, offset, store_ms, bool(duplicate), self._producer_id, batch.sequence)

    def connected(self, connection: Connection) -> None:
        """Take a new connection, and send again what is unknown, in order."""
        self.connection = connection
        unknown, self._unknown = self._unknown, {}
        for sequence in sorted(unknown):
            if self.unresolved.get(sequence) is unknown[sequence]:
                self._write(unknown[sequence])

    def give_up(self, batch: Batch) -> None:
        """The deadline of a frame under way has passed: its sequence stays a hole."""
        self._settle(batch)
