"""A client of the sans-I/O connection: makes frames with the hpack library, reads what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hpack import Decoder, Encoder

from kourou.http2 import frames
from kourou.http2.call import Service
from kourou.http2.connection import Connection
from kourou.http2.engine import Engine
from kourou.http2.limits import Http2Limits

POST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test/echo"),
    (":authority", "broker:8081"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def headers(path: str = "/test/echo", *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [(name, path if name == ":path" else value) for name, value in POST] + list(more)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frames.HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def message(content: bytes, *, compressed: bool = False) -> bytes:
    return bytes((compressed,)) + len(content).to_bytes(4, "big") + content


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None
    window: int = 0

    @property
    def status(self) -> int | None:
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def messages(self) -> list[bytes]:
        found, at = [], 0
        while at < len(self.data):
            size = int.from_bytes(self.data[at + 1 : at + 5], "big")
            found.append(self.data[at + 5 : at + 5 + size])
            at += 5 + size
        return found


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Peer:
    """Both ends: what is sent goes through the connection at once, what that answers is in ``answers``."""

    def __init__(
        self,
        service: Service,
        *,
        limits: Http2Limits | None = None,
        settings: dict[int, int] | None = None,
        greet: bool = True,
    ) -> None:
        self.clock = Clock()
        self.errors: list[tuple[str, BaseException]] = []
        self.armed: list[float] = []
        self.wakes = 0
        self.engine = Engine(
            service,
            limits=limits or Http2Limits(),
            on_error=lambda path, failure: self.errors.append((path, failure)),
            arm=self.armed.append,
            now=self.clock,
        )
        self.connection = Connection(self.engine, peer="1.2.3.4:5", local="5.6.7.8:9", secure=False, wake=self._woken)
        self.answers: dict[int, Answer] = {}
        self.goaway: tuple[int, int, bytes] | None = None
        self.pings: list[tuple[int, bytes]] = []
        self.settings_acks = 0
        self.window = 65_535  # of the connection, as the server gave it
        self.encoder = Encoder()
        self.decoder = Decoder()
        self._next = 1
        if greet:
            self.send(frames.PREFACE + frames.settings(settings or {}))

    def _woken(self) -> None:
        self.wakes += 1

    def next_id(self) -> int:
        self._next += 2
        return self._next - 2

    def send(self, data: bytes) -> None:
        self.connection.receive(data)
        self.read()

    def read(self) -> None:
        """Take what the connection has to say."""
        for kind, flags, stream_id, payload in split(self.connection.take()):
            self._frame(kind, flags, stream_id, payload)

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        answer = self.answers.setdefault(stream_id, Answer())
        if kind == frames.HEADERS:
            assert not answer.ended
            answer.headers.update((str(name), str(value)) for name, value in self.decoder.decode(payload))
        elif kind == frames.DATA:
            assert not answer.ended
            answer.data += payload
        elif kind == frames.RST_STREAM:
            answer.reset = int.from_bytes(payload, "big")
        elif kind == frames.WINDOW_UPDATE:
            answer.window += int.from_bytes(payload, "big")
        elif kind == frames.GOAWAY:
            self.goaway = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big"), payload[8:]
        elif kind == frames.PING:
            self.pings.append((flags, payload))
        elif kind == frames.SETTINGS:
            self.settings_acks += flags & frames.ACK
        if kind in (frames.HEADERS, frames.DATA) and flags & frames.END_STREAM:
            answer.ended = True

    def open(self, fields: list[tuple[str, str]], *, ended: bool = False) -> int:
        stream_id = self.next_id()
        flags = frames.END_HEADERS | (frames.END_STREAM if ended else 0)
        self.send(frame(frames.HEADERS, flags, stream_id, self.encoder.encode(fields)))
        return stream_id

    def data(self, stream_id: int, payload: bytes, *, ended: bool = False) -> None:
        for at in range(0, max(1, len(payload)), frames.FRAME_BYTES):
            piece = payload[at : at + frames.FRAME_BYTES]
            last = ended and at + frames.FRAME_BYTES >= len(payload)
            self.send(frame(frames.DATA, frames.END_STREAM if last else 0, stream_id, piece))

    def call_bytes(self, content: bytes, fields: list[tuple[str, str]] | None = None) -> tuple[int, bytes]:
        """A whole unary call, as clients send it."""
        stream_id = self.next_id()
        block = self.encoder.encode(fields or POST)
        body = message(content)
        return stream_id, (
            frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)
            + frame(frames.DATA, frames.END_STREAM, stream_id, body)
        )

    def call(self, content: bytes = b"", fields: list[tuple[str, str]] | None = None) -> Answer:
        stream_id, data = self.call_bytes(content, fields)
        self.send(data)
        return self.answers.get(stream_id, Answer())


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Frames: type, flags, stream, payload."""
    at = 0
    while at < len(data):
        word, flags, stream_id = frames.HEAD.unpack_from(data, at)
        at += 9
        yield word & 0xFF, flags, stream_id, data[at : at + (word >> 8)]
        at += word >> 8


Handler = Callable[[bytes, Any], Any]
