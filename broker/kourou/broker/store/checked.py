"""What goes into the store and what comes back: a frame that was checked, and the place it got."""

from __future__ import annotations

from dataclasses import dataclass

from kourou.broker.store.columns import FrameFacts
from kourou.core.frame import Buffer, SealedHeader, parse_sealed, queue_key


@dataclass(slots=True)
class CheckedFrame:
    """A sealed part that may be appended as it is."""

    sealed: Buffer
    header: SealedHeader
    crc: int
    incarnation: int
    facts: FrameFacts

    @property
    def key(self) -> int:
        return queue_key(self.incarnation, self.header)

    @staticmethod
    def trusted(sealed: bytes) -> CheckedFrame:
        """A frame that the broker itself sealed: metadata or an epoch."""
        header = parse_sealed(sealed)
        return CheckedFrame(sealed, header, int.from_bytes(sealed[-4:], "little"), 0, FrameFacts(0, None))


@dataclass(slots=True)
class Appended:
    log_offset: int
    end_offset: int
    queue_offset: int
    store_ms: int
    prefix: bytes = b""  # as written, for handing the frame on without reading it back
