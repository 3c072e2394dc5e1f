"""Bytes that go into the socket past the event loop stay in order with those that go through it."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from kourou.core import wire
from kourou.core.errors import DamagedLog
from kourou.core.wire import Code, WireMessage
from kourou.transport.direct import CHUNK, Piece, direct
from kourou.transport.server import Peer
from tests.unit.transport.test_server import serving


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


class Broken:
    """A file on a disk that has begun to fail; with or without a descriptor."""

    def __init__(self, fd: int | None) -> None:
        if fd is not None:
            self.fd = fd

    def read(self, offset: int, size: int) -> bytes:
        raise DamagedLog("the log can't be read")


@pytest.mark.parametrize("size", [1_000, CHUNK * 2])
@pytest.mark.parametrize("broken", ["closed", "short", "none"])
async def test_a_file_that_can_t_be_read_ends_that_connection_alone(tmp_path: Path, broken: str, size: int) -> None:
    """Half a message may be sent by then. Method: a descriptor that can't be read, a file that ends too soon, one without
    a descriptor; whoever pushes to one peer after the other gets to the last."""
    fine, cut = File(tmp_path / "f", bytes(size)), File(tmp_path / "cut", bytes(size - 1))
    unreadable = os.open(tmp_path / "f", os.O_WRONLY)
    files: dict[str, Piece] = {"closed": Broken(unreadable), "short": cut, "none": Broken(None)}

    def subscribe(peer: Peer, message: WireMessage) -> None:
        peers.append(peer)
        peer.reply_json(message, {})

    peers: list[Peer] = []
    async with serving({Code.SUBSCRIBE: subscribe}) as world:
        clients = [await world.dial() for _ in range(2)]
        for client in clients:
            client.send(Code.SUBSCRIBE, body=wire.encode_json({}))
            await client.receive()
        for peer, source in zip(peers, (files[broken], fine), strict=True):
            peer.push_file(Code.REPLICA_BATCH, header=b"", file=source, at=0, size=size)
        async with asyncio.timeout(20):
            with pytest.raises((EOFError, ConnectionError)):
                await clients[0].receive()
            assert (await clients[1].receive()).body == bytes(size)
            await clients[1].ping()
        (event,) = world.log.named("peer_cut_off")
        assert "read" in event["reason"] or "ends" in event["reason"]
        assert event["peer"] == peers[0].number
    for fd in (fine.fd, cut.fd, unreadable):
        os.close(fd)
