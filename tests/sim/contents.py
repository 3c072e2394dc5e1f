"""What the frames of the log say, as the simulator reads them: by itself, without the state that is under test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kourou.core import frame
from kourou.core.frame import HALF_ROOM, MOVED, PREFIX_SIZE, TIMER_ROOM, Column, Kind, parse_prefix, parse_sealed
from kourou.core.records import Field, iterate_fields
from kourou.core.sources import Source, decode_source

QUEUE_BITS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Content:
    """A frame with messages. ``queue``: with the bit of its room where it waits beside a queue."""

    log_offset: int
    queue: int
    queue_offset: int
    store_ms: int
    names: tuple[str, ...]
    due_ms: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def waits(self) -> bool:
        return bool(self.queue & (TIMER_ROOM | HALF_ROOM))


@dataclass(frozen=True, slots=True)
class Records:
    """A frame with metadata."""

    log_offset: int
    store_ms: int
    records: tuple[dict[str, Any], ...]


def name_of(body: bytes) -> str:
    """Bodies begin with a name and a space."""
    return body.partition(b" ")[0].decode()


def read_content(data: bytes) -> Content | Records | None:
    """Of a whole frame; None for an EPOCH frame."""
    prefix, header = parse_prefix(data), parse_sealed(data, PREFIX_SIZE)
    start = PREFIX_SIZE + header.records_at
    if header.kind == Kind.EPOCH:
        return None
    bounds = frame.record_bounds(data, PREFIX_SIZE, header)
    records = [data[start + a : start + b] for a, b in pairwise(bounds)]
    if header.kind == Kind.METADATA:
        return Records(prefix.log_offset, prefix.store_ms, tuple(json.loads(record) for record in records))
    sizes = frame.column(data, PREFIX_SIZE, header, Column.PROPERTY_SIZES)
    names = tuple(name_of(record[sizes[n] if sizes is not None else 0 :]) for n, record in enumerate(records))
    due = frame.column(data, PREFIX_SIZE, header, Column.DUE_TIMES)
    sources: list[Source] = []
    if header.attributes & MOVED:
        for block in frame.property_blocks(data, PREFIX_SIZE, header):
            sources += [decode_source(value) for field, value in iterate_fields(block) if field == Field.SOURCE]
    queue = frame.queue_key(prefix.incarnation, header) & QUEUE_BITS
    return Content(prefix.log_offset, queue, prefix.queue_offset, prefix.store_ms, names, tuple(due or ()), tuple(sources))
