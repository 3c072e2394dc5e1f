"""A message of a shared group, and what its receiver can do with it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from kourou.client.fields import MessageFields
from kourou.core.deliveries import Delivery
from kourou.core.records import Field

if TYPE_CHECKING:
    from kourou.client.shared.consumer import SharedConsumer


class State(Enum):
    HELD = "held"
    SETTLED = "settled"  # acknowledged, put off, given up or given back by us
    LOST = "lost"  # its time was over: it is, or will be, delivered again


class HeldMessage(MessageFields):
    """What can be read of a message of a shared group."""

    __slots__ = ("_delivery", "broker", "max_attempts", "topic")

    def __init__(self, topic: str, broker: str, delivery: Delivery, max_attempts: int) -> None:
        self._delivery = delivery
        self._fields = None
        self.topic = topic
        self.broker = broker
        self.max_attempts = max_attempts  # after which it goes to the dead letters

    def __repr__(self) -> str:
        return f"SharedMessage(topic={self.topic!r}, id={self.id!r}, attempt={self.attempt})"

    def _block(self) -> bytes:
        return self._delivery.block

    @property
    def body(self) -> bytes:
        return self._delivery.body

    @property
    def id(self) -> str:
        return self._first(Field.MESSAGE_ID) or self._delivery.native_id

    @property
    def attempt(self) -> int:
        """How often it was delivered to the group, this time included."""
        return self._delivery.attempt

    @property
    def queue(self) -> int:
        return self._delivery.queue

    @property
    def offset(self) -> int:
        """The queue offset."""
        return self._delivery.queue_offset

    @property
    def born_ms(self) -> int:
        """When the producer made it, ms since 1970 UTC by its clock."""
        return self._delivery.born_ms

    @property
    def store_ms(self) -> int:
        """When the broker stored it, ms since 1970 UTC by its clock."""
        return self._delivery.store_ms

    @property
    def due_ms(self) -> int:
        """Until when this delivery was promised to us, ms since 1970 UTC by the broker's clock; renewals not counted."""
        return self._delivery.due_ms

    @property
    def handle(self) -> bytes:
        """The receipt handle."""
        return self._delivery.handle

    @property
    def delivery(self) -> Delivery:
        """As it came off the wire."""
        return self._delivery


class SharedMessage(HeldMessage):
    """Settle it with ``ack``, ``nack`` or ``bury``; in a loop with automatic acknowledgement only where it did not work."""

    __slots__ = ("_consumer", "lane", "state")

    def __init__(self, consumer: SharedConsumer, broker: str, delivery: Delivery, max_attempts: int, ordered: bool) -> None:
        super().__init__(consumer.topic, broker, delivery, max_attempts)
        self._consumer = consumer
        self.state = State.HELD
        # messages of one lane are worked on one after the other
        self.lane = (self.message_group or self.lite_topic) if ordered else None

    @property
    def lost(self) -> bool:
        """Whether its time was over before it was settled: somebody else gets it, or has it already."""
        return self.state is State.LOST

    async def ack(self) -> None:
        """It is done. Raises InvalidReceiptHandle when its time was over before; settled twice is BadRequest."""
        await self._consumer.ack(self)

    async def nack(self, delay_s: float | None = None, *, reason: str = "") -> None:
        """It did not work: deliver it again after ``delay_s``, or after what the group's retry policy says for this
        attempt. Without a delay, and at the last attempt, it goes to the dead letters at once, with the reason."""
        await self._consumer.nack(self, delay_s, reason=reason)

    async def extend(self, seconds: float) -> None:
        """Keep it for so long from now on. Not needed while a loop or a handler works on it: that is renewed."""
        await self._consumer.extend(self, seconds)

    async def bury(self, reason: str = "") -> None:
        """It will never work: move it to the dead letters."""
        await self._consumer.bury(self, reason)
