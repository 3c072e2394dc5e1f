"""What a consumer hands out: messages of one queue that were delivered together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kourou.client.damage import Damage
from kourou.client.delivered import DeliveredFrame, ReceivedMessage, messages_of
from kourou.client.handover import Witness
from kourou.client.reading import Gap, read_delivery
from kourou.client.subscription import Position
from kourou.core.errors import NotSupported

if TYPE_CHECKING:
    from kourou.client.consumer import Consumer


class Batch:
    """Messages of one queue, in order."""

    __slots__ = (
        "_consumer",
        "_frames",
        "_reported",
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
        self._reported = 0  # damage before this offset was reported
        self._start = start  # records before it belong to an earlier batch
        self.position = position
        self.data = data
        self.credited = False  # its bytes have been given back to the broker's credit
        self.topic = consumer.topic
        self.broker = position.subscription.broker
        self.queue = position.queue
        self.next_offset = next_offset  # of the first message behind the batch

    def decode(self) -> Batch | None:
        """Cut it into frames; before it is handed out. What can't be read is reported. Where that is not to be left out the
        batch ends before it, and what is behind comes back as another; DamagedMessages when it begins with it."""
        if self._frames is not None:
            return None
        options, report = self._consumer.options, self._consumer.damage
        try:
            pieces = read_delivery(
                self.data, start=self._start, next_offset=self.next_offset, tags=options.tags, verify=options.verify
            )
        except NotSupported as failure:  # a codec is missing here
            raise NotSupported(
                f"{failure}: topic {self.topic}, queue {self.queue} of broker {self.broker}, offsets {self._start} to "
                f"{self.next_offset - 1}"
            ) from None
        frames: list[DeliveredFrame] = []
        rest: Batch | None = None
        for piece in pieces:
            if not isinstance(piece, Gap):
                frames.append(piece)
                continue
            if frames and not (piece.stored_so or report.leaves_all_out):
                rest = self.rest(piece.offset)
                self.next_offset, self.credited = piece.offset, True  # the rest gives the bytes back
                break
            if piece.next_offset > self._reported:
                report.found(self._damage(piece))
                self._reported = piece.next_offset
        self._frames = frames
        if frames:
            last = frames[-1]
            self.position.seen = Witness(last.prefix.queue_offset, last.end, last.prefix.epoch, last.prefix.log_offset)
        return rest

    def _damage(self, gap: Gap) -> Damage:
        return Damage(
            self.topic, self.broker, self.queue, gap.offset, gap.next_offset, gap.log_offset, gap.stored_so, gap.reason
        )

    def frames(self) -> list[DeliveredFrame]:
        assert self._frames is not None, "decoded before it is handed out"
        return self._frames

    def bodies(self) -> list[bytes]:
        """The bodies, in order."""
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
        batch._reported = self._reported
        return batch
