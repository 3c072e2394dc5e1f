"""What a consumer hands out: messages of one queue that were delivered together. Decoded when they are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kourou.client.delivered import DeliveredFrame, ReceivedMessage, messages_of, read_frames
from kourou.client.subscription import Position

if TYPE_CHECKING:
    from kourou.client.consumer import Consumer


class Batch:
    """Messages of one queue, in order."""

    __slots__ = (
        "_consumer",
        "_frames",
        "_start",
        "broker",
        "credited",
        "data",
        "next_offset",
        "position",
        "queue",
        "topic",
    )

    def __init__(self, consumer: Consumer, position: Position, data: memoryview, start: int, next_offset: int) -> None:
        self._consumer = consumer
        self._frames: list[DeliveredFrame] | None = None
        self._start = start  # records before it belong to an earlier batch
        self.position = position
        self.data = data
        self.credited = False  # its bytes have been given back to the broker's credit
        self.topic = consumer.topic
        self.broker = position.subscription.broker
        self.queue = position.queue
        self.next_offset = next_offset  # of the first message behind the batch

    def frames(self) -> list[DeliveredFrame]:
        if self._frames is None:
            options = self._consumer.options
            self._frames = read_frames(self.data, start=self._start, tags=options.tags, verify=options.verify)
        return self._frames

    def bodies(self) -> list[bytes]:
        """The bodies, in order. Raises Corrupted when a frame is damaged."""
        frames = self.frames()
        if len(frames) == 1:
            return frames[0].bodies()
        return [body for delivered in frames for body in delivered.bodies()]

    def messages(self) -> Iterator[ReceivedMessage]:
        return messages_of(self.frames(), self.position)

    def __len__(self) -> int:
        return sum(len(delivered.chosen) for delivered in self.frames())

    @property
    def revoked(self) -> bool:
        """The queue has been taken away: what is not finished belongs to another consumer."""
        return self.position.gone or self.position.releasing is not None

    def done(self) -> None:
        """Mark all its messages as finished; the next commit covers them."""
        self.position.finished(self.next_offset)
        self._consumer.finished(self)

    async def commit(self) -> None:
        """Mark as finished and commit now."""
        self.done()
        await self.position.subscription.commit()

    def rest(self, start: int) -> Batch:
        """The messages from an offset on."""
        batch = Batch(self._consumer, self.position, self.data, start, self.next_offset)
        batch.credited = self.credited
        return batch
