"""Windows in both directions, and what is held for a client."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kourou.http2 import frames
from kourou.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PADDED
from kourou.http2.limits import Http2Limits
from tests.unit.http2.peer import Peer, frame, headers, message
from tests.unit.http2.services import Handlers

KIB = 1024


def test_a_reply_waits_for_the_streams_window() -> None:
    peer = Peer(Handlers().service, settings={frames.INITIAL_WINDOW_SIZE: 10})
    answer = peer.call(b"x" * 20)
    assert (len(answer.data), answer.ended) == (10, False)
    peer.send(frames.window_update(1, 14))
    assert (len(answer.data), answer.ended) == (24, False)
    peer.send(frames.window_update(1, 1))
    assert answer.messages == [b"x" * 20]
    assert answer.ended
    assert not peer.connection.streams


def test_replies_share_the_connections_window() -> None:
    """Two large replies get frames in turn, and trailers come only after the last byte."""
    peer = Peer(Handlers().service, settings={frames.INITIAL_WINDOW_SIZE: 1 << 20})
    answers = [peer.call(b"200000", headers("/test/large")) for _ in range(2)]
    assert sum(len(answer.data) for answer in answers) == 65_535
    for _ in range(12):
        peer.send(frames.window_update(0, 32 * KIB))
    assert [len(answer.data) for answer in answers] == [200_005, 200_005]
    assert all(answer.ended for answer in answers)


def test_the_setting_moves_open_streams_also_below_zero() -> None:
    peer = Peer(Handlers().service, settings={frames.INITIAL_WINDOW_SIZE: 100})
    answer = peer.call(b"300", headers("/test/large"))
    assert len(answer.data) == 100
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 50}))
    peer.send(frames.window_update(1, 40))
    assert len(answer.data) == 100
    peer.send(frames.window_update(1, 20))
    assert len(answer.data) == 110
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}))
    assert answer.messages == [bytes(300)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40_000)), max_size=60), st.integers(0, 70_000))
def test_no_window_is_ever_exceeded(updates: list[tuple[int, int]], initial: int) -> None:
    """Four replies of different sizes, windows opened at random: never a byte too much, all there in the end."""
    peer = Peer(Handlers().service, settings={frames.INITIAL_WINDOW_SIZE: initial})
    sizes = [0, 17, 50_000, 120_000]
    answers = [peer.call(str(size).encode(), headers("/test/large")) for size in sizes]
    windows = [65_535, *[initial] * 4]
    for target, increment in updates:
        windows[target] += increment
        peer.send(frames.window_update(2 * target - 1 if target else 0, increment))
        assert sum(len(answer.data) for answer in answers) <= windows[0]
        assert all(len(answer.data) <= window for answer, window in zip(answers, windows[1:], strict=True))
    peer.send(frames.window_update(0, 1 << 20))
    for number in range(4):
        peer.send(frames.window_update(2 * number + 1, 1 << 20))
    assert [answer.messages for answer in answers] == [[bytes(size)] for size in sizes]
    assert peer.connection.outflow.pending_bytes == 0
    assert peer.goaway is None


def test_no_more_than_a_turn_leaves_at_once() -> None:
    peer = Peer(Handlers().service, limits=Http2Limits(turn_bytes=20_000), settings={frames.INITIAL_WINDOW_SIZE: 1 << 20})
    peer.send(frames.window_update(0, 1 << 20))
    answer = peer.call(b"50000", headers("/test/large"))
    assert len(answer.data) == 20_000
    for _ in range(2):
        peer.connection.outflow.proceed()
        peer.read()
    assert answer.messages == [bytes(50_000)]


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 128 * KIB, 500_000, 3_000_000])
def test_a_message_of_any_size_is_let_in(size: int) -> None:
    """The client here sends no byte more than the windows allow."""
    limits = Http2Limits()
    peer = Peer(Handlers().service, limits=limits, settings={frames.INITIAL_WINDOW_SIZE: 1 << 24})
    peer.send(frames.window_update(0, 1 << 24))
    stream_id = peer.open(headers())
    rest = message(b"m" * size)
    sent = 0
    while rest:
        window = limits.stream_window_bytes + peer.answers[stream_id].window - sent if stream_id in peer.answers else 0
        if stream_id not in peer.answers:
            window = limits.stream_window_bytes - sent
        window = min(window, peer.window + peer.answers[0].window - 65_535 + 65_535 - sent, 16_384)
        assert window > 0, f"stuck after {sent} bytes"
        piece, rest = rest[:window], rest[window:]
        sent += len(piece)
        peer.send(frame(DATA, 0 if rest else END_STREAM, stream_id, piece))
    for _ in range(8):  # the reply takes its turns
        peer.connection.outflow.proceed()
        peer.read()
    assert peer.answers[stream_id].messages == [b"m" * size]
    assert peer.connection.inflow._reserved == 0


def test_large_messages_wait_for_each_other() -> None:
    """Goal: memory for messages under way is bounded, and all of them arrive. Method: three that don't fit together."""
    limits = Http2Limits(message_bytes_max=1 << 20, assembly_bytes_max=1 << 20)
    peer = Peer(Handlers().service, limits=limits)
    body = message(bytes(600_000))
    streams = [peer.open(headers()) for _ in range(3)]
    for stream_id in streams:
        peer.data(stream_id, body[:1000])
    assert [peer.answers[stream_id].window > 0 for stream_id in streams if stream_id in peer.answers] == [True]
    for stream_id in streams:
        assert peer.answers[stream_id].window == len(body) - limits.stream_window_bytes
        peer.data(stream_id, body[1000:], ended=True)
    assert peer.connection.inflow._reserved == 0
    assert peer.goaway is None


def test_who_waits_and_is_reset_leaves_the_queue() -> None:
    limits = Http2Limits(message_bytes_max=1 << 20, assembly_bytes_max=1 << 20)
    peer = Peer(Handlers().service, limits=limits)
    body = message(bytes(600_000))
    first, second, third = (peer.open(headers()) for _ in range(3))
    for stream_id in (first, second, third):
        peer.data(stream_id, body[:1000])
    peer.send(frames.rst_stream(second, frames.CANCEL))
    peer.send(frames.rst_stream(first, frames.CANCEL))
    assert peer.answers[third].window > 0
    assert second not in peer.answers


def test_padding_is_given_back() -> None:
    peer = Peer(Handlers().service)
    stream_id = peer.open(headers())
    peer.send(frame(DATA, PADDED, stream_id, b"\xff" + message(b"abc") + bytes(255)))
    assert peer.answers[stream_id].window == 256
    peer.send(frame(DATA, PADDED | END_STREAM, stream_id, b"\x01\0"))
    assert peer.answers[stream_id].messages == [b"abc"]


def test_more_than_a_streams_window_resets_it() -> None:
    peer = Peer(Handlers().service, limits=Http2Limits(stream_window_bytes=65_535))
    stream_id = peer.open(headers())
    peer.data(stream_id, message(bytes(64_000)))
    peer.data(stream_id, bytes(2_000))
    assert peer.answers[stream_id].reset == frames.FLOW_CONTROL_ERROR
    assert peer.goaway is None


async def test_more_than_the_connections_window_ends_it() -> None:
    limits = Http2Limits(unanswered_bytes_max=10_000, connection_window_bytes=65_535)
    peer = Peer(Handlers().service, limits=limits)
    for _ in range(8):
        peer.call(bytes(15_000), headers("/test/later"))
    assert peer.goaway is not None
    assert peer.goaway[1] == frames.FLOW_CONTROL_ERROR
    assert peer.engine.unanswered.size == 0


async def test_what_handlers_are_at_work_on_closes_the_connections_window() -> None:
    handlers = Handlers()
    limits = Http2Limits(unanswered_bytes_max=100_000, connection_window_bytes=65_535)
    peer = Peer(handlers.service, limits=limits)
    futures = []
    while peer.connection.inflow.window >= 15_005:
        peer.call(bytes(15_000), headers("/test/later"))
        futures.append(handlers.future)
    assert 100_000 < 15_000 * len(futures) <= 100_000 + 65_535
    for future in futures:
        assert future is not None
        future.set_result(b"")
    await asyncio.sleep(0)
    peer.read()
    assert peer.connection.inflow.window == 65_535


async def test_a_stream_gives_back_what_the_handler_takes() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service, settings={frames.INITIAL_WINDOW_SIZE: 1 << 24})
    peer.send(frames.window_update(0, 1 << 24))
    stream_id = peer.open(headers("/test/stream"))
    sent = 0
    for _ in range(40):
        peer.data(stream_id, message(bytes(10_000)))
        sent += 10_005
        for _ in range(4):
            await asyncio.sleep(0)
        peer.read()
    assert len(peer.answers[stream_id].messages) == 40
    assert sent - peer.answers[stream_id].window <= 128 * KIB
    peer.connection.lost()
    await asyncio.gather(*peer.engine.tasks, return_exceptions=True)


async def test_drain_waits_for_a_slow_reader() -> None:
    """Sends far beyond the bound without a window: the handler stops, and goes on when the client reads."""
    handlers = Handlers()
    peer = Peer(handlers.service, limits=Http2Limits(call_output_bytes=20_000))
    stream_id = peer.open(headers("/test/stream"))
    for _ in range(20):
        peer.data(stream_id, message(bytes(10_000)))
        for _ in range(3):
            await asyncio.sleep(0)
    peer.read()
    assert peer.connection.outflow.pending_bytes <= 30_010
    for _ in range(30):
        peer.send(frames.window_update(0, 10_000) + frames.window_update(stream_id, 10_000))
        for _ in range(3):
            await asyncio.sleep(0)
        peer.read()
    assert len(peer.answers[stream_id].messages) == 20
    peer.connection.lost()
    await asyncio.gather(*peer.engine.tasks, return_exceptions=True)


def test_a_reply_after_a_reset_is_dropped() -> None:
    peer = Peer(Handlers().service, settings={frames.INITIAL_WINDOW_SIZE: 10})
    stream_id = peer.next_id()
    block = peer.encoder.encode(headers())
    peer.send(frame(HEADERS, END_HEADERS, stream_id, block) + frame(DATA, END_STREAM, stream_id, message(bytes(100))))
    assert peer.connection.outflow.pending_bytes == 95
    peer.send(frames.rst_stream(stream_id, frames.CANCEL))
    assert peer.connection.outflow.pending_bytes == 0
    assert not peer.connection.outflow.waiting
    assert not peer.connection.streams
