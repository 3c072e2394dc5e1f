"""What the clients have in common: messages at a rate, and a file of how each send ended. Runs under the others' Python too.

client.py send WHERE TOPIC RATE FILE     prints "running"; on SIGTERM waits for what is under way, prints how many it sent
client.py read WHERE TOPIC FILE          the numbers of all messages that are there, until none came for some seconds
client.py load WHERE TOPIC MIB           as many bytes as fast as may be
"""

from __future__ import annotations

import array
import asyncio
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

RECORD = struct.Struct("<qqqB")
OK, FAILED = 1, 2
SIZE = 1024
DRAIN_S = 20.0
IDLE_S = 5.0
FLUSH_S = 0.02
STEP_S = 0.001
LOAD_SIZE = 16 * 1024
PAD = os.urandom(SIZE - 8)


def body(number: int) -> bytes:
    return number.to_bytes(8, "little") + PAD


def number_of(found: bytes) -> int:
    return int.from_bytes(found[:8], "little")


class Pace:
    """The numbers that are due, and the records of those that ended."""

    def __init__(self, rate: int, path: str) -> None:
        self.rate = rate
        self._file = open(path, "ab")
        self._buffer = bytearray()
        self._flushed = self._begun = time.monotonic()
        self.called = self.ended = 0
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: Any) -> None:
        self.stopped = True

    def begin(self) -> None:
        self._begun = time.monotonic()
        print("running", flush=True)

    def due(self) -> range:
        """Numbers to send now."""
        until = int((time.monotonic() - self._begun) * self.rate) + 1
        numbers = range(self.called, until)
        self.called = until
        return numbers

    def end(self, number: int, called: int, outcome: int) -> None:
        self._buffer += RECORD.pack(number, called, time.monotonic_ns(), outcome)
        self.ended += 1

    def flush(self) -> None:
        now = time.monotonic()
        if self._buffer and now - self._flushed >= FLUSH_S:
            self._flushed = now
            self._file.write(self._buffer)
            self._file.flush()
            self._buffer.clear()

    def finish(self) -> None:
        self._flushed = 0.0
        self.flush()
        self._file.close()
        print("called", self.called, flush=True)


async def send_at_rate(pace: Pace, send: Callable[[bytes], Any]) -> None:
    """``send`` is a coroutine function that raises what went wrong."""
    under_way: set[asyncio.Task[None]] = set()
    failures: dict[str, int] = {}

    async def one(number: int) -> None:
        called = time.monotonic_ns()
        try:
            await send(body(number))
        except Exception as failure:  # each client has its own; what it is called is told
            pace.end(number, called, FAILED)
            name = f"{type(failure).__name__}: {failure}"[:120]
            failures[name] = failures.get(name, 0) + 1
        else:
            pace.end(number, called, OK)

    pace.begin()
    while not pace.stopped:
        for number in pace.due():
            task = asyncio.ensure_future(one(number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(STEP_S)
        pace.flush()
    if under_way:
        await asyncio.wait(under_way, timeout=DRAIN_S)
    pace.finish()
    for name, count in sorted(failures.items()):
        print("failed", count, name, flush=True)


def save(path: str, numbers: array.array[int]) -> None:
    with open(path, "wb") as file:
        numbers.tofile(file)


def main(
    send: Callable[[str, str, Pace], Any], read: Callable[[str, str], Any], load: Callable[[str, str, int], Any]
) -> None:
    what, where, topic, *rest = sys.argv[1:]
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    if what == "send":
        asyncio.run(send(where, topic, Pace(int(rest[0]), rest[1])))
    elif what == "read":
        save(rest[0], array.array("q", asyncio.run(read(where, topic))))
    else:
        asyncio.run(load(where, topic, int(rest[0])))
