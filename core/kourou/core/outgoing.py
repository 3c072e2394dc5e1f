"""One message on its way into the log, as a gateway hands it on, and the frame of one record that it becomes."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from kourou.core import frame
from kourou.core.frame import HALF, Column, seal
from kourou.core.route import TopicType


@dataclass(slots=True)
class OutgoingMessage:
    """``block`` holds the encoded properties; what else is here is for the columns, and repeats what is in it."""

    topic: str
    kind: TopicType
    block: bytes
    body: bytes
    born_ms: int
    message_id: str
    tag: str | None = None
    keys: tuple[str, ...] = ()
    group: str | None = None  # message group
    due_ms: int | None = None
    priority: int | None = None
    lite_topic: str | None = None


def seal_one(message: OutgoingMessage, queue: int) -> bytes:
    """A sealed frame of one record."""
    topic = message.topic
    hashes = [frame.key_hash(topic, key) for key in message.keys]
    hashes.append(frame.id_hash(topic, message.message_id))
    columns: dict[Column, array[int]] = {
        Column.PROPERTY_SIZES: array("I", (len(message.block),)),
        Column.KEYS: array("I", hashes + [0] * len(hashes)),
    }
    attributes = 0
    if message.tag is not None:
        columns[Column.TAG_HASHES] = array("I", (frame.tag_hash(message.tag),))
    if message.kind is TopicType.TRANSACTION:
        attributes = HALF
    elif message.kind is TopicType.DELAY:
        columns[Column.DUE_TIMES] = array("q", (message.due_ms or 0,))
    elif message.kind is TopicType.PRIORITY:
        columns[Column.PRIORITIES] = array("i", (message.priority or 0,))
    elif message.group is not None and message.kind is TopicType.FIFO:
        columns[Column.GROUP_HASHES] = array("I", (frame.group_hash(message.group.encode()),))
    return seal(
        topic=topic,
        queue_id=queue,
        records=(message.block + message.body,),
        born_ms=message.born_ms,
        columns=columns,
        attributes=attributes,
    )
