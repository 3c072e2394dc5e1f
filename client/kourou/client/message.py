"""Messages: what is sent, and what is received."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from struct import Struct

from kourou.core.errors import BadRequest, BodyTooLarge, PropertiesTooLarge
from kourou.core.limits import (
    BODY_BYTES_MAX,
    KEYS_COUNT_MAX,
    MESSAGE_GROUP_BYTES_MAX,
    PROPERTIES_BYTES_MAX,
    PROPERTIES_COUNT_MAX,
)
from kourou.core.names import check_lite_topic, has_control_characters
from kourou.core.records import Field, encode_field, encode_property

_TAG, _KEY = int(Field.TAG), int(Field.KEY)
_I32, _I64 = Struct("<i"), Struct("<q")
_DELAY, _TRANSACTION, _LITE, _PRIORITY = b"\x03", b"\x04", b"\x05", b"\x06"  # MessageType of apache.rocketmq.v2
TIME_MS_MAX = 253_402_300_799_000  # the end of the year 9999
PRIORITY_MAX = 0x7FFFFFFF


@dataclass(slots=True)
class Message:
    """A message to send. Text is sent as UTF-8; ``key`` is short for one entry of ``keys``."""

    body: bytes
    key: str | None = None
    tag: str | None = None
    keys: Sequence[str] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    message_group: str | None = None
    delay: timedelta | float | None = None  # topics of type delay: how long to wait, from the moment it is sent; seconds
    deliver_at: datetime | float | None = None  # or when; seconds since 1970 UTC
    priority: int | None = None  # topics of type priority: higher is more urgent
    lite_topic: str | None = None  # topics of type lite: which of the small ordered topics inside

    @property
    def all_keys(self) -> tuple[str, ...]:
        return (self.key, *self.keys) if self.key is not None else tuple(self.keys)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A message is stored."""

    id: str
    topic: str
    broker: str
    queue: int
    offset: int
    store_ms: int  # ms since 1970 UTC, by the broker's clock
    duplicate: bool = False  # a retry found it stored already
    recall_handle: str | None = None  # of a delayed message: for ``Producer.recall``


def check_body(body: object) -> bytes:
    if isinstance(body, bytes):
        checked = body
    elif isinstance(body, bytearray | memoryview):
        checked = bytes(body)
    elif isinstance(body, str):
        checked = _encode("the body", body)
    else:
        raise BadRequest(f"a message body must be bytes or str, not {type(body).__name__}")
    if len(checked) > BODY_BYTES_MAX:
        raise BodyTooLarge(f"the body has {len(checked)} bytes; the limit is {BODY_BYTES_MAX}")
    return checked


def due_ms_of(message: Message, *, now_ms: int) -> int | None:
    """When a message is to be delivered; None: at once."""
    delay, deliver_at = message.delay, message.deliver_at
    if delay is None and deliver_at is None:
        return None
    if delay is not None and deliver_at is not None:
        raise BadRequest("give delay or deliver_at, not both")
    try:
        if isinstance(delay, bool) or isinstance(deliver_at, bool):
            raise TypeError
        if delay is not None:
            seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
            due_ms = now_ms + math.ceil(seconds * 1000)
        else:
            assert deliver_at is not None
            seconds = deliver_at.timestamp() if isinstance(deliver_at, datetime) else deliver_at
            due_ms = math.ceil(seconds * 1000)
    except (TypeError, ValueError, OverflowError, OSError):
        raise BadRequest("delay must be a timedelta or seconds, deliver_at a datetime or seconds since 1970 UTC") from None
    if not 0 <= due_ms <= TIME_MS_MAX:
        raise BadRequest(f"delivery time is {due_ms} ms since 1970; from 0 to {TIME_MS_MAX} is allowed")
    return due_ms


def check_priority(priority: object) -> int:
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= PRIORITY_MAX:
        raise BadRequest(f"priority is {priority!r}; whole numbers from 0 to {PRIORITY_MAX} are allowed")
    return priority


def encode_half(recovery_ms: int | None) -> bytes:
    """What the properties of a half message say beyond those of any other."""
    kind = encode_field(Field.MESSAGE_TYPE, _TRANSACTION)
    return kind if recovery_ms is None else kind + encode_field(Field.RECOVERY_MS, _I64.pack(recovery_ms))


def encode_properties(message: Message, due_ms: int | None = None) -> bytes:
    """The property block of a record; empty when there is nothing to say. Raises what is wrong, naming the field."""
    parts: list[bytes] = []
    if message.tag is not None:
        tag = _check_text("tag", message.tag)
        if "|" in message.tag:
            raise BadRequest(f"tag {message.tag[:40]!r} has a '|'")
        parts.append(encode_field(_TAG, tag))
    if message.key is not None:
        parts.append(encode_field(_KEY, _check_text("key", message.key)))
    if message.keys:
        if isinstance(message.keys, str):
            raise BadRequest("keys must be a list of strings; give a single one as key")
        if len(message.all_keys) > KEYS_COUNT_MAX:
            raise PropertiesTooLarge(f"the message has {len(message.all_keys)} keys; the limit is {KEYS_COUNT_MAX}")
        parts.extend(encode_field(_KEY, _check_text("key", key)) for key in message.keys)
    if message.properties:
        if type(message.properties) is not dict and not isinstance(message.properties, Mapping):
            raise BadRequest(f"properties must be a mapping of strings, not {type(message.properties).__name__}")
        if len(message.properties) > PROPERTIES_COUNT_MAX:
            raise PropertiesTooLarge(
                f"the message has {len(message.properties)} properties; the limit is {PROPERTIES_COUNT_MAX}"
            )
        for name, value in message.properties.items():
            _check_text("property name", name)
            if not isinstance(value, str):
                raise BadRequest(f"property {name[:40]!r} must be a string, not {type(value).__name__}")
            if len(value) > PROPERTIES_BYTES_MAX:
                raise PropertiesTooLarge(f"property {name[:40]!r} alone takes more than {PROPERTIES_BYTES_MAX} bytes")
            try:
                parts.append(encode_property(name, value))
            except UnicodeEncodeError:
                raise BadRequest(f"property {name[:40]!r} can't be written as UTF-8") from None
    size = sum(map(len, parts)) - 3 * len(parts)
    if size > PROPERTIES_BYTES_MAX:
        raise PropertiesTooLarge(f"tag, keys and properties take {size} bytes; the limit is {PROPERTIES_BYTES_MAX}")
    if message.message_group is not None:
        parts.append(encode_field(Field.MESSAGE_GROUP, check_message_group(message.message_group)))
    if due_ms is not None:
        parts.append(encode_field(Field.MESSAGE_TYPE, _DELAY))
        parts.append(encode_field(Field.DELIVERY_MS, _I64.pack(due_ms)))
    if message.priority is not None:
        parts.append(encode_field(Field.MESSAGE_TYPE, _PRIORITY))
        parts.append(encode_field(Field.PRIORITY, _I32.pack(check_priority(message.priority))))
    if message.lite_topic is not None:
        parts.append(encode_field(Field.MESSAGE_TYPE, _LITE))
        parts.append(encode_field(Field.LITE_TOPIC, check_lite_topic(message.lite_topic).encode()))
    return b"".join(parts)


def check_message_group(group: object) -> bytes:
    raw = _check_text("message group", group)
    if len(raw) > MESSAGE_GROUP_BYTES_MAX:
        raise BadRequest(f"the message group has {len(raw)} bytes; the limit is {MESSAGE_GROUP_BYTES_MAX}")
    return raw


def _check_text(what: str, text: object) -> bytes:
    """The text in UTF-8, if it may be used there."""
    if not isinstance(text, str):
        raise BadRequest(f"a {what} must be a string, not {type(text).__name__}")
    if len(text) > PROPERTIES_BYTES_MAX:
        raise PropertiesTooLarge(f"a {what} has {len(text)} characters; the limit is {PROPERTIES_BYTES_MAX} bytes in all")
    if not text.isprintable() and has_control_characters(text):
        raise BadRequest(f"{what} {text[:40]!r} has control characters")
    if not text or text.isspace():
        raise BadRequest(f"a {what} must not be blank")
    return _encode(f"{what} {text[:40]!r}", text)


def _encode(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{what} can't be written as UTF-8: it has half of a surrogate pair") from None
