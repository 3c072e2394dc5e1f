"""Sending past the event loop: straight into a connection's socket, while nothing of it waits in the loop's own buffer.

For pieces of files: they go by way of one small buffer that stays in the processor's cache, not by fresh memory for each.
(sendfile saves the sender nothing on top of that, and costs the receiver half as much again, page by page.) What the socket
does not take goes on through the loop, in order.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Protocol

from kourou.core.errors import DamagedLog

CHUNK = 256 * 1024


class Piece(Protocol):
    """A file that can be sent, past fresh memory when it has a descriptor ``fd``."""

    def read(self, offset: int, size: int) -> bytes: ...


class Direct:
    """Of one connection; has a descriptor of its own, so that it never writes into another connection that came after."""

    def __init__(self, transport: asyncio.Transport, sock: socket.socket) -> None:
        self._transport = transport
        self._socket = sock
        self._buffer = memoryview(bytearray(CHUNK))

    def close(self) -> None:
        self._socket.close()

    @property
    def free(self) -> bool:
        """Does nothing wait in the loop's buffer?"""
        return not self._transport.get_write_buffer_size() and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Now, if nothing waits; else behind what waits."""
        sent = self._send(data, 0) if self.free else 0
        if sent < len(data):
            self._transport.write(data[sent:] if sent else data)

    def write_file(self, head: bytes, file: Piece, at: int, size: int) -> None:
        """The same for a head and a piece of a file, which should be in memory: the loop waits if it is not.

        Raises OSError, or what the file raises, when it can't be read: then the connection is to be cut off, as some of
        the message may be sent.
        """
        number = getattr(file, "fd", None)
        if size < CHUNK or number is None:
            self.write(head + _whole(file, at, size))
            return
        sent = self._send(head, socket.MSG_MORE) if self.free else 0
        if sent < len(head):
            self._transport.write(head[sent:])
            self._transport.write(_whole(file, at, size))
            return
        done = 0
        while done < size:
            view = self._buffer[: size - done]
            if os.preadv(number, [view], at + done) < len(view):
                break
            sent = self._send(view, 0)
            done += sent
            if sent < len(view):
                break
        if done < size:
            self._transport.write(_whole(file, at + done, size - done))

    def _send(self, data: bytes | memoryview, flags: int) -> int:
        try:
            return self._socket.send(data, flags)
        except OSError:  # it would block, or the connection is broken, which the loop finds out
            return 0


def _whole(file: Piece, at: int, size: int) -> bytes:
    data = file.read(at, size)
    if len(data) < size:
        raise DamagedLog(f"the file ends at {at + len(data)}, and {size} bytes from {at} were to be sent")
    return data


def direct(transport: asyncio.Transport) -> Direct | None:
    """None where bytes don't go to the socket as they are."""
    if transport.get_extra_info("sslcontext") is not None:
        return None
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        own = socket.fromfd(sock.fileno(), sock.family, sock.type, sock.proto)
    except OSError:
        return None
    own.setblocking(False)
    return Direct(transport, own)
