"""Any legal message that goes in comes out the same."""

from __future__ import annotations

import hashlib
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kourou.broker.services.records import DecodedFrame, StoredMessage
from kourou.broker.store.columns import check_columns
from kourou.core import frame
from kourou.core.frame import Column, Prefix, parse_sealed
from kourou.core.outgoing import seal_one
from kourou.core.records import encode_field
from kourou.core.route import TopicType
from kourou.gateway.checks import check_message, kind_of
from kourou.gateway.convert import TYPES, fill, milliseconds, outgoing
from kourou.gateway.status import Code, Refused
from kourou.proto.rocketmq.v2 import definition_pb2 as pb

PEER, HOST = "192.0.2.1:5000", "192.0.2.2:8081"
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="|"), min_size=1, max_size=20).filter(
    str.strip
)
LITE = st.text("abcXYZ019_-", min_size=1, max_size=64)
TIMES = st.integers(0, 253_402_300_799_999)


@st.composite
def messages(draw: st.DrawFn) -> pb.Message:
    made = pb.Message(topic=pb.Resource(name="t", resource_namespace=draw(st.sampled_from(["", "ns"]))))
    made.body = draw(st.binary(min_size=1, max_size=200))
    made.user_properties.update(draw(st.dictionaries(TEXT, st.text(st.characters(exclude_categories=["Cs"])), max_size=5)))
    system = made.system_properties
    system.message_id = draw(TEXT)
    system.keys.extend(draw(st.lists(TEXT, max_size=4)))
    system.body_encoding = draw(st.sampled_from([pb.ENCODING_UNSPECIFIED, pb.IDENTITY, pb.GZIP]))
    system.born_host = draw(st.sampled_from(["", "host.example"]))
    for name, values in {
        "tag": TEXT,
        "message_group": TEXT.filter(lambda text: len(text.encode()) < 64),
        "trace_context": st.text(max_size=50).filter(lambda text: "\ud800" not in text),
        "priority": st.integers(0, 2**31 - 1),
        "lite_topic": LITE,
    }.items():
        if draw(st.booleans()):
            setattr(system, name, draw(values))
    if draw(st.booleans()):
        _stamp(system.delivery_timestamp, draw(TIMES))
    if draw(st.booleans()):
        _stamp(system.born_timestamp, draw(TIMES))
    if draw(st.booleans()):
        system.message_type = pb.TRANSACTION
        _stamp(system.orphaned_transaction_recovery_duration, draw(st.integers(0, 3_600_000)))
    return made


def _stamp(stamp: Any, ms: int) -> None:
    stamp.seconds, stamp.nanos = ms // 1000, ms % 1000 * 1_000_000


def stored(made: pb.Message, queue: int = 3) -> tuple[StoredMessage, frame.SealedHeader, bytes]:
    """Through the log's own form, all checks included."""
    check_message(made)
    kind = kind_of(made.system_properties)
    sealed = seal_one(outgoing(made, "t", kind, now_ms=77_000, peer=PEER), queue)
    header = parse_sealed(sealed)
    frame.check_sealed_crc(sealed, 0, header.size)
    check_columns(sealed, 0, header)
    prefix = Prefix(48 + len(sealed), 4_096, 1, 5, 12, 88_123, 1, 0)
    return StoredMessage(DecodedFrame(prefix, header, sealed, 0), 0), header, sealed


@settings(max_examples=150, deadline=None)
@given(messages())
def test_there_and_back(made: pb.Message) -> None:
    message, header, _ = stored(made)
    back = pb.Message()
    system = fill(back, message, made.topic, 3, host=HOST)
    asked = made.system_properties
    kind = kind_of(asked)
    assert back.topic == made.topic
    assert back.body == made.body
    assert back.user_properties == made.user_properties
    assert system.message_id == asked.message_id
    assert system.keys == asked.keys
    assert system.message_type == TYPES[kind]
    assert system.body_encoding == (pb.GZIP if asked.body_encoding == pb.GZIP else pb.IDENTITY)
    assert system.body_digest.type == pb.MD5
    assert system.body_digest.checksum == hashlib.md5(made.body).hexdigest().upper()
    assert system.born_host == (asked.born_host or PEER)
    assert milliseconds(system.born_timestamp) == (
        milliseconds(asked.born_timestamp) if asked.HasField("born_timestamp") else 77_000
    )
    assert milliseconds(system.store_timestamp) == 88_123
    assert (system.queue_id, system.queue_offset, system.store_host) == (3, 12, HOST)
    kept = {"tag": True, "trace_context": True, "message_group": kind is not TopicType.NORMAL}
    kept |= {"priority": kind is TopicType.PRIORITY, "lite_topic": kind is TopicType.LITE}
    kept["delivery_timestamp"] = kind is TopicType.DELAY
    for name, expected in kept.items():
        assert system.HasField(name) == (asked.HasField(name) and expected), name
        if system.HasField(name):
            assert getattr(system, name) == getattr(asked, name), name
    columns = {
        Column.TAG_HASHES: asked.HasField("tag"),
        Column.GROUP_HASHES: kind is TopicType.FIFO or (kind is TopicType.LITE and asked.HasField("message_group")),
        Column.DUE_TIMES: kind is TopicType.DELAY,
        Column.PRIORITIES: kind is TopicType.PRIORITY,
    }
    for column, expected in columns.items():
        if column is not Column.GROUP_HASHES or kind is not TopicType.LITE:
            assert bool(header.columns & column) == expected, column.name
    assert bool(header.attributes & frame.HALF) == (kind is TopicType.TRANSACTION)
    assert back.SerializeToString()


def test_what_a_filter_sees() -> None:
    made = pb.Message(body=b"x", topic=pb.Resource(name="t"), user_properties={"a": "1"})
    made.system_properties.message_id, made.system_properties.tag = "id", "x"
    made.system_properties.keys.extend(["k1", "k2"])
    message, _, _ = stored(made)
    assert message.filtered_on() == ("x", {"a": "1", "TAGS": "x", "KEYS": "k1 k2", "UNIQ_KEY": "id"})
    assert message.message_id == "id"


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (-(2**62), 0), (0, 2**31 - 1), (253_402_300_800, 0)])
def test_times_out_of_range(seconds: int, nanos: int) -> None:
    made = pb.Message(body=b"x")
    made.system_properties.born_timestamp.seconds, made.system_properties.born_timestamp.nanos = seconds, nanos
    with pytest.raises(Refused) as refused:
        outgoing(made, "t", TopicType.NORMAL, now_ms=1, peer=PEER)
    assert refused.value.code == Code.BAD_REQUEST


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\x03",
        b"\xff\xff\xff\xff",
        *(encode_field(field, value) for field in range(18) for value in (b"", b"\x00", b"\xff" * 3, b"\xff" * 20)),
    ],
)
def test_properties_that_native_producers_get_wrong(block: bytes) -> None:
    """What can be read is; nothing raises, and what clients can't do without is there."""
    sealed = frame.seal(
        topic="t",
        queue_id=0,
        records=[block + b"body"],
        born_ms=1,
        columns={Column.PROPERTY_SIZES: array("I", (len(block),))},
    )
    message = StoredMessage(DecodedFrame(Prefix(0, 9, 1, 5, 0, 1, 1, 0), parse_sealed(sealed), sealed, 0), 0)
    message.filtered_on()
    back = pb.Message()
    system = fill(back, message, pb.Resource(name="t"), 0, host=HOST)
    again = pb.Message.FromString(back.SerializeToString())
    assert again.body == b"body"
    assert system.message_id or block[:1] == b"\x05"
    assert system.body_encoding in (pb.IDENTITY, pb.GZIP)
    assert system.message_type in TYPES.values()
