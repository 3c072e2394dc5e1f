"""The lines of a file or a pipe, in turns: as many as are there, without waiting for more."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from kourou.cli.failures import CommandFailed

LINES_PER_TURN = 500
CHUNK_BYTES = 64 * 1024
CHUNKS_AHEAD = 16  # read from a pipe and not yet taken; beyond that its writer waits


class Lines:
    """Opened by name; ``-`` is standard input."""

    def __init__(self, name: str) -> None:
        self.name = name if name != "-" else "standard input"
        self._own: BinaryIO | None = None
        if name != "-":
            self._own = Path(name).open("rb")  # noqa: SIM115  closed in __exit__
        elif sys.stdin is None:
            raise CommandFailed("standard input is closed")
        self._file = self._own or sys.stdin.buffer
        found = os.fstat(self._file.fileno())
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else 0  # 0: not known
        self._pipe: _Pipe | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._own is not None:
            self._own.close()

    async def next(self) -> list[bytes]:
        """Some lines without their ends; none when it is over."""
        if self.size:
            found: list[bytes] = []
            while len(found) < LINES_PER_TURN and (line := self._file.readline()):
                found.append(_bare(line))
            return found
        if self._pipe is None:
            self._pipe = _Pipe(self._file.fileno())
        return await self._pipe.next()


class _Pipe:
    """Read by a thread of its own, as connections must live while the pipe is silent; a daemon that reads the descriptor
    itself, as Ctrl-C must wait neither for the thread nor for a lock that it holds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[list[bytes] | OSError] = asyncio.Queue()
        self._room = threading.Semaphore(CHUNKS_AHEAD)
        threading.Thread(target=self._read, daemon=True, name="standard input").start()

    async def next(self) -> list[bytes]:
        arrived = await self._arrived.get()
        self._room.release()
        if isinstance(arrived, OSError):
            raise arrived
        return arrived

    def _read(self) -> None:
        begun: list[bytes] = []  # of a line without an end so far
        try:
            while chunk := os.read(self._descriptor, CHUNK_BYTES):
                first, newline, rest = chunk.partition(b"\n")
                begun.append(first)
                if not newline:
                    continue
                *whole, last = rest.split(b"\n")
                lines = [b"".join(begun), *whole]
                begun = [last]
                self._give([_bare(line) for line in lines])
            if any(begun):
                self._give([_bare(b"".join(begun))])
            self._give([])
        except OSError as failure:
            self._give(failure)
        except RuntimeError:
            pass  # the loop is closed: nobody wants more

    def _give(self, arrived: list[bytes] | OSError) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, arrived)


def _bare(line: bytes) -> bytes:
    return line.rstrip(b"\r\n")
