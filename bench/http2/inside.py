"""Microseconds that a connection takes for a call, without sockets: the bytes of real-looking clients through
``Connection.receive``. Usage: inside.py [--calls 20000]; needs the hpack package (of the dev extra) as the clients' encoder."""

from __future__ import annotations

import argparse
import hashlib
import time
import uuid

from hpack import Encoder

from kourou.http2 import frames
from kourou.http2.call import Kind, Method
from kourou.http2.connection import Connection
from kourou.http2.engine import Engine
from kourou.http2.limits import Http2Limits

BASIC = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/bench/echo"),
    (":authority", "127.0.0.1:8081"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-go/1.85.0"),
    ("te", "trailers"),
]


def rocketmq(number: int) -> list[tuple[str, str]]:
    date = f"20260101T{number // 10_000 % 60:06d}Z"
    signature = hashlib.sha1(date.encode()).hexdigest()  # clients sign the date alone, so it changes once a second
    return [
        *BASIC,
        ("grpc-timeout", f"{2_999_000 + number % 1000}u"),
        ("x-mq-protocol", "v2"),
        ("x-mq-language", "JAVA"),
        ("x-mq-client-version", "5.0.7"),
        ("x-mq-client-id", "bench-host@4711@0@1a2b3c4d"),
        ("x-mq-namespace", ""),
        ("x-mq-date-time", date),
        ("x-mq-request-id", str(uuid.uuid4())),
        ("authorization", f"MQv2-HMAC-SHA1 Credential=accessKey, SignedHeaders=x-mq-date-time, Signature={signature}"),
    ]


def requests(calls: int, body: bytes, *, metadata: bool, huffman: bool) -> bytes:
    encoder = Encoder()
    message = b"\0" + len(body).to_bytes(4, "big") + body
    parts = []
    for number in range(calls):
        block = encoder.encode(rocketmq(number) if metadata else BASIC, huffman=huffman)
        stream_id = 2 * number + 1
        parts.append(frames.HEAD.pack(len(block) << 8 | frames.HEADERS, frames.END_HEADERS, stream_id) + block)
        parts.append(frames.HEAD.pack(len(message) << 8 | frames.DATA, frames.END_STREAM, stream_id) + message)
    return b"".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20_000)
    calls = parser.parse_args().calls
    service = {"/bench/echo": Method(Kind.UNARY, unary=lambda message, call: message)}
    kib = bytes(1024)
    for name, body, metadata, huffman in (
        ("bare", b"", False, True),
        ("1 KiB", kib, False, True),
        ("1 KiB, metadata + deadline, as Java, C++ and C# send it", kib, True, False),
        ("1 KiB, metadata + deadline, Huffman as Go and Rust do", kib, True, True),
    ):
        engine = Engine(service, limits=Http2Limits(), on_error=lambda path, failure: None, arm=lambda at: None)
        connection = Connection(engine, peer="", local="", secure=False, wake=lambda: None)
        connection.receive(frames.PREFACE + frames.settings({}) + frames.window_update(0, 1 << 30))
        data = requests(calls, body, metadata=metadata, huffman=huffman)
        began = time.process_time()
        for at in range(0, len(data), 16_384):
            connection.receive(data[at : at + 16_384])
            while connection.halted:
                connection.receive(b"")
            connection.take()
        spent = time.process_time() - began
        assert engine.calls_started == calls, connection.fault
        print(f"{name:60} {spent / calls * 1e6:6.1f} us a call")


if __name__ == "__main__":
    main()
