"""The connection as such: any split of the bytes, any frames, floods, GOAWAY and drain."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.http2 import frames
from kourou.http2.control import NotHttp2
from kourou.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTINGS,
    WITH_PRIORITY,
)
from kourou.http2.limits import Http2Limits
from tests.unit.http2.peer import Answer, Peer, frame, headers, message
from tests.unit.http2.services import Handlers


def transcript(peer: Peer) -> bytes:
    """What real clients send, in all the ways they do."""
    parts = [PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}), frames.window_update(0, 1 << 20)]
    parts.append(frame(SETTINGS, ACK, 0))
    for content in (b"", b"small", bytes(40_000)):
        stream_id = peer.next_id()
        block = peer.encoder.encode(headers("/test/echo", ("x-n", str(len(content)))))
        body = message(content)
        parts.append(frame(HEADERS, PADDED | WITH_PRIORITY, stream_id, b"\x02\0\0\0\0\x10" + block[:9] + b"\0\0"))
        parts.append(
            frame(CONTINUATION, 0, stream_id, block[9:20]) + frame(CONTINUATION, END_HEADERS, stream_id, block[20:])
        )
        for at in range(0, len(body), 16_000):
            parts.append(frame(DATA, PADDED, stream_id, b"\x03" + body[at : at + 16_000] + b"\0\0\0"))
        parts.append(frame(DATA, END_STREAM, stream_id) + frames.ping(b"12345678", ack=False))
        parts.append(peer.call_bytes(content[:10_000])[1])
    parts.append(frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") + frame(0xEE, 0xFF, 7, b"an extension"))
    return b"".join(parts)


def answers(peer: Peer) -> dict[int, Answer]:
    return {stream_id: answer for stream_id, answer in peer.answers.items() if stream_id}


WHOLE = Peer(Handlers().service, greet=False)
TRANSCRIPT = transcript(WHOLE)
WHOLE.send(TRANSCRIPT)


def test_the_transcript_goes_well() -> None:
    assert WHOLE.goaway is None
    assert [answer.status for answer in answers(WHOLE).values()] == [0] * 6
    assert len(WHOLE.pings) == 3


@given(st.lists(st.integers(0, len(TRANSCRIPT)), max_size=40))
def test_any_split_of_the_bytes_gives_the_same(cuts: list[int]) -> None:
    peer = Peer(Handlers().service, greet=False)
    ends = [*sorted(cuts), len(TRANSCRIPT)]
    for begin, end in zip([0, *ends], ends, strict=False):
        peer.send(TRANSCRIPT[begin:end])
    assert answers(peer) == answers(WHOLE)
    assert peer.goaway is None


def test_byte_by_byte() -> None:
    peer = Peer(Handlers().service, greet=False)
    for at in range(len(TRANSCRIPT)):
        peer.send(TRANSCRIPT[at : at + 1])
    assert answers(peer) == answers(WHOLE)


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 7, 9, 0x7FFFFFFF, 0x80000001]),
    st.one_of(
        st.binary(max_size=40),
        st.just(Peer(Handlers().service).encoder.encode(headers())),
        st.just(Peer(Handlers().service).encoder.encode(headers("/test/stream"))),
        st.builds(message, st.binary(max_size=30)),
    ),
)


@given(st.lists(FRAMES, max_size=30))
def test_hostile_frames_never_raise_and_nothing_is_left_behind(sent: list[bytes]) -> None:
    """Whatever comes, the end is a clean one: no exception, no call, no byte counted for nobody."""

    async def run() -> Peer:
        peer = Peer(Handlers().service)
        for data in sent:
            peer.send(data)
            await asyncio.sleep(0)
            peer.read()
        peer.connection.lost()
        await asyncio.gather(*peer.engine.tasks, return_exceptions=True)
        return peer

    check_nothing_is_left(asyncio.run(run()))


@given(st.data(), st.binary(min_size=1, max_size=4))
def test_a_damaged_transcript_never_raises(data: st.DataObject, damage: bytes) -> None:
    at = data.draw(st.integers(len(PREFACE), len(TRANSCRIPT) - len(damage)))
    peer = Peer(Handlers().service, greet=False)
    peer.send(TRANSCRIPT[:at] + damage + TRANSCRIPT[at + len(damage) :])
    peer.connection.lost()
    check_nothing_is_left(peer)


def check_nothing_is_left(peer: Peer) -> None:
    connection = peer.connection
    assert not peer.errors
    assert not connection.streams
    assert not connection.outflow.waiting
    assert connection.outflow.pending_bytes == 0
    assert connection.inflow.held == 0
    assert connection.inflow._reserved == 0
    assert not connection.inflow._waiting
    assert peer.engine.unanswered.size == 0
    assert not any(peer.engine.deadlines._due.values())


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(HEADERS, END_HEADERS, 2, b"\x82"), frames.PROTOCOL_ERROR),
        (frame(DATA, 0, 5, b"x"), frames.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"\x82") + frame(DATA, 0, 1, b""), frames.PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, b"\x82"), frames.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\xbe"), frames.COMPRESSION_ERROR),
        (frame(SETTINGS, 0, 0, b"\0"), frames.FRAME_SIZE_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 1}), frames.PROTOCOL_ERROR),
        (frames.window_update(0, 0x7FFFFFFF), frames.FLOW_CONTROL_ERROR),
        (b"\xff\xff\xff\0\0\0\0\0\1", frames.FRAME_SIZE_ERROR),
        (frame(DATA, 0, 1, bytes(16_385)), frames.FRAME_SIZE_ERROR),
    ],
)
def test_faults_end_the_connection_with_their_code(sent: bytes, code: int) -> None:
    peer = Peer(Handlers().service)
    peer.send(sent)
    assert peer.goaway is not None
    assert peer.goaway[1] == code
    assert peer.connection.closing
    assert peer.engine.faults == 1
    peer.send(peer.call_bytes(b"late")[1])
    assert not answers(peer)


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1", b"\0"])
def test_what_is_not_http2(beginning: bytes) -> None:
    peer = Peer(Handlers().service, greet=False)
    with pytest.raises(NotHttp2):
        peer.send(beginning)
    assert not peer.connection.outflow.out


@pytest.mark.parametrize(
    "fields",
    [
        headers("/test/echo", ("X-Upper", "1")),
        headers("/test/echo", ("connection", "close")),
        headers("/test/echo", (":path", "/")),
        headers("/test/echo", ("x", "a\r\nb: c")),
        headers("/test/echo", ("content-length", "-1")),
        headers("/test/echo", ("content-length", "4")),
        headers(""),
        headers()[1:],
    ],
)
def test_malformed_requests_are_reset(fields: list[tuple[str, str]]) -> None:
    peer = Peer(Handlers().service)
    answer = peer.call(b"", fields)
    assert answer.reset == frames.PROTOCOL_ERROR
    assert not answer.headers
    assert peer.call(b"next").messages == [b"next"]


def test_headers_that_are_too_large_are_refused_and_the_connection_goes_on() -> None:
    peer = Peer(Handlers().service)
    answer = peer.call(b"", headers("/test/echo", ("x-large", "v" * 10_000), ("x-larger", "w" * 10_000)))
    assert answer.headers["grpc-message"] == "the headers are too large"
    assert peer.call(b"next").messages == [b"next"]


def test_many_references_to_one_large_header_count_as_what_they_stand_for() -> None:
    peer = Peer(Handlers().service)
    block = peer.encoder.encode(headers("/test/echo", ("x-bomb", "v" * 3_000)))
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block + b"\xbe" * 200))
    assert peer.answers[1].headers["grpc-message"] == "the headers are too large"


async def test_more_streams_than_allowed_are_refused() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service, limits=Http2Limits(streams_max=3))
    for _ in range(3):
        peer.call(b"", headers("/test/later"))
    assert peer.call(b"").reset == frames.REFUSED_STREAM
    assert handlers.future is not None
    handlers.future.set_result(b"")
    await asyncio.sleep(0)
    peer.read()
    assert peer.call(b"x").messages == [b"x"]
    peer.connection.lost()


def flood(kind: str) -> bytes:
    block = Peer(Handlers().service).encoder.encode(headers("/test/later"))
    return {
        "ping": frames.ping(b"12345678", ack=False),
        "settings": frames.settings({}),
        "priority": frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"),
        "unknown": frame(0xEE, 0, 0, b""),
        "empty data": frame(DATA, 0, 1, b""),
        "continuation": frame(CONTINUATION, 0, 3, b""),
        "reset": frame(HEADERS, END_HEADERS, 3, block),
    }[kind]


@pytest.mark.parametrize("kind", ["ping", "settings", "priority", "unknown", "empty data", "continuation"])
def test_floods_end_the_connection(kind: str) -> None:
    peer = Peer(Handlers().service)
    peer.open(headers("/test/echo"))
    if kind == "continuation":
        peer.send(frame(HEADERS, 0, 3, b""))
    for _ in range(3_000):
        peer.send(flood(kind))
    assert peer.goaway is not None
    assert peer.goaway[1] == frames.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("kind", ["ping", "settings", "priority", "unknown", "empty data"])
def test_the_same_at_a_decent_pace_is_fine(kind: str) -> None:
    peer = Peer(Handlers().service)
    peer.open(headers("/test/echo"))
    for _ in range(3_000):
        peer.send(flood(kind))
        peer.clock.now_s += 0.3
    assert peer.goaway is None


def test_a_burst_of_calls_is_taken_in_turns() -> None:
    peer = Peer(Handlers().service, limits=Http2Limits(turn_calls=10))
    burst = [peer.call_bytes(b"%d" % number) for number in range(25)]
    peer.send(b"".join(data for _, data in burst))
    answered = [peer.engine.calls_started]
    while peer.connection.halted:
        peer.send(b"")
        answered.append(peer.engine.calls_started)
    assert answered == [10, 20, 25]
    assert [peer.answers[stream_id].messages for stream_id, _ in burst] == [[b"%d" % number] for number in range(25)]


def test_a_smaller_header_table_is_confirmed_once() -> None:
    """The library's decoder, as nghttp2's and Netty's, insists on it."""
    peer = Peer(Handlers().service)
    peer.call(b"before")
    peer.decoder.max_allowed_table_size = 100
    peer.send(frames.settings({frames.HEADER_TABLE_SIZE: 100}))
    assert peer.call(b"after").messages == [b"after"]
    assert peer.decoder.header_table_size == 0
    peer.decoder.max_allowed_table_size = 4096
    peer.send(frames.settings({frames.HEADER_TABLE_SIZE: 4096}) + frames.settings({frames.HEADER_TABLE_SIZE: 0}))
    assert peer.call(b"and again").status == 0


def test_content_length_that_is_right() -> None:
    peer = Peer(Handlers().service)
    fields = headers("/test/echo", ("content-length", "6"))
    assert peer.call(b"x", fields).messages == [b"x"]
    assert peer.answers[peer.open(fields, ended=True)].reset == frames.PROTOCOL_ERROR
    assert peer.call(b"y", fields).messages == [b"y"]


async def test_rapid_reset_ends_the_connection() -> None:
    peer = Peer(Handlers().service)
    for _ in range(3_000):
        stream_id, data = peer.call_bytes(b"", headers("/test/later"))
        peer.send(data + frames.rst_stream(stream_id, frames.CANCEL))
    assert peer.goaway is not None
    assert peer.goaway[1] == frames.ENHANCE_YOUR_CALM
    assert peer.engine.calls_started < 2_100


async def test_making_us_reset_counts_as_a_reset() -> None:
    peer = Peer(Handlers().service)
    for _ in range(3_000):
        stream_id, data = peer.call_bytes(b"", headers("/test/later"))
        peer.send(data + frames.window_update(stream_id, 0))
    assert peer.goaway is not None
    assert peer.goaway[1] == frames.ENHANCE_YOUR_CALM


def test_pings_that_follow_data_are_free() -> None:
    """Clients measure bandwidth so: a PING for every burst of data, tens of thousands of them."""
    peer = Peer(Handlers().service)
    for _ in range(5_000):
        peer.call(b"x")
        peer.send(frames.ping(b"12345678", ack=False) + frames.window_update(0, 6))
    assert peer.goaway is None
    assert len(peer.pings) == 5_000


async def test_drain_serves_what_is_under_way() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service)
    control = peer.connection.control
    peer.call(b"", headers("/test/later"))
    control.drain()
    peer.read()
    assert peer.goaway is not None
    assert peer.goaway[:2] == (0x7FFFFFFF, frames.NO_ERROR)
    assert peer.call(b"on the way").messages == [b"on the way"]
    peer.send(frames.ping(peer.pings[0][1], ack=True))
    assert peer.goaway is not None
    assert peer.goaway[0] == 3
    assert peer.call(b"too late").reset == frames.REFUSED_STREAM
    assert not control.over
    assert handlers.future is not None
    handlers.future.set_result(b"")
    await asyncio.sleep(0)
    peer.read()
    assert peer.answers[1].ended
    assert control.over


def test_what_is_still_under_way_for_a_stream_that_was_reset_is_ignored() -> None:
    peer = Peer(Handlers().service)
    stream_id = peer.open(headers("/test/nowhere"))
    assert peer.answers[stream_id].reset == frames.NO_ERROR
    peer.data(stream_id, message(bytes(100)))
    peer.send(frames.window_update(stream_id, 5) + frames.rst_stream(stream_id, frames.CANCEL))
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, peer.encoder.encode([("x", "y")])))
    assert peer.goaway is None
