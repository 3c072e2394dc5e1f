"""A data-plane client made of a plain socket, for tests that must send what no proper client would."""

from __future__ import annotations

import socket
from array import array
from itertools import count, pairwise
from types import TracebackType
from typing import Any

from kourou.core import frame, wire
from kourou.core.errors import KourouError
from kourou.core.frame import Column
from kourou.core.wire import Code, FrameReader, WireMessage

TIMEOUT_S = 10.0


class Raw:
    """Blocking; every wait ends after TIMEOUT_S with an error."""

    def __init__(self, address: str, *, hello: bool = True, client: str = "raw") -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = FrameReader()
        self._inbox: list[WireMessage] = []
        self._opaque = count(1)
        if hello:
            try:
                self.ask_json(Code.HELLO, {"versions": [1], "client": {"id": client, "version": "0"}, "dialled": address})
            except BaseException:
                self.socket.close()
                raise

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, code: int, *, header: bytes = b"", body: bytes = b"", flags: int = 0, opaque: int | None = None) -> int:
        number = next(self._opaque) if opaque is None else opaque
        self.socket.sendall(wire.encode(code, number, flags=flags, header=header, body=body))
        return number

    def receive(self) -> WireMessage:
        """The next message; EOFError when the connection has ended."""
        while not self._inbox:
            got = self.socket.recv_into(self._reader.get_buffer())
            if got == 0:
                raise EOFError("the server closed the connection")
            self._inbox += self._reader.received(got)
        return self._inbox.pop(0)

    def answer(self, opaque: int) -> WireMessage:
        """The answer to a request; other messages are dropped. An error answer is raised."""
        while True:
            message = self.receive()
            if message.is_answer and message.opaque == opaque:
                if message.is_error:
                    raise wire.decode_error(message)
                return message

    def ask(self, code: int, *, header: bytes = b"", body: bytes = b"") -> WireMessage:
        return self.answer(self.send(code, header=header, body=body))

    def ask_json(self, code: int, value: object) -> dict[str, Any]:
        return wire.decode_json(self.ask(code, body=wire.encode_json(value)).body)

    def ends(self) -> bool:
        """Wait until the server has closed the connection."""
        try:
            while True:
                self.receive()
        except (EOFError, ConnectionError):
            return True
        except KourouError:
            return False

    # ---- conveniences

    def broker(self) -> str:
        """Name of the (only) broker."""
        return str(self.ask_json(Code.CLUSTER, {})["brokers"][0]["broker"])

    def create_topic(self, topic: str, *, queues: int = 1, kind: str = "normal") -> None:
        self.ask_json(Code.TOPIC_CREATE, {"topic": topic, "type": kind, "placement": [[self.broker(), queues]]})

    def produce(self, *sealed: bytes) -> list[tuple[int, int, int, int, int, int]]:
        """(error code, duplicate, queue, queue offset, log offset, store ms) of each frame."""
        header = wire.PRODUCE_REQUEST.pack(5_000, len(sealed), 0)
        message = self.ask(Code.PRODUCE, header=header, body=b"".join(sealed))
        count_, _ = wire.PRODUCE_ANSWER.unpack(message.header)
        return list(wire.PRODUCE_RESULT.iter_unpack(message.body[: count_ * wire.PRODUCE_RESULT.size]))

    def bounds(self, topic: str, queue: int = 0) -> tuple[int, int]:
        (found,) = self.ask_json(Code.OFFSETS, {"topic": topic, "queues": [queue]})["queues"]
        return found["min"], found["max"]

    def fetch(self, topic: str, *, queue: int = 0, offset: int = 0, wait_ms: int = 0) -> bytes:
        header = wire.FETCH_REQUEST.pack(offset, queue, 8 << 20, wait_ms, 0, 0)
        return bytes(self.ask(Code.FETCH, header=header, body=topic.encode()).body)

    def bodies(self, topic: str, *, queue: int = 0, offset: int = 0) -> list[bytes]:
        """All records of a queue from an offset on (frames without properties)."""
        found: list[bytes] = []
        low, high = self.bounds(topic, queue)
        at = max(low, offset)
        while at < high:
            data = self.fetch(topic, queue=queue, offset=at)
            for position, prefix in frame.iterate_frames(data):
                _, header = frame.check_frame(data, position)
                start = position + frame.PREFIX_SIZE
                bounds = frame.record_bounds(data, start, header)
                records = data[start + header.records_at :]
                found += [records[a:b] for a, b in pairwise(bounds)]
                at = prefix.queue_offset + header.record_count
        return found


def sealed(topic: str, *bodies: bytes, queue: int = 0, producer: int = 0, sequence: int = 0, **columns: list[int]) -> bytes:
    """A sealed frame of plain bodies; columns by name, as GROUP_HASHES=[…]."""
    return frame.seal(
        topic=topic,
        queue_id=queue,
        records=list(bodies),
        born_ms=1_700_000_000_000,
        producer_id=producer,
        sequence=sequence,
        columns={
            Column[name]: array({"DUE_TIMES": "q", "PRIORITIES": "i"}.get(name, "I"), values)
            for name, values in columns.items()
        },
    )
