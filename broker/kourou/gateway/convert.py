"""Messages of the official API and ours, both ways. The only place that knows both forms.

System properties are kept as fields of the record's property block, so that what a client sent comes out again; what the
log knows itself (store time, offsets) is not stored twice.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import md5
from struct import Struct, error

from kourou.core.outgoing import OutgoingMessage
from kourou.core.records import (
    Field,
    encode_field,
    encode_property,
    readable_fields,
    readable_property,
    readable_text,
)
from kourou.core.route import TopicType
from kourou.gateway.messaging import Delivered, Stored
from kourou.gateway.status import Code, Refused
from kourou.proto.rocketmq.v2 import definition_pb2 as pb

_I32 = Struct("<i")
_I64 = Struct("<q")
_U16 = Struct("<H")
TIMESTAMP_S_MAX = 253_402_300_799  # the end of the year 9999, as protobuf has it

TYPES: dict[TopicType, int] = {
    TopicType.NORMAL: pb.NORMAL,
    TopicType.FIFO: pb.FIFO,
    TopicType.DELAY: pb.DELAY,
    TopicType.TRANSACTION: pb.TRANSACTION,
    TopicType.PRIORITY: pb.PRIORITY,
    TopicType.LITE: pb.LITE,
}

_KNOWN_TYPES = frozenset(TYPES.values())


def milliseconds(stamp: object) -> int:
    """Of a Timestamp or Duration; Refused where it is out of range."""
    seconds: int = stamp.seconds  # type: ignore[attr-defined]
    nanos: int = stamp.nanos  # type: ignore[attr-defined]
    if not -TIMESTAMP_S_MAX <= seconds <= TIMESTAMP_S_MAX or not -999_999_999 <= nanos <= 999_999_999:
        raise Refused(Code.BAD_REQUEST, f"a timestamp or duration of {seconds} s and {nanos} ns is out of range")
    return seconds * 1000 + nanos // 1_000_000


def outgoing(message: pb.Message, topic: str, kind: TopicType, *, now_ms: int, peer: str) -> OutgoingMessage:
    """A checked message, ready to be sealed."""
    system = message.system_properties
    born_ms = milliseconds(system.born_timestamp) if system.HasField("born_timestamp") else now_ms
    if not 0 <= born_ms < 1 << 62:
        born_ms = now_ms
    parts = [encode_field(Field.MESSAGE_ID, system.message_id.encode())]
    add = parts.append
    out = OutgoingMessage(topic, kind, b"", message.body, born_ms, system.message_id)
    if system.HasField("tag"):
        out.tag = system.tag
        add(encode_field(Field.TAG, system.tag.encode()))
    if system.keys:
        out.keys = tuple(system.keys)
        for key in out.keys:
            add(encode_field(Field.KEY, key.encode()))
    add(encode_field(Field.BORN_HOST, (system.born_host or peer).encode()))
    if system.body_encoding == pb.GZIP:
        add(encode_field(Field.BODY_ENCODING, b"\x02"))
    if kind is not TopicType.NORMAL:
        add(encode_field(Field.MESSAGE_TYPE, bytes((TYPES[kind],))))
        if system.HasField("message_group"):
            out.group = system.message_group
            add(encode_field(Field.MESSAGE_GROUP, system.message_group.encode()))
        if kind is TopicType.DELAY:
            out.due_ms = milliseconds(system.delivery_timestamp)
            add(encode_field(Field.DELIVERY_MS, _I64.pack(out.due_ms)))
        if kind is TopicType.TRANSACTION and system.HasField("orphaned_transaction_recovery_duration"):
            recovery_ms = milliseconds(system.orphaned_transaction_recovery_duration)
            add(encode_field(Field.RECOVERY_MS, _I64.pack(recovery_ms)))
        if kind is TopicType.PRIORITY:
            out.priority = system.priority
            add(encode_field(Field.PRIORITY, _I32.pack(system.priority)))
        if kind is TopicType.LITE:
            out.lite_topic = system.lite_topic
            add(encode_field(Field.LITE_TOPIC, system.lite_topic.encode()))
    if system.HasField("trace_context"):
        add(encode_field(Field.TRACE_CONTEXT, system.trace_context.encode()))
    for name, value in message.user_properties.items():
        add(encode_property(name, value))
    out.block = b"".join(parts)
    return out


def fill(message: pb.Message, stored: Stored, resource: pb.Resource, queue: int, *, host: str) -> pb.SystemProperties:
    """Put a stored message into an answer; its system properties, for what the caller adds."""
    message.topic.CopyFrom(resource)
    message.body = body = stored.body
    system = message.system_properties
    system.message_type = pb.NORMAL
    system.body_encoding = pb.IDENTITY
    for field, value in readable_fields(stored.block):
        if field == Field.PROPERTY:
            name, text = readable_property(value)
            message.user_properties[name] = text
        else:
            reader = _READERS.get(field)
            if reader is not None:
                try:
                    reader(system, value)
                except (error, IndexError):
                    pass  # a native producer's field that has not the size it should have
    if not system.message_id:
        system.message_id = stored.native_id
    digest = system.body_digest
    digest.type = pb.MD5
    digest.checksum = md5(body, usedforsecurity=False).hexdigest().upper()
    born_ms, store_ms = stored.born_ms, stored.store_ms
    born = system.born_timestamp
    born.seconds, born.nanos = born_ms // 1000, born_ms % 1000 * 1_000_000
    kept = system.store_timestamp
    kept.seconds, kept.nanos = store_ms // 1000, store_ms % 1000 * 1_000_000
    system.store_host = host
    if not system.born_host:
        system.born_host = host
    system.queue_id = queue
    system.queue_offset = stored.queue_offset
    return system


def fill_delivered(message: pb.Message, delivered: Delivered, resource: pb.Resource, *, host: str) -> None:
    system = fill(message, delivered.message, resource, delivered.queue, host=host)
    system.receipt_handle = delivered.handle
    system.delivery_attempt = delivered.attempt


def _tag(system: pb.SystemProperties, value: bytes) -> None:
    system.tag = readable_text(value)


def _key(system: pb.SystemProperties, value: bytes) -> None:
    system.keys.append(readable_text(value))


def _group(system: pb.SystemProperties, value: bytes) -> None:
    system.message_group = readable_text(value)
    if system.message_type == pb.NORMAL:
        system.message_type = pb.FIFO


def _id(system: pb.SystemProperties, value: bytes) -> None:
    system.message_id = readable_text(value)


def _born_host(system: pb.SystemProperties, value: bytes) -> None:
    system.born_host = readable_text(value)


def _encoding(system: pb.SystemProperties, value: bytes) -> None:
    if value[0] in (pb.IDENTITY, pb.GZIP):  # clients lose the whole batch over one that they don't know
        system.body_encoding = value[0]  # type: ignore[assignment]


def _type(system: pb.SystemProperties, value: bytes) -> None:
    if value[0] in _KNOWN_TYPES:
        system.message_type = value[0]  # type: ignore[assignment]


def _delivery(system: pb.SystemProperties, value: bytes) -> None:
    due_ms = _I64.unpack(value)[0]
    system.delivery_timestamp.seconds, system.delivery_timestamp.nanos = due_ms // 1000, due_ms % 1000 * 1_000_000
    if system.message_type == pb.NORMAL:
        system.message_type = pb.DELAY


def _trace(system: pb.SystemProperties, value: bytes) -> None:
    system.trace_context = readable_text(value)


def _dead_letter(system: pb.SystemProperties, value: bytes) -> None:
    (size,) = _U16.unpack_from(value)
    system.dead_letter_queue.topic = readable_text(value[2 : 2 + size])
    system.dead_letter_queue.message_id = readable_text(value[2 + size :])


def _lite(system: pb.SystemProperties, value: bytes) -> None:
    system.lite_topic = readable_text(value)


def _priority(system: pb.SystemProperties, value: bytes) -> None:
    system.priority = _I32.unpack(value)[0]


_READERS: dict[int, Callable[[pb.SystemProperties, bytes], None]] = {
    Field.TAG: _tag,
    Field.KEY: _key,
    Field.MESSAGE_GROUP: _group,
    Field.MESSAGE_ID: _id,
    Field.BORN_HOST: _born_host,
    Field.BODY_ENCODING: _encoding,
    Field.MESSAGE_TYPE: _type,
    Field.DELIVERY_MS: _delivery,
    Field.TRACE_CONTEXT: _trace,
    Field.DEAD_LETTER: _dead_letter,
    Field.LITE_TOPIC: _lite,
    Field.PRIORITY: _priority,
}
