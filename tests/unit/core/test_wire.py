"""The wire: messages survive any cut of the stream; hostile bytes end in typed errors; buffers are never reused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.core import wire
from kourou.core.errors import BadRequest, Busy, InternalError, KourouError, LimitExceeded, TryLater, UnsupportedVersion
from kourou.core.wire import Flag, FrameReader

messages = st.lists(
    st.tuples(st.integers(0, 65535), st.integers(0, 7), st.integers(0, (1 << 32) - 1), st.binary(max_size=64), st.binary()),
    max_size=6,
)
Parts = list[tuple[int, int, int, bytes, bytes]]


def encoded(parts: Parts) -> bytes:
    return b"".join(
        wire.encode(code, opaque, flags=flags, header=header, body=body) for code, flags, opaque, header, body in parts
    )


def decoded(found: list[wire.WireMessage]) -> Parts:
    return [(m.code, m.flags, m.opaque, bytes(m.header), bytes(m.body)) for m in found]


@given(messages, st.lists(st.integers(1, 100), min_size=1, max_size=50))
def test_any_split_of_the_stream_gives_the_same_messages(parts: Parts, cuts: list[int]) -> None:
    stream, reader = encoded(parts), FrameReader()
    found: list[wire.WireMessage] = []
    at = number = 0
    while at < len(stream):
        size = cuts[number % len(cuts)]
        found += reader.feed(stream[at : at + size])
        at, number = at + size, number + 1
    assert decoded(found) == parts
    assert reader.pending_bytes == 0
    assert [m.size for m in found] == [16 + len(header) + len(body) for *_, header, body in parts]


@given(messages.filter(bool), st.data())
def test_a_truncated_stream_gives_the_whole_messages_before(parts: Parts, data: st.DataObject) -> None:
    stream = encoded(parts)
    size = data.draw(st.integers(0, len(stream) - 1))
    reader = FrameReader()
    found = decoded(reader.feed(stream[:size]))
    assert found == parts[: len(found)]
    assert len(found) < len(parts)
    assert reader.pending_bytes == size - len(encoded(parts[: len(found)]))


@given(st.binary(min_size=1, max_size=400), st.integers(1, 400))
def test_hostile_bytes_end_in_typed_errors_and_bounded_buffers(data: bytes, step: int) -> None:
    reader = FrameReader(bytes_max=10_000)
    try:
        for at in range(0, len(data), step):
            for message in reader.feed(data[at : at + step]):
                assert message.size <= 10_000
    except KourouError:
        return
    assert len(reader.get_buffer()) <= 64 * 1024


@pytest.mark.parametrize(
    ("head", "error", "text"),
    [
        (b"\0\0\0\x20" + b"\1\0\0\x08", UnsupportedVersion, "header type 1"),
        (b"\x7f\0\0\0" + b"\2\0\0\x08", LimitExceeded, "the limit is 16777216"),
        (b"\0\0\0\x20" + b"\2\0\0\x07", BadRequest, "header length 7"),
        (b"\0\0\0\x20" + b"\2\0\0\x21", BadRequest, "header length 33"),
        (b"\0\0\0\0" + b"\2\0\0\x08", BadRequest, "header length 8"),
        (b"\0\x20\0\0" + b"\2\2\0\0", BadRequest, "header length 131072"),
    ],
)
def test_heads_that_cannot_be(head: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        FrameReader().feed(head + bytes(8))


def test_views_stay_as_they_were() -> None:
    """Whatever is received later: bodies are views into buffers that are not written again."""
    reader, kept, expected = FrameReader(), [], []
    for number in range(200):
        body = bytes([number]) * (number * 331 % 40_000)
        kept += reader.feed(wire.encode(1, number, body=body))
        expected.append(body)
    assert [bytes(message.body) for message in kept] == expected


def test_a_large_message_over_many_reads() -> None:
    body = bytes(range(256)) * 20_000
    reader = FrameReader()
    stream = wire.encode(10, 1, body=body) + wire.encode(2, 2)
    found = [m for at in range(0, len(stream), 60_000) for m in reader.feed(stream[at : at + 60_000])]
    assert [len(m.body) for m in found] == [len(body), 0]
    assert found[0].body == body


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_json_bodies(value: object) -> None:
    assert wire.decode_json(wire.encode_json({"a": value}))["a"] == value
    with pytest.raises(BadRequest, match="must be a JSON object"):
        wire.decode_json(wire.encode_json([value]))


@given(st.binary(min_size=1))
def test_bodies_that_are_not_json(data: bytes) -> None:
    try:
        assert isinstance(wire.decode_json(data), dict)
    except BadRequest:
        return
    assert isinstance(json.loads(data), dict)


def test_json_is_bounded() -> None:
    assert wire.decode_json(b"") == {}
    with pytest.raises(LimitExceeded, match="answer has 1048577 bytes"):
        wire.decode_json(bytes(1024 * 1024 + 1), what="answer")
    with pytest.raises(BadRequest, match="not valid JSON"):
        wire.decode_json(b"[" * 500_000)


def test_errors_travel_with_code_text_and_delay() -> None:
    (message,) = FrameReader().feed(wire.encode_error(10, 7, Busy("full", retry_after_ms=30)))
    assert (message.opaque, message.is_answer, message.is_error, message.is_one_way) == (7, True, True, False)
    failure = wire.decode_error(message)
    assert (type(failure), str(failure), failure.retry_after_ms) == (Busy, "full", 30)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"code": 399, "message": "new"}, TryLater),
        ({"code": 9_000}, InternalError),
        ({"code": "x"}, InternalError),
        ({}, InternalError),
    ],
)
def test_errors_of_newer_peers_keep_their_kind(body: dict[str, object], kind: type[KourouError]) -> None:
    raw = wire.encode(1, 1, flags=Flag.ANSWER | Flag.ERROR, body=wire.encode_json(body))
    (message,) = FrameReader().feed(raw)
    assert type(wire.decode_error(message)) is kind


def test_messages_are_cut_a_few_at_a_time() -> None:
    """What is not cut off yet survives more being received behind it, more than the next buffer is large."""
    reader = FrameReader(count_max=3)
    one = wire.encode(2, 1, body=b"x" * 50)
    got = []
    rest = one * 2_000
    while rest:
        room = reader.get_buffer()
        count = min(len(room), len(rest))
        room[:count] = rest[:count]
        rest = rest[count:]
        got += reader.received(count)
        assert len(got) % 3 == 0
        assert reader.more
    while reader.more:
        got += reader.received(0)
    assert [bytes(message.body) for message in got] == [b"x" * 50] * 2_000
    assert reader.pending_bytes == 0


def test_the_first_message_has_a_bound_of_its_own() -> None:
    reader = FrameReader(bytes_max=1_000, first_bytes_max=100)
    assert len(reader.feed(wire.encode(2, 1) + wire.encode(2, 2, body=bytes(900)))) == 2
    with pytest.raises(LimitExceeded, match="limit is 100"):
        FrameReader(bytes_max=1_000, first_bytes_max=100).feed(wire.encode(2, 2, body=bytes(900))[:16])
