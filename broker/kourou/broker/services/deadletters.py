"""Messages that a shared group gave up: copied to the topic ``%DLQ%group``, which is read like any other.

The copy names its delivery as its source, so storing it settles the delivery. It keeps the message's id, tag, keys and
properties, and says where it came from, how often it was delivered, and why it is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import Any, Protocol

from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import Journal
from kourou.broker.services.moves import Move, Mover
from kourou.broker.services.records import RecordReader
from kourou.broker.services.state import BrokerState
from kourou.core.clock import Clock
from kourou.core.errors import InvalidReceiptHandle, KourouError, MessageNotFound
from kourou.core.handles import Receipt
from kourou.core.records import Field, encode_field, encode_property
from kourou.core.route import Placement, TopicType
from kourou.core.sources import Reason, Source

PREFIX = "%DLQ%"
RETRY_S = 1.0
_I32 = Struct("<i")
_U16 = Struct("<H")
# what the copy does not need: it is no timer, no transaction and in no order any more
LEFT_OUT = frozenset({Field.DELIVERY_MS, Field.RECOVERY_MS, Field.DELIVERY_ATTEMPT})
REASON_PROPERTY = "DLQ_REASON"
TIME_PROPERTY = "DLQ_TIME_MS"
ATTEMPTS_PROPERTY = "DLQ_ATTEMPTS"


class Log(Protocol):
    def warning(self, event: str, **fields: Any) -> Any: ...


def dead_letter_topic(group: str) -> str:
    return f"{PREFIX}{group}"


class DeadLetters:
    """Buries what was handed out often enough, or what a consumer gives up."""

    def __init__(
        self,
        state: BrokerState,
        journal: Journal,
        records: RecordReader,
        mover: Mover,
        *,
        broker: str,
        clock: Clock,
        log: Log,
        on_topic: Callable[[str], None],
        on_settled: Callable[[str, int, int], None],
    ) -> None:
        self._state = state
        self._journal = journal
        self._records = records
        self._mover = mover
        self._broker = broker
        self._clock = clock
        self._log = log
        self._on_topic = on_topic
        self._on_settled = on_settled
        self._tasks: set[asyncio.Task[None]] = set()
        self.buried = 0

    def bury(self, group: str, incarnation: int, queue: int, offsets: list[int]) -> None:
        """Move ripe messages away; the caller has marked them as dying."""
        task = asyncio.get_running_loop().create_task(self._bury_all(group, incarnation, queue, offsets))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury_all(self, group: str, incarnation: int, queue: int, offsets: list[int]) -> None:
        for offset in offsets:
            while not self._journal.closing:
                try:
                    await self._bury_one(group, incarnation, queue, offset, "delivered as often as the group allows")
                    break
                except InvalidReceiptHandle:
                    break  # settled, reset or deleted meanwhile
                except MessageNotFound:  # retention has taken it
                    record = {"t": "ack", "g": group, "i": incarnation, "e": [(queue, [offset])]}
                    self._journal.submit_applied(record, lambda failure: None)
                    self._on_settled(group, incarnation, queue)
                    break
                except KourouError as failure:
                    self._log.warning("dead_letter_not_stored", group=group, queue_offset=offset, reason=str(failure))
                    await asyncio.sleep(RETRY_S)

    async def forward(self, group: str, receipt: Receipt, reason: str) -> None:
        """A consumer gives a delivery up. Raises InvalidReceiptHandle when it is not its to give up any more."""
        ledger = self._state.shared.find(group, receipt.incarnation, receipt.queue)
        if ledger is None:
            raise InvalidReceiptHandle("the message was settled since")
        if ledger.live(receipt.queue_offset, receipt.serial) is None:
            if receipt.queue_offset < ledger.next and receipt.queue_offset not in ledger.open:
                return  # settled: the same request before, most likely
            raise InvalidReceiptHandle("the message was delivered again since")
        ledger.dying.add(receipt.queue_offset)
        try:
            await self._bury_one(group, receipt.incarnation, receipt.queue, receipt.queue_offset, reason)
        finally:
            ledger.dying.discard(receipt.queue_offset)

    async def _bury_one(self, group: str, incarnation: int, queue: int, offset: int, reason: str) -> None:
        if not self._is_open(group, incarnation, queue, offset):
            raise InvalidReceiptHandle("the message was settled since")
        message = (await self._records.load(incarnation << 32 | queue, offset)).message(offset)
        grave = await self._topic(group)
        self._journal.check_open()
        origin = self._state.topics.named(incarnation)
        ledger = self._state.shared.find(group, incarnation, queue)
        if origin is None or ledger is None or offset not in ledger.open:
            raise InvalidReceiptHandle("the message was settled since")
        attempts = ledger.lease(offset).attempt
        source = Source(
            Reason.DEAD_LETTER, message.frame.prefix.log_offset, message.number, group, incarnation, queue, offset
        )
        raw = origin.encode()
        extra = b"".join(
            (
                encode_field(Field.DEAD_LETTER, _U16.pack(len(raw)) + raw + message.message_id.encode()),
                encode_field(Field.DELIVERY_ATTEMPT, _I32.pack(attempts)),
                encode_property(REASON_PROPERTY, reason[:1024]),
                encode_property(TIME_PROPERTY, str(self._clock.wall_ms())),
                encode_property(ATTEMPTS_PROPERTY, str(attempts)),
            )
        )
        await self._mover.move(grave, 0, [Move(message, source, extra, LEFT_OUT)])
        self.buried += 1
        self._on_settled(group, incarnation, queue)

    def _is_open(self, group: str, incarnation: int, queue: int, offset: int) -> bool:
        ledger = self._state.shared.find(group, incarnation, queue)
        return ledger is not None and offset in ledger.open and self._state.topics.is_live(incarnation)

    async def _topic(self, group: str) -> Topic:
        name = dead_letter_topic(group)
        topic = self._state.topics.find(name)
        if topic is None or not topic.queues:
            placement = (Placement(self._broker, 1), *(p for p in topic.placement if p.queues)) if topic else None
            records = (
                self._state.topics.set_placement(name, placement)
                if placement
                else self._state.topics.create(
                    name, TopicType.NORMAL, (Placement(self._broker, 1),), now_ms=self._clock.wall_ms()
                )
            )
            await self._journal.write(records)
            self._on_topic(name)
            topic = self._state.topics.get(name)
        return topic
