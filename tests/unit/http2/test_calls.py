"""What a client gets for what it sends: replies, statuses, cancellation, deadlines."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from kourou.http2 import frames
from kourou.http2.call import StatusCode
from kourou.http2.frames import END_HEADERS, END_STREAM, HEADERS
from kourou.http2.limits import Http2Limits
from tests.unit.http2.peer import Peer, frame, headers, message
from tests.unit.http2.services import Handlers


def test_a_reply() -> None:
    answer = Peer(Handlers().service).call(b"hello")
    assert answer.headers == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
    assert answer.messages == [b"hello"]
    assert answer.ended
    assert answer.reset is None


def test_what_the_handler_sees() -> None:
    handlers = Handlers()
    fields = headers(
        "/test/echo",
        ("grpc-timeout", "1500m"),
        ("x-mq-language", "JAVA"),
        ("x-mq-language", "GO"),
        ("blob-bin", "AAAA"),
        ("grpc-accept-encoding", "gzip"),
        ("user-agent", "me"),
    )
    peer = Peer(handlers.service)
    peer.call(b"", fields)
    call = handlers.calls[0]
    assert call.metadata == {"x-mq-language": "JAVA", "user-agent": "me"}
    assert (call.authority, call.peer, call.local, call.secure) == ("broker:8081", "1.2.3.4:5", "5.6.7.8:9", False)
    assert call.remaining_s() == pytest.approx(1.5)
    peer.clock.now_s += 2
    assert call.remaining_s() == 0


def test_metadata_that_changes_from_call_to_call_is_never_an_earlier_calls() -> None:
    """Goal: the memo of header blocks. Method: blocks that repeat, change and move the table, each checked."""
    handlers = Handlers()
    peer = Peer(handlers.service)
    for number in (0, 0, 0, 1, 1, 0, 2, 2, 1, *range(200), 1, 0):
        peer.call(b"", headers("/test/echo", ("x-number", str(number)), ("x-constant", "c" * 30)))
        assert handlers.calls[-1].metadata == {"x-number": str(number), "x-constant": "c" * 30}


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("/test/failing", StatusCode.NOT_FOUND, "n%C3%B6 %25"),
        ("/test/broken", StatusCode.INTERNAL, "the server failed to handle the call; its log says why"),
        ("/test/nowhere", StatusCode.UNIMPLEMENTED, "no such method is served here"),
    ],
)
def test_failures(path: str, code: StatusCode, text: str) -> None:
    peer = Peer(Handlers().service)
    answer = peer.call(b"", headers(path))
    assert (answer.status, answer.headers["grpc-message"], answer.data) == (code, text, b"")
    assert answer.ended
    assert answer.reset is None
    assert [error[0] for error in peer.errors] == (["/test/broken"] if "broken" in path else [])
    assert peer.engine.calls_failed == 1


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(":method", "GET"), (":scheme", "http"), (":path", "/")], "405"),
        ([(":method", "POST"), (":scheme", "http"), (":path", "/"), ("content-type", "text/html")], "415"),
    ],
)
def test_what_is_not_grpc_gets_an_answer_of_http(fields: list[tuple[str, str]], status: str) -> None:
    peer = Peer(Handlers().service)
    answer = peer.answers[peer.open(fields, ended=True)]
    assert answer.headers[":status"] == status
    assert b"gRPC" in answer.data
    assert int(answer.headers["content-length"]) == len(answer.data)
    assert answer.ended


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_messages(encoding: str) -> None:
    peer = Peer(Handlers().service)
    content = b"word " * 10_000
    packed = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    stream_id = peer.open(headers("/test/echo", ("grpc-encoding", encoding)))
    peer.data(stream_id, message(packed, compressed=True), ended=True)
    assert peer.answers[stream_id].messages == [content]


@pytest.mark.parametrize(
    ("encoding", "packed", "code"),
    [
        ("gzip", gzip.compress(bytes(200_000)), StatusCode.RESOURCE_EXHAUSTED),
        ("gzip", b"no gzip", StatusCode.INTERNAL),
        ("gzip", gzip.compress(b"x" * 50)[:-3], StatusCode.INTERNAL),
        ("identity", b"x", StatusCode.INTERNAL),
        ("zstd", b"x", StatusCode.UNIMPLEMENTED),
    ],
)
def test_compressed_messages_that_are_refused(encoding: str, packed: bytes, code: StatusCode) -> None:
    peer = Peer(Handlers().service, limits=Http2Limits(message_bytes_max=100_000))
    stream_id = peer.open(headers("/test/echo", ("grpc-encoding", encoding)))
    peer.data(stream_id, message(packed, compressed=True), ended=True)
    assert peer.answers[stream_id].status == code
    assert ("grpc-accept-encoding" in peer.answers[stream_id].headers) == (code is StatusCode.UNIMPLEMENTED)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", StatusCode.INTERNAL),  # no message
        (message(b"a") + message(b"b"), StatusCode.INTERNAL),  # two
        (message(b"a")[:-1], StatusCode.INTERNAL),  # a part of one
        (b"\x02\0\0\0\0", StatusCode.INTERNAL),  # unknown flags
        (b"\0" + (100_001).to_bytes(4, "big"), StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_requests_that_are_not_one_message(body: bytes, code: StatusCode) -> None:
    peer = Peer(Handlers().service, limits=Http2Limits(message_bytes_max=100_000))
    stream_id = peer.open(headers())
    peer.data(stream_id, body, ended=True)
    assert peer.answers[stream_id].status == code
    assert not peer.connection.streams


def test_a_message_that_is_too_large_ends_the_call_before_it_is_there() -> None:
    peer = Peer(Handlers().service, limits=Http2Limits(message_bytes_max=100_000))
    stream_id = peer.open(headers())
    peer.data(stream_id, message(bytes(100_001))[:10])
    assert peer.answers[stream_id].status == StatusCode.RESOURCE_EXHAUSTED
    assert peer.answers[stream_id].reset == frames.NO_ERROR
    peer.data(stream_id, bytes(1000), ended=True)  # still under way
    assert peer.goaway is None


async def test_a_future_is_answered_when_it_is_done() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service)
    answer = peer.call(b"x" * 100, headers("/test/later"))
    assert not answer.headers
    assert peer.engine.unanswered.size == 100
    assert handlers.future is not None
    handlers.future.set_result(b"done")
    await asyncio.sleep(0)
    assert peer.wakes
    peer.read()
    assert peer.answers[1].messages == [b"done"]
    assert peer.answers[1].ended
    assert not peer.connection.streams
    assert peer.engine.unanswered.size == 0


async def test_a_reset_cancels_the_call_and_not_the_future() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service)
    peer.call(b"", headers("/test/later"))
    told: list[str] = []
    handlers.calls[0].on_cancel(lambda: told.append("first"))
    peer.send(frames.rst_stream(1, frames.CANCEL))
    handlers.calls[0].on_cancel(lambda: told.append("second"))
    assert told == ["first", "second"]
    assert handlers.future is not None
    assert not handlers.future.cancelled()
    handlers.future.set_result(b"too late")
    await asyncio.sleep(0)
    peer.read()
    assert 1 not in peer.answers
    assert peer.engine.calls_failed == 1


async def test_a_deadline_ends_the_call() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service)
    peer.call(b"", headers("/test/later", ("grpc-timeout", "100m")))
    told: list[str] = []
    handlers.calls[0].on_cancel(lambda: told.append("late"))
    assert len(peer.armed) == 1
    peer.clock.now_s += 0.05
    peer.engine.expire()
    assert not told
    peer.clock.now_s += 0.1
    peer.engine.expire()
    peer.read()
    assert told == ["late"]
    assert peer.answers[1].status == StatusCode.DEADLINE_EXCEEDED
    assert not peer.connection.streams


async def test_a_stream_echoes_and_ends() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service)
    stream_id = peer.open(headers("/test/stream"))
    peer.data(stream_id, message(b"one") + message(b"two")[:4])
    await asyncio.sleep(0)
    peer.data(stream_id, message(b"two")[4:], ended=True)
    for _ in range(4):
        await asyncio.sleep(0)
    peer.read()
    answer = peer.answers[stream_id]
    assert answer.messages == [b"one", b"two"]
    assert (answer.status, answer.ended, answer.reset) == (0, True, None)


async def test_headers_are_sent_before_there_is_a_message() -> None:
    peer = Peer(Handlers().service)
    stream_id = peer.open(headers("/test/silent"))
    await asyncio.sleep(0)
    peer.read()
    assert peer.answers[stream_id].headers == {":status": "200", "content-type": "application/grpc"}
    (task,) = peer.engine.tasks
    peer.connection.lost()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_connection_loss_cancels_everything() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service)
    told: list[int] = []
    for path in ("/test/later", "/test/silent", "/test/stream"):
        peer.send(frame(HEADERS, END_HEADERS, peer.next_id(), peer.encoder.encode(headers(path))))
    peer.data(1, message(b"x"), ended=True)
    await asyncio.sleep(0)
    for number, call in enumerate(handlers.calls):
        call.on_cancel(lambda number=number: told.append(number))  # type: ignore[misc]
    peer.connection.lost()
    await asyncio.gather(*peer.engine.tasks, return_exceptions=True)
    assert sorted(told) == [0, 1, 2]
    assert not peer.connection.streams
    assert peer.engine.unanswered.size == 0


async def test_a_handler_that_answers_no_bytes_has_a_bug() -> None:
    handlers = Handlers()
    peer = Peer(handlers.service)
    peer.call(b"", headers("/test/later"))
    assert handlers.future is not None
    handlers.future.set_result(17)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    peer.read()
    assert peer.answers[1].status == StatusCode.INTERNAL
    assert isinstance(peer.errors[0][1], TypeError)


async def test_a_reset_while_the_handler_runs_is_no_error_of_the_handlers() -> None:
    peer = Peer(Handlers().service)
    stream_id = peer.open(headers("/test/silent"))
    await asyncio.sleep(0)
    peer.send(frames.rst_stream(stream_id, frames.CANCEL))
    await asyncio.gather(*peer.engine.tasks, return_exceptions=True)
    peer.read()
    assert not peer.errors
    assert peer.answers[stream_id].status is None


def test_an_end_by_trailers() -> None:
    peer = Peer(Handlers().service)
    stream_id = peer.open(headers())
    peer.data(stream_id, message(b"x"))
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, peer.encoder.encode([("x-checksum", "1")])))
    assert peer.answers[stream_id].messages == [b"x"]
