"""A loop that is held up can't serve when its time is over: its sockets are shut down by another thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from kourou.runtime.clock import BootClock
from kourou.runtime.cutoff import CutOff

LIMIT_S = 30.0


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Served:
    """A port that answers what it is told, a client of it, and the thread."""

    def __init__(self) -> None:
        self.clock = BootClock()
        self.told: list[int] = []
        self.heard = asyncio.Event()

    async def __aenter__(self) -> Served:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)  # of a listener that accepts no more
        self.server = await loop.create_server(Echo, "127.0.0.1", 0)
        self.port: int = self.server.sockets[0].getsockname()[1]
        self.client = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", self.port), LIMIT_S)
        self.other, self.peer = socket.socketpair()
        self.cutoff = CutOff(lambda: frozenset({self.port}), now_ms=self.clock.monotonic_ms, told=self._told)
        assert await asyncio.to_thread(self.ask) == b"?"
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.cutoff.close()
        self.server.close()
        for made in (self.client, self.other, self.peer):
            made.close()

    def ask(self) -> bytes:
        """The answer; empty: cut off."""
        try:
            self.client.sendall(b"?")
            return self.client.recv(1)
        except ConnectionError:
            return b""

    def connects(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), LIMIT_S).close()
        except ConnectionRefusedError:
            return False
        return True

    def _told(self, count: int) -> None:
        self.server.close()
        self.told.append(count)
        self.heard.set()

    def allow(self, ms: int | None) -> None:
        self.cutoff.allow(None if ms is None else self.clock.monotonic_ms() + ms)


def hold_up_until(condition: threading.Event) -> bool:
    """Hold the loop up; whether the condition came true meanwhile."""
    deadline = time.monotonic() + LIMIT_S
    while not condition.is_set() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition.is_set()


def compute_until(condition: threading.Event) -> bool:
    """The same, and without ever letting go of the interpreter."""
    deadline = time.monotonic() + LIMIT_S
    while not condition.is_set() and time.monotonic() < deadline:
        pass
    return condition.is_set()


@pytest.mark.parametrize("hold", [hold_up_until, compute_until])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_held_up_loop_is_cut_off(
    run: Callable[[Coroutine[Any, Any, None]], None], hold: Callable[[threading.Event], bool]
) -> None:
    """Goal: no answer and no new connection once the time is over. Method: the loop is held until a client in a thread
    has seen both; only then it goes on, is told, and may serve again."""

    async def case() -> None:
        async with Served() as served:
            cut, seen = threading.Event(), threading.Event()

            def client() -> None:
                if served.client.recv(1) == b"":
                    cut.set()
                deadline = time.monotonic() + LIMIT_S
                while served.connects() and time.monotonic() < deadline:
                    pass
                seen.set()

            thread = threading.Thread(target=client)
            thread.start()
            served.allow(20)
            assert hold(seen)
            assert cut.is_set()
            assert not served.told
            thread.join(LIMIT_S)
            await asyncio.wait_for(served.heard.wait(), LIMIT_S)
            assert served.told == [2]  # the listener and what it has accepted
            served.other.sendall(b"!")  # of no port: left alone
            assert served.peer.recv(1) == b"!"

    run(case())


async def test_a_time_that_is_moved_on_does_not_pass() -> None:
    """Method: a clock of our own, past each time but never past the one that is allowed, each looked at by the thread."""
    now_ms, looks = 0, 0

    def clock() -> int:
        nonlocal looks
        looks += 1
        return now_ms

    told: list[int] = []
    cutoff = CutOff(frozenset, now_ms=clock, told=told.append)
    try:
        for now_ms in range(0, 2_000, 500):
            cutoff.allow(now_ms + 600)
            before = looks
            async with asyncio.timeout(LIMIT_S):
                while looks == before:
                    await asyncio.sleep(0.005)
            assert not cutoff.is_over()
            now_ms += 600
            assert cutoff.is_over()  # although it was not cut yet
            now_ms -= 600
        cutoff.allow(None)
        now_ms = 10_000
        assert not cutoff.is_over()
        cutoff.allow(10_600)
        assert not told
    finally:
        cutoff.close()


async def test_the_time_can_be_shortened_and_it_goes_on_after_a_cut() -> None:
    async with Served() as served:
        served.allow(3_600_000)
        served.allow(0)
        await asyncio.wait_for(served.heard.wait(), LIMIT_S)
        assert await asyncio.to_thread(served.ask) == b""
        served.heard.clear()
        served.client.close()
        served.server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", served.port)
        served.client = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", served.port), LIMIT_S)
        served.allow(3_600_000)
        assert await asyncio.to_thread(served.ask) == b"?"
        served.allow(1)
        await asyncio.wait_for(served.heard.wait(), LIMIT_S)
        assert len(served.told) == 2
