"""Copies that the broker itself makes of stored messages: of timers, transactions, dead letters.

A copy keeps the message's properties, body, id, keys and tag, and names its source, which is retired when the copy is
applied. Copies of one queue that are made together share a frame.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kourou.broker.machines.topics import Topic
from kourou.broker.services.journal import FrameJob, Journal
from kourou.broker.services.records import StoredMessage
from kourou.broker.store.columns import check_columns
from kourou.broker.store.store import Appended, CheckedFrame
from kourou.core import frame
from kourou.core.errors import KourouError
from kourou.core.frame import MOVED, Column, parse_sealed, seal
from kourou.core.records import Field, encode_field, readable_fields, readable_text
from kourou.core.sources import Source, encode_source

FRAME_BYTES_SOFT = 1024 * 1024
KEPT_OUT = frozenset({Field.SOURCE, Field.DEAD_LETTER})


@dataclass(slots=True)
class Move:
    """One copy: a stored message, what it takes the place of, and what is added to its properties."""

    message: StoredMessage
    source: Source
    extra: bytes = b""
    without: frozenset[int] = frozenset()  # fields left out
    without_properties: frozenset[str] = frozenset()  # properties left out


def seal_moves(topic: Topic, queue: int, moves: Sequence[Move]) -> CheckedFrame:
    """A frame of copies for one queue."""
    records: list[bytes] = []
    sizes, tags, deltas, groups = array("I"), array("I"), array("I"), array("I")
    hashes, owners = array("I"), array("I")
    born_ms = min(move.message.born_ms for move in moves)
    for number, move in enumerate(moves):
        block, keys, tag, group = _block(topic.name, move)
        records.append(block + move.message.body)
        sizes.append(len(block))
        tags.append(tag)
        groups.append(group)
        deltas.append(min(move.message.born_ms - born_ms, 0xFFFFFFFF))
        hashes.extend(keys)
        owners.extend([number] * len(keys))
    columns: dict[Column, array[int]] = {Column.PROPERTY_SIZES: sizes}
    if any(tags):
        columns[Column.TAG_HASHES] = tags
    if any(deltas):
        columns[Column.BORN_DELTAS] = deltas
    if any(groups):
        columns[Column.GROUP_HASHES] = groups
    if hashes:
        columns[Column.KEYS] = hashes + owners
    sealed = seal(
        topic=topic.name, queue_id=queue, records=records, born_ms=born_ms, columns=columns, attributes=MOVED
    )  # fmt: skip
    header = parse_sealed(sealed)
    return CheckedFrame(
        sealed, header, int.from_bytes(sealed[-4:], "little"), topic.incarnation, check_columns(sealed, 0, header)
    )


def _block(topic: str, move: Move) -> tuple[bytes, list[int], int, int]:
    """(property block, key hashes, tag hash, message group hash) of a copy."""
    parts: list[bytes] = []
    keys: list[int] = []
    tag = group = 0
    message_id = ""
    for field, value in readable_fields(move.message.block):
        if field in KEPT_OUT or field in move.without:
            continue
        if field == Field.TAG:
            tag = frame.tag_hash(readable_text(value))
        elif field == Field.KEY:
            keys.append(frame.key_hash(topic, readable_text(value)))
        elif field == Field.MESSAGE_GROUP:
            group = frame.group_hash(value)
        elif field == Field.MESSAGE_ID:
            message_id = readable_text(value)
        elif field == Field.PROPERTY and move.without_properties and _name(value) in move.without_properties:
            continue
        parts.append(encode_field(field, value))
    if not message_id:
        message_id = move.message.native_id
        parts.append(encode_field(Field.MESSAGE_ID, message_id.encode()))
    keys.append(frame.id_hash(topic, message_id))
    parts.append(move.extra)
    parts.append(encode_field(Field.SOURCE, encode_source(move.source)))
    return b"".join(parts), keys, tag, group


def _name(value: bytes) -> str:
    """The name of a property."""
    return value[2 : 2 + int.from_bytes(value[:2], "little")].decode("utf-8", "replace")


class Mover:
    """Hands frames of copies to the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def submit(
        self, topic: Topic, queue: int, moves: Sequence[Move], done: Callable[[Appended | None, KourouError | None], None]
    ) -> None:
        """Store copies; ``done`` is called once they are confirmed, or with what went wrong."""
        sealed = seal_moves(topic, queue, moves)
        self._journal.submit(FrameJob(sealed, lambda result, _, failure: done(result, failure)))

    async def move(self, topic: Topic, queue: int, moves: Sequence[Move]) -> Appended:
        """The same, awaited."""
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

        def done(result: Appended | None, failure: KourouError | None) -> None:
            if future.done():
                return
            if result is not None:
                future.set_result(result)
            else:
                assert failure is not None
                future.set_exception(failure)

        self.submit(topic, queue, moves, done)
        return await future
