"""Cutting a delivery into frames, with what can't be read named as gaps between them. Pure.

Of a frame with a wrong checksum nothing is believed, its size and offsets least of all: the gap reaches from where the last
good frame ended to where the next one begins, or to the end of the delivery.
"""

from __future__ import annotations

from dataclasses import dataclass

from kourou.client.delivered import DeliveredFrame
from kourou.core import frame
from kourou.core.errors import Corrupted, FrameInvalid, UnsupportedVersion

_MAGIC = frame.PREFIX_MAGIC.to_bytes(4, "little")
_TRIES = 1_000  # places that look like the beginning of a frame


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that can't be read."""

    offset: int  # queue offset of the first
    next_offset: int
    log_offset: int
    stored_so: bool  # the checksum is right
    reason: str


Pieces = list[DeliveredFrame | Gap]


def read_delivery(
    data: memoryview, *, start: int, next_offset: int, tags: frozenset[str] | None = None, verify: bool = True
) -> Pieces:
    """Frames and gaps, in order, from queue offset ``start`` up to ``next_offset``; only records that have the tags."""
    pieces: Pieces = []
    at, end = 0, len(data)
    reached, floor = start, 0  # what is behind the last piece, and behind the last whole frame
    while at < end and reached < next_offset:
        try:
            delivered = _parse(data, at, start, verify)
        except (Corrupted, FrameInvalid, UnsupportedVersion) as failure:
            log_offset = int.from_bytes(data[at + 8 : at + 16], "little")
            at = _next_frame(data, at, floor, next_offset)
            resumes = frame.parse_prefix(data, at).queue_offset if at < end else next_offset
            if resumes > reached:
                pieces.append(Gap(reached, resumes, log_offset, False, str(failure)))
                reached = resumes
            continue
        at += delivered.prefix.size
        floor = delivered.end
        if delivered.end <= start:
            continue
        try:
            delivered.decode(tags)
            pieces.append(delivered)
        except (Corrupted, FrameInvalid) as failure:
            first = max(reached, delivered.prefix.queue_offset)
            pieces.append(Gap(first, delivered.end, delivered.prefix.log_offset, True, str(failure)))
        reached = max(reached, delivered.end)
    return pieces


def _parse(data: memoryview, at: int, start: int, verify: bool) -> DeliveredFrame:
    prefix = frame.parse_prefix(data, at)
    if prefix.size > len(data) - at:
        raise FrameInvalid(f"frame is cut off: {len(data) - at} bytes of {prefix.size}")
    delivered = DeliveredFrame(data, at, prefix, start=start)
    if verify:
        delivered.verify()
    return delivered


def _next_frame(data: memoryview, at: int, low: int, high: int) -> int:
    """Where the next whole frame begins behind one that is damaged: where that one ends, if that can be believed."""
    tail = bytes(data[at:])
    size = int.from_bytes(tail[4:8], "little")
    if size == len(tail):
        return len(data)
    places = [size]
    place = tail.find(_MAGIC, 4)
    while place >= 0 and len(places) < _TRIES:
        places.append(place)
        place = tail.find(_MAGIC, place + 4)
    for place in places:
        try:
            prefix, _ = frame.check_frame(tail, place)
        except (Corrupted, FrameInvalid, UnsupportedVersion):
            continue
        if low <= prefix.queue_offset < high:
            return at + place
    return len(data)
