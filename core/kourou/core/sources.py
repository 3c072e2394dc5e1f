"""What a moved record takes the place of: the SOURCE property of copies that the broker makes.

A delivered timer, a committed transaction, a dead letter and a redriven one are copies in a MOVED frame. Storing the copy
retires its source in the same step, so a crash can neither lose nor double it.

    u8 reason | u64 log offset of the frame that holds the source | u32 its record
    settled deliveries only: u32 incarnation of the topic | u32 queue | u64 queue offset | group, UTF-8

Little-endian.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct, error
from typing import NamedTuple

from kourou.core.errors import FrameInvalid

_HEAD = Struct("<BQI")
_SETTLED = Struct("<IIQ")


class Reason(IntEnum):
    TIMER = 1  # its time has come
    COMMIT = 2  # its transaction was committed
    DEAD_LETTER = 3  # a group gave it up
    REDRIVE = 4  # a dead letter goes back to where it came from


class Source(NamedTuple):
    reason: int
    log_offset: int
    record: int
    group: str = ""
    incarnation: int = 0
    queue: int = 0
    queue_offset: int = 0


def encode_source(source: Source) -> bytes:
    head = _HEAD.pack(source.reason, source.log_offset, source.record)
    if source.reason in (Reason.TIMER, Reason.COMMIT):
        return head
    return head + _SETTLED.pack(source.incarnation, source.queue, source.queue_offset) + source.group.encode()


def decode_source(value: bytes) -> Source:
    """Raises FrameInvalid."""
    try:
        reason, log_offset, record = _HEAD.unpack_from(value)
        if len(value) == _HEAD.size:
            return Source(reason, log_offset, record)
        incarnation, queue, queue_offset = _SETTLED.unpack_from(value, _HEAD.size)
        group = value[_HEAD.size + _SETTLED.size :].decode()
    except (error, UnicodeDecodeError):
        raise FrameInvalid("the source of a moved record does not parse") from None
    return Source(reason, log_offset, record, group, incarnation, queue, queue_offset)
