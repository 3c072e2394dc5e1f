"""Everything a broken or hostile data-plane peer can send: a clear error, nothing stored, the node goes on."""

from __future__ import annotations

import random
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kourou.broker.services.fetch import WAITING_OF_ONE_MAX
from kourou.core import errors, frame, limits, wire
from kourou.core.errors import BadChecksum, BadRequest, FrameInvalid, KourouError, LimitExceeded, UnsupportedVersion
from kourou.core.wire import Code
from tests.integration.node import Node
from tests.integration.raw import Raw, sealed


def patched(data: bytes, at: int, value: bytes, *, checksum: bool = True) -> bytes:
    """The frame with some bytes replaced and, unless told otherwise, its checksum made right again."""
    body = data[:at] + value + data[at + len(value) :]
    return body[:-4] + struct.pack("<I", zlib.crc32(body[:-4])) if checksum else body


def whole(topic: str) -> bytes:
    return sealed(topic, b"one", b"three", b"fifteen", TAG_HASHES=[1, 2, 3])


def outcome(raw: Raw, data: bytes) -> type[KourouError] | None:
    """The kind of error that a frame is refused with, None when it is stored."""
    try:
        ((code, *_),) = raw.produce(data)
    except KourouError as failure:
        return type(failure)
    return errors.BY_CODE[code] if code else None


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], type[KourouError]]] = {
    "truncated": (lambda f: f[:-9], FrameInvalid),
    "shorter than a head": (lambda f: f[:40], FrameInvalid),
    "longer than it says": (lambda f: f + b"\0" * 8, FrameInvalid),
    "wrong checksum": (lambda f: patched(f, len(f) - 12, b"\xff", checksum=False), BadChecksum),
    "unknown version": (lambda f: patched(f, 2, b"\x09"), UnsupportedVersion),
    "unknown attributes": (lambda f: patched(f, 8, b"\0\0\1\0"), UnsupportedVersion),
    "unknown columns": (lambda f: patched(f, 12, b"\3\2\0\0"), UnsupportedVersion),
    "no records": (lambda f: patched(f, 36, struct.pack("<I", 0)), FrameInvalid),
    "too many records": (lambda f: patched(f, 36, struct.pack("<I", 70_000)), FrameInvalid),
    "one record more": (lambda f: patched(f, 36, struct.pack("<I", 4)), FrameInvalid),
    "size of records": (lambda f: patched(f, 40, struct.pack("<II", 14, 14)), FrameInvalid),
    "huge raw size": (lambda f: patched(f, 44, struct.pack("<I", 1 << 31)), FrameInvalid),
    "topic runs over the end": (lambda f: patched(f, 56, struct.pack("<H", 60_000)), FrameInvalid),
    "topic is not UTF-8": (lambda f: patched(f, 64, b"\xff\xfe"), FrameInvalid),
    "lengths do not add up": (lambda f: patched(f, len(f) - 4 - 15 - 24, struct.pack("<I", 9)), FrameInvalid),
    "keys without a column": (lambda f: patched(f, 60, struct.pack("<I", 5)), FrameInvalid),
    "metadata": (lambda f: patched(f, 3, b"\x02"), FrameInvalid),
    "epoch": (lambda f: patched(f, 3, b"\x03"), FrameInvalid),
    "size is zero": (lambda f: patched(f, 4, struct.pack("<I", 0)), FrameInvalid),
    "size is enormous": (lambda f: patched(f, 4, struct.pack("<I", 0xFFFFFFFF)), FrameInvalid),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_are_refused_and_change_nothing(node: Node, name: str) -> None:
    """Each damaged frame gets its typed error; the queue stays empty and the connection usable."""
    spoil, expected = HOSTILE[name]
    topic = "hostile-" + name.replace(" ", "-").replace(".", "")
    with Raw(node.address) as raw:
        raw.create_topic(topic)
        assert outcome(raw, spoil(whole(topic))) is expected
        assert raw.bounds(topic) == (0, 0)
        assert raw.produce(whole(topic))[0][0] == 0
        assert raw.bounds(topic) == (0, 3)


def test_a_refused_frame_does_not_hold_up_its_neighbours(node: Node) -> None:
    with Raw(node.address) as raw:
        raw.create_topic("neighbours")
        good = sealed("neighbours", b"good")
        results = raw.produce(good, patched(good, len(good) - 6, b"x", checksum=False), sealed("nowhere-to-be", b"x"), good)
        assert [code for code, *_ in results] == [0, BadChecksum.code, errors.TopicNotFound.code, 0]
        assert raw.bodies("neighbours") == [b"good", b"good"]


def test_random_garbage_in_frames(node: Node) -> None:
    """A thousand random single-byte changes with a right checksum: refused or stored whole, never a crash."""
    rng = random.Random(7)
    with Raw(node.address) as raw:
        raw.create_topic("garbage")
        base = whole("garbage")
        stored = 0
        for _ in range(1_000):
            spoilt = patched(base, rng.randrange(len(base) - 4), bytes([rng.randrange(256)]))
            kind = outcome(raw, spoilt)
            assert kind is not errors.InternalError
            stored += kind is None
        assert raw.bounds("garbage")[1] <= 3 * stored  # a changed kind, queue or topic is not stored in this queue
        assert raw.produce(base)[0][0] == 0


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", (UnsupportedVersion, BadRequest, LimitExceeded)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), (UnsupportedVersion, BadRequest, LimitExceeded)),
        (struct.pack(">IIHHI", 1 << 31, 2 << 24 | 8, 1, 0, 1), (LimitExceeded,)),
        (struct.pack(">IIHHI", 12, 2 << 24 | 400, 1, 0, 1), (BadRequest,)),
        (struct.pack(">IIHHI", 12, 2 << 24, 1, 0, 1), (BadRequest,)),
        (struct.pack(">IIHHI", 12, 1 << 24 | 8, 1, 0, 1), (UnsupportedVersion,)),
    ],
)
def test_a_stream_that_is_not_ours_is_answered_and_closed(
    node: Node, stream: bytes, expected: tuple[type[KourouError], ...]
) -> None:
    with Raw(node.address, hello=False) as raw:
        raw.socket.sendall(stream)
        message = raw.receive()
        assert message.is_error
        assert message.opaque == 0
        assert isinstance(wire.decode_error(message), expected)
        assert raw.ends()


@pytest.mark.parametrize(
    "hello",
    [
        {},
        {"versions": [99], "client": {"id": "x"}},
        {"versions": "1", "client": {"id": "x"}},
        {"versions": [1], "client": "me"},
        {"versions": [1], "client": {"id": ""}},
        {"versions": [1], "client": {"id": "a" * 300}},
        {"versions": [1], "client": {"id": "line\nbreak"}},
        {"versions": [1], "client": {"id": "\ud800"}},
    ],
)
def test_a_bad_hello_is_refused(node: Node, hello: dict[str, object]) -> None:
    with Raw(node.address, hello=False) as raw:
        with pytest.raises(KourouError):
            raw.ask_json(Code.HELLO, hello)
        assert raw.ends()


def test_anything_before_hello_is_refused(node: Node) -> None:
    with Raw(node.address, hello=False) as raw:
        with pytest.raises(BadRequest, match="HELLO"):
            raw.ask_json(Code.TOPIC_LIST, {})
        assert raw.ends()


NAMES = [
    "",
    "../../etc/passwd",
    "a/b",
    "a\0b",
    "a\nb",
    "x" * 128,
    "t\u00e4st",
    " ",
    "..",
    "TBW102",
    "rmq_sys_x",
    None,
    7,
    ["a"],
]


@pytest.mark.parametrize("name", NAMES)
def test_illegal_names(node: Node, name: object) -> None:
    with Raw(node.address) as raw:
        broker = raw.broker()
        for code, value in (
            (Code.TOPIC_CREATE, {"topic": name, "placement": [[broker, 1]]}),
            (Code.TOPIC_DELETE, {"topic": name}),
            (Code.TOPIC_DESCRIBE, {"topic": name}),
            (Code.SUBSCRIBE, {"group": "g", "topic": name}),
            (Code.OFFSETS, {"topic": name}),
            (Code.LOOKUP, {"topic": name, "id": "x"}),
        ):
            with pytest.raises(errors.ClientFault):
                raw.ask_json(code, value)
        if name != "TBW102" and name != "rmq_sys_x":
            for code in (Code.GROUP_CREATE, Code.GROUP_DESCRIBE, Code.GROUP_DELETE):
                with pytest.raises(errors.ClientFault):
                    raw.ask_json(code, {"group": name})


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (Code.TOPIC_CREATE, {"topic": "t", "placement": []}),
        (Code.TOPIC_CREATE, {"topic": "t", "placement": [["b", -1]]}),
        (Code.TOPIC_CREATE, {"topic": "t", "placement": [["b", 10**9]]}),
        (Code.TOPIC_CREATE, {"topic": "t", "placement": [["b", 1], ["b", 2]]}),
        (Code.TOPIC_CREATE, {"topic": "t", "placement": [["b", 1]], "type": "queue"}),
        (Code.TOPIC_CREATE, {"topic": "t", "placement": [["b", True]]}),
        (Code.GROUP_CREATE, {"group": "g", "max_attempts": 0}),
        (Code.GROUP_CREATE, {"group": "g", "shape": "round"}),
        (Code.GROUP_CREATE, {"group": "g", "fifo": "yes"}),
        (Code.SUBSCRIBE, {"group": "g", "topic": "t", "start": "yesterday"}),
        (Code.SUBSCRIBE, {"group": "g", "topic": "t", "start": {"time": "now"}}),
        (Code.SUBSCRIBE, {"group": "g", "topic": "t", "mode": "queue"}),
        (Code.SUBSCRIBE, {"group": "g", "topic": "t", "tags": "a"}),
        (Code.SUBSCRIBE, {"group": "g", "topic": "t", "credit": -5}),
        (Code.RESET, {"group": "g", "topic": "t", "to": {"offset": -1}}),
        (Code.OFFSETS, {"topic": "t", "queues": ["a"]}),
        (Code.LOOKUP, {"topic": "t"}),
        (Code.SEEK, {"subscription": 5}),
        (Code.UNSUBSCRIBE, {"subscription": 99}),
        (Code.PAUSE, {"subscription": None}),
    ],
)
def test_bad_fields_are_named(node: Node, code: Code, value: dict[str, object]) -> None:
    with Raw(node.address) as raw, pytest.raises((errors.ClientFault, errors.NotHere)) as caught:
        raw.ask_json(code, value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"topic":' + b"1" * 5_000 + b"}"])
def test_bodies_that_are_not_json_objects(node: Node, body: bytes) -> None:
    with Raw(node.address) as raw:
        for code in (Code.TOPIC_CREATE, Code.SUBSCRIBE, Code.ROUTE, Code.RESET):
            with pytest.raises(errors.ClientFault):
                raw.ask(code, body=body)


@pytest.mark.parametrize("code", [Code.PRODUCE, Code.FETCH, Code.COMMIT])
def test_bulk_requests_with_bad_headers(node: Node, code: Code) -> None:
    with Raw(node.address) as raw:
        for header in (b"", b"\0", bytes(100), b"\xff" * 8):
            with pytest.raises(errors.KourouError) as caught:
                raw.ask(code, header=header, body=b"junk")
            assert not isinstance(caught.value, errors.InternalError)


def test_unknown_codes_are_told(node: Node) -> None:
    with Raw(node.address) as raw:
        for code in (0, 9, 999, 65_535):
            with pytest.raises(errors.NotSupported):
                raw.ask(code)


def test_a_frame_for_a_deleted_topic_is_refused(node: Node) -> None:
    """Also when the topic exists again: old frames stay dead, offsets start anew."""
    with Raw(node.address) as raw:
        raw.create_topic("phoenix")
        assert raw.produce(sealed("phoenix", b"old"))[0][0] == 0
        raw.ask_json(Code.TOPIC_DELETE, {"topic": "phoenix"})
        assert raw.produce(sealed("phoenix", b"late"))[0][0] == errors.TopicNotFound.code
        raw.create_topic("phoenix")
        assert raw.bounds("phoenix") == (0, 0)
        assert raw.produce(sealed("phoenix", b"new"))[0][0] == 0
        assert raw.bodies("phoenix") == [b"new"]


def test_types_are_kept_apart(node: Node) -> None:
    with Raw(node.address) as raw:
        raw.create_topic("plain")
        raw.create_topic("ordered", kind="fifo")
        raw.create_topic("later", kind="delay")
        assert raw.produce(sealed("plain", b"x", GROUP_HASHES=[5]))[0][0] == errors.TopicTypeMismatch.code
        assert raw.produce(sealed("plain", b"x", DUE_TIMES=[5]))[0][0] == errors.TopicTypeMismatch.code
        assert raw.produce(sealed("ordered", b"x"))[0][0] == errors.TopicTypeMismatch.code
        assert raw.produce(sealed("later", b"x", DUE_TIMES=[5]))[0][0] == 0
        assert raw.produce(sealed("later", b"x"))[0][0] == errors.TopicTypeMismatch.code
        assert raw.produce(sealed("ordered", b"x", GROUP_HASHES=[5]))[0][0] == 0
        assert raw.produce(sealed("plain", b"x", queue=1))[0][0] == errors.QueueNotFound.code


def test_body_over_the_limit(node: Node) -> None:
    with Raw(node.address) as raw:
        raw.create_topic("large")
        assert raw.produce(sealed("large", bytes(limits.BODY_BYTES_MAX)))[0][0] == 0
        assert raw.produce(sealed("large", bytes(limits.BODY_BYTES_MAX + 1)))[0][0] == errors.BodyTooLarge.code
        assert raw.bounds("large") == (0, 1)


def test_duplicates_are_answered_with_the_first_result(node: Node) -> None:
    with Raw(node.address) as raw:
        raw.create_topic("twins")
        one = sealed("twins", b"once", producer=77, sequence=1)
        first = raw.produce(one)[0]
        again = raw.produce(one)[0]
        assert again[1] == 1
        assert (again[2], again[3], again[4]) == (first[2], first[3], first[4])
        both = raw.produce(*[sealed("twins", b"twice", producer=77, sequence=2)] * 2)
        assert [duplicate for _, duplicate, *_ in both] == [0, 1]
        other = raw.produce(sealed("twins", b"something else", producer=77, sequence=2))[0]
        assert other[0] == FrameInvalid.code
        assert raw.bodies("twins") == [b"once", b"twice"]


def test_a_sequence_below_the_window_is_refused(node: Node) -> None:
    with Raw(node.address) as raw:
        raw.create_topic("window")
        assert raw.produce(sealed("window", b"x", producer=78, sequence=1000))[0][0] == 0
        assert raw.produce(sealed("window", b"x", producer=78, sequence=1))[0][0] == errors.SequenceExpired.code


def test_a_slow_writer_holds_nobody_up(node: Node) -> None:
    """A message that comes byte by byte, while another client is served."""
    message = wire.encode(Code.PRODUCE, 5, header=wire.PRODUCE_REQUEST.pack(0, 1, 0), body=sealed("slow", b"x"))
    with Raw(node.address) as slow, Raw(node.address) as quick:
        quick.create_topic("slow")
        for at in range(len(message)):
            slow.socket.sendall(message[at : at + 1])
            if at % 8 == 0:
                quick.ask_json(Code.PING, {})
        assert slow.answer(5).code == Code.PRODUCE


def test_a_reader_that_never_reads_is_bounded_and_hurts_nobody(node: Node) -> None:
    """It asks for far more than a socket holds and takes nothing: it is cut off, others are served meanwhile."""
    with Raw(node.address) as raw:
        raw.create_topic("flood")
        block = sealed("flood", *[bytes(1024)] * 1000)
        for _ in range(8):
            assert raw.produce(block)[0][0] == 0
        deaf = socket.create_connection((raw.socket.getpeername()[0], node.port), timeout=20)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        hello = wire.encode_json({"versions": [1], "client": {"id": "deaf"}})
        deaf.sendall(wire.encode(Code.HELLO, 1, body=hello))
        header = wire.FETCH_REQUEST.pack(0, 0, 8 << 20, 0, 0, 0)
        request = wire.encode(Code.FETCH, 2, header=header, body=b"flood")
        cut_off = False
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                deaf.sendall(request)
                raw.ask_json(Code.PING, {})
        except OSError:
            cut_off = True
        deaf.close()
        assert cut_off
        assert raw.ask_json(Code.PING, {}) == {}


def test_half_a_message_then_gone(node: Node) -> None:
    """A connection that ends in the middle of a frame stores nothing of it."""
    with Raw(node.address) as raw:
        raw.create_topic("half")
        body = sealed("half", bytes(100_000))
        message = wire.encode(Code.PRODUCE, 9, header=wire.PRODUCE_REQUEST.pack(0, 1, 0), body=body)
        with Raw(node.address) as other:
            other.socket.sendall(message[: len(message) // 2])
        assert raw.produce(sealed("half", b"after"))[0][0] == 0
        assert raw.bodies("half") == [b"after"]


def test_frames_pass_through_unchanged(node: Node) -> None:
    """What is fetched is, byte for byte, what was sealed."""
    with Raw(node.address) as raw:
        raw.create_topic("bytes")
        block = whole("bytes")
        raw.produce(block)
        data = raw.fetch("bytes")
        assert data[frame.PREFIX_SIZE :] == block
        prefix, header = frame.check_frame(data)
        assert prefix.queue_offset == 0
        assert header.record_count == 3


def test_one_way_requests_are_carried_out_and_not_answered(node: Node) -> None:
    with Raw(node.address) as raw:
        raw.create_topic("silent")
        header = wire.PRODUCE_REQUEST.pack(5_000, 2, 0)
        frames = sealed("silent", b"good") + sealed("nowhere-to-be", b"x")
        raw.send(Code.PRODUCE, header=header, body=frames, flags=wire.Flag.ONE_WAY, opaque=900)
        raw.send(Code.TOPIC_LIST, flags=wire.Flag.ONE_WAY, opaque=901)
        raw.send(Code.TOPIC_DESCRIBE, body=b'{"topic":"silent"}', flags=wire.Flag.ONE_WAY, opaque=902)
        raw.send(Code.PING, opaque=903)
        assert raw.receive().opaque == 903
        assert raw.bodies("silent") == [b"good"]


def test_a_long_hello_is_refused_when_it_begins(node: Node) -> None:
    with Raw(node.address, hello=False) as raw:
        raw.socket.sendall(wire.encode_head(Code.HELLO, 1, body_size=limits.HELLO_BYTES_MAX))
        assert isinstance(wire.decode_error(raw.receive()), LimitExceeded)
        assert raw.ends()


def test_waiting_reads_of_one_connection_are_bounded(node: Node) -> None:
    """Beyond the bound they are told so; others' reads wait, and what waited is let go with its connection."""
    with Raw(node.address) as raw, Raw(node.address) as greedy:
        raw.create_topic("idle")
        header = wire.FETCH_REQUEST.pack(0, 0, 100, 30_000, 0, 0)
        asked = WAITING_OF_ONE_MAX + 200
        greedy.socket.sendall(b"".join(wire.encode(Code.FETCH, n, header=header, body=b"idle") for n in range(asked)))
        for _ in range(200):
            assert isinstance(wire.decode_error(greedy.receive()), errors.TooManyRequests)
        assert raw.fetch("idle", wait_ms=10) == b""
        assert raw.produce(sealed("idle", b"wakes them"))[0][0] == 0
        assert {greedy.receive().flags for _ in range(WAITING_OF_ONE_MAX)} == {wire.Flag.ANSWER}


def test_a_queue_named_twice_is_refused(node: Node) -> None:
    with Raw(node.address) as raw:
        raw.create_topic("twice", queues=2)
        for code, value in ((Code.OFFSETS, {}), (Code.RESET, {"group": "g", "to": "latest"})):
            with pytest.raises(BadRequest, match="twice"):
                raw.ask_json(code, {"topic": "twice", "queues": [0, 1, 0], **value})
        assert [queue["queue"] for queue in raw.ask_json(Code.OFFSETS, {"topic": "twice", "queues": [1, 0]})["queues"]] == [
            1,
            0,
        ]


def test_questions_about_very_many_queues_hold_nobody_up(tmp_path: Path) -> None:
    """Hundreds of them, seconds of work each, from somebody who then hangs up: others are served at once, the node stops
    when it is told to."""
    count = limits.QUEUES_PER_TOPIC_MAX
    with Node(tmp_path) as node, Raw(node.address) as raw:
        raw.create_topic("wide", queues=count)
        assert raw.produce(sealed("wide", b"x", queue=count - 1))[0][0] == 0
        for code in (Code.TOPIC_DESCRIBE, Code.OFFSETS):
            answer = raw.ask(code, body=b'{"topic":"wide"}')
            queues = wire.decode_json(answer.body, bytes_max=limits.WIRE_BYTES_MAX)["queues"]
            assert [queue["queue"] for queue in queues] == list(range(count))
            assert queues[-1]["max"] == 1
        assert raw.ask(Code.LOOKUP, body=b'{"topic":"wide","time":0}').body[4:].tobytes().startswith(b'{"hits":[{')
        with Raw(node.address) as greedy:
            for code, value in ((Code.LOOKUP, b'{"topic":"wide","time":0}'), (Code.OFFSETS, b'{"topic":"wide","time":5}')):
                greedy.socket.sendall(b"".join(wire.encode(code, n, body=value) for n in range(500)))
            for _ in range(20):
                assert raw.ask_json(Code.PING, {}) == {}
        assert raw.ask_json(Code.PING, {}) == {}
        with Raw(node.address) as greedy:
            greedy.socket.sendall(
                b"".join(wire.encode(Code.LOOKUP, n, body=b'{"topic":"wide","time":0}') for n in range(500))
            )
            assert raw.ask_json(Code.PING, {}) == {}
            assert node.stop() == 0
