"""RECEIVE on the wire: what a member of a shared group asks for, and the messages it is handed. Big-endian.

Request   u32 wait ms | u32 invisible ms | u32 bytes at most | u16 messages at most | u8 kind of filter | u8 zero |
          u64 attempt | u16 size of group | u16 size of topic | u32 size of filter
          body: group, topic, filter expression, UTF-8
Answer    u16 deliveries | u16 how often the group may be handed a message | u32 zero
          body: per delivery a head, then receipt handle, property block and body
Head      u32 queue | u64 queue offset | i64 born ms | i64 stored ms | i64 due ms | u64 producer id | u64 sequence |
          u32 record | u16 attempt | u16 size of handle | u32 size of properties | u32 size of body

Producer id, sequence and record make the message's id where its properties have none. Where there is no producer id (the
broker itself made the frame, or a gateway) the sequence is the frame's log offset, and stands in the id instead.

TRANSACTION_CHECK asks with one delivery that has no handle: u64 log offset | u32 record | u16 size of topic | u16 zero;
body: topic, head, property block, body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct, error
from typing import Final, NamedTuple

from kourou.core.errors import BadRequest, IllegalInvisibleTime
from kourou.core.ids import format_id

INVISIBLE_MS_MIN: Final = 1_000
INVISIBLE_MS_MAX: Final = 12 * 3_600_000
WAIT_MS_MAX: Final = 60_000
DELIVERIES_MAX: Final = 1_024  # of one RECEIVE
BYTES_MAX: Final = 8 * 1024 * 1024  # of one RECEIVE; a single message may be larger than what was asked for
EVERYTHING, TAG, SQL = 0, 1, 2  # kinds of filter
KINDS: Final = {TAG: "tag", SQL: "sql"}

REQUEST: Final = Struct(">IIIHBBQHHI")
ANSWER: Final = Struct(">HHI")
HEAD: Final = Struct(">IQqqqQQIHHII")
CHECK: Final = Struct(">QIHH")
CANCEL: Final = Struct(">I")  # RECEIVE_CANCEL: opaque of the RECEIVE
assert REQUEST.size == 32
assert HEAD.size == 68
assert CHECK.size == 16


class Asked(NamedTuple):
    """A RECEIVE."""

    group: str
    topic: str
    limit: int  # 0: nothing, only whether the group may read the topic
    invisible_ms: int
    wait_ms: int
    bytes_max: int
    kind: int = EVERYTHING
    expression: str = ""
    attempt: int = 0  # of the asker's choosing; the same again gets the same messages, if its answer was lost


class Delivery(NamedTuple):
    queue: int
    queue_offset: int
    born_ms: int
    store_ms: int
    due_ms: int  # until when it is the receiver's, by the broker's clock
    producer_id: int
    sequence: int
    record: int
    attempt: int
    handle: bytes
    block: bytes
    body: bytes

    @property
    def native_id(self) -> str:
        if self.producer_id:
            return format_id(self.producer_id, self.sequence, self.record)
        return f"{self.sequence:016X}{self.record:08X}"


def encode_asked(asked: Asked) -> tuple[bytes, bytes]:
    """(header, body)."""
    group, topic, expression = asked.group.encode(), asked.topic.encode(), asked.expression.encode()
    header = REQUEST.pack(
        asked.wait_ms, asked.invisible_ms, asked.bytes_max, asked.limit, asked.kind, 0, asked.attempt,
        len(group), len(topic), len(expression),
    )  # fmt: skip
    return header, group + topic + expression


def decode_asked(header: memoryview | bytes, body: memoryview | bytes) -> Asked:
    """Raises BadRequest or IllegalInvisibleTime. Names and filter are the caller's to check."""
    if len(header) != REQUEST.size:
        raise BadRequest(f"RECEIVE has a header of {len(header)} bytes, not {REQUEST.size}")
    wait_ms, invisible_ms, bytes_max, limit, kind, zero, attempt, *sizes = REQUEST.unpack(header)
    if sum(sizes) != len(body):
        raise BadRequest(f"group, topic and filter of RECEIVE take {sum(sizes)} bytes, the body has {len(body)}")
    if kind not in (EVERYTHING, TAG, SQL) or zero:
        raise BadRequest(f"RECEIVE has the kind of filter {kind}, which is unknown, or a reserved field that is not zero")
    if limit > DELIVERIES_MAX or wait_ms > WAIT_MS_MAX:
        raise BadRequest(
            f"RECEIVE asks for {limit} messages and a wait of {wait_ms} ms; {DELIVERIES_MAX} and {WAIT_MS_MAX} may be"
        )
    check_invisible(invisible_ms)
    raw = bytes(body)
    try:
        group, topic = raw[: sizes[0]].decode(), raw[sizes[0] : sizes[0] + sizes[1]].decode()
        expression = raw[sizes[0] + sizes[1] :].decode()
    except UnicodeDecodeError:
        raise BadRequest("group, topic or filter of RECEIVE is not UTF-8") from None
    return Asked(
        group, topic, limit, invisible_ms, wait_ms, min(bytes_max, BYTES_MAX), kind, expression if kind else "", attempt
    )


def check_invisible(invisible_ms: int, *, low: int = INVISIBLE_MS_MIN) -> None:
    if not low <= invisible_ms <= INVISIBLE_MS_MAX:
        raise IllegalInvisibleTime(f"invisible time is {invisible_ms} ms; from {low} to {INVISIBLE_MS_MAX} is allowed")


def encode_delivery(delivery: Delivery) -> tuple[bytes, bytes, bytes, bytes]:
    handle, block, body = delivery.handle, delivery.block, delivery.body
    head = HEAD.pack(*delivery[:9], len(handle), len(block), len(body))
    return head, handle, block, body


def encode_deliveries(deliveries: Iterable[Delivery]) -> list[bytes]:
    return [part for delivery in deliveries for part in encode_delivery(delivery)]


def decode_deliveries(body: memoryview, count: int) -> Iterator[Delivery]:
    """Raises BadRequest when the body is cut off, or has more in it."""
    at, end = 0, len(body)
    for _ in range(count):
        try:
            *fixed, handle_size, block_size, body_size = HEAD.unpack_from(body, at)
        except error:
            raise BadRequest(f"delivery is cut off at byte {at} of {end}") from None
        handle_at = at + HEAD.size
        block_at = handle_at + handle_size
        body_at = block_at + block_size
        at = body_at + body_size
        if at > end:
            raise BadRequest(f"delivery says {at} bytes; {end} are there")
        parts = bytes(body[handle_at:block_at]), bytes(body[block_at:body_at]), bytes(body[body_at:at])
        yield Delivery._make((*fixed, *parts))
    if at != end:
        raise BadRequest(f"{count} deliveries take {at} bytes, the body has {end}")


def encode_check(topic: str, log_offset: int, record: int, half: Delivery) -> tuple[bytes, list[bytes]]:
    """(header, parts of the body)."""
    raw = topic.encode()
    return CHECK.pack(log_offset, record, len(raw), 0), [raw, *encode_delivery(half)]


def decode_check(header: memoryview | bytes, body: memoryview) -> tuple[str, int, int, Delivery]:
    """(topic, log offset, record, the half message)."""
    if len(header) != CHECK.size:
        raise BadRequest(f"TRANSACTION_CHECK has a header of {len(header)} bytes, not {CHECK.size}")
    log_offset, record, size, _ = CHECK.unpack(header)
    (half,) = decode_deliveries(body[size:], 1)
    return str(body[:size], "utf-8"), log_offset, record, half
