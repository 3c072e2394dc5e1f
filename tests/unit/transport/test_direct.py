"""Bytes that go into the socket past the event loop stay in order with those that go through it."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from kourou.transport.direct import CHUNK, direct


class File:
    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.fd = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)


class Unmapped:
    """A file without a descriptor."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


@pytest.mark.parametrize("kind", ["descriptor", "none"])
async def test_everything_arrives_in_order_at_a_slow_reader(tmp_path: Path, kind: str) -> None:
    data = os.urandom(4 * 1024 * 1024)
    file = File(tmp_path / "f", data) if kind == "descriptor" else Unmapped(data)
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    near, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
    far, _ = listener.accept()
    far.setblocking(False)
    assert isinstance(near, asyncio.Transport)
    sender = direct(near)
    assert sender is not None
    expected = bytearray()
    for number in range(30):
        head = b"head %d" % number
        at, size = number * 1000, (100, CHUNK, 700_000)[number % 3]
        sender.write_file(head, file, at, size)
        expected += head + data[at : at + size]
        near.write(b"through the loop")
        expected += b"through the loop"
        sender.write(b"small")
        expected += b"small"
    assert near.get_write_buffer_size() > 0  # the socket could not take it all
    received = bytearray()
    async with asyncio.timeout(20):
        while len(received) < len(expected):
            received += await loop.sock_recv(far, 65_536)
    assert received == expected
    assert sender.free
    near.abort()
    sender.close()
    far.close()
    listener.close()
    if isinstance(file, File):
        os.close(file.fd)


async def test_a_broken_connection_is_found_out_by_the_loop(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()

    class Near(asyncio.Protocol):
        def connection_lost(self, failure: Exception | None) -> None:
            gone.set()

    near, _ = await loop.create_connection(Near, *listener.getsockname())
    far, _ = listener.accept()
    assert isinstance(near, asyncio.Transport)
    sender = direct(near)
    assert sender is not None
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    listener.close()
    file = File(tmp_path / "f", bytes(100_000))
    async with asyncio.timeout(20):
        while not gone.is_set():
            sender.write_file(b"head", file, 0, 100_000)
            await asyncio.sleep(0)
    assert not sender.free or near.is_closing()
    sender.close()
    os.close(file.fd)
