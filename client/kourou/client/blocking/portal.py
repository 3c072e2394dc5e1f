"""Running one event loop from many threads without a thread of its own in the way.

A call that finds nobody running the loop runs it itself until its own result is there: no hand-over between threads, so
a serial caller is nearly as quick as ``await``. Whoever comes meanwhile gives its coroutine to the running loop and waits;
when the leader is done it passes the lead to one of them. While nobody calls, a background thread (the pump) runs the
loop, so that heartbeats, lingering batches and credits go on; it steps back when a call comes.

    nobody leads --call--> a caller leads --done, others wait--> one of them leads
                                          --done, nobody waits--> nobody leads --IDLE_S later--> the pump leads
    the pump leads --call--> the caller leads
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from kourou.core.errors import BadRequest, NotConnected

T = TypeVar("T")
IDLE_S = 0.02
TURN_S = 0.0005  # callers that never wait run a turn of the loop this often


class _Call(Generic[T]):
    __slots__ = ("coroutine", "leads", "task", "woken")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.coroutine = coroutine
        self.task: asyncio.Task[T] | None = None
        self.woken: threading.Event | None = None  # for one that follows: it has its result, or the lead
        self.leads = False


class Portal:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()  # guards all below; held for a few assignments only
        self._led = False
        self._pumping = False
        self._calls = 0  # how often the lead was taken; tells the pump that somebody was there
        self._followers: deque[_Call[Any]] = deque()
        self._closed = False
        self._turn_at = 0.0
        self._stopping = threading.Event()
        self._pump = threading.Thread(target=self._run_pump, name="kourou-client", daemon=True)
        self._pump.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, or what it raises. Safe from any thread but the loop's callbacks."""
        call = _Call(coroutine)
        self._check(coroutine)
        with self._lock:
            if self._closed:
                coroutine.close()
                raise NotConnected("the client is closed")
            follows = self._led
            if follows:
                call.woken = threading.Event()
                self._followers.append(call)
                self._loop.call_soon_threadsafe(self._begin, call)
                if self._pumping:
                    self._loop.call_soon_threadsafe(self._loop.stop)
            else:
                self._led = call.leads = True
                self._calls += 1
        if follows:
            self._wait(call)
        if call.leads:
            self._lead(call)
        assert call.task is not None
        return call.task.result()

    def now(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a plain function that waits for nothing, without a turn of the loop where that is possible.

        The loop may stand still meanwhile: the function may schedule and write, but not ask for the running loop.
        """
        with self._lock:
            follows = self._led
            if not follows:
                if self._closed:
                    raise NotConnected("the client is closed")
                self._led = True
                self._calls += 1
        if follows:
            return self.call(function, *arguments)
        try:
            result = function(*arguments)
            if time.monotonic() >= self._turn_at:
                self._check(None)
                self._loop.call_soon(self._loop.stop)
                self._loop.run_forever()
                self._turn_at = time.monotonic() + TURN_S
            return result
        finally:
            self._hand_on()

    def _check(self, coroutine: Coroutine[Any, Any, Any] | None) -> None:
        if asyncio._get_running_loop() is not None:
            if coroutine is not None:
                coroutine.close()
            raise BadRequest("the blocking client was called where an event loop runs; use kourou.client there")

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a plain function on the loop."""

        async def wrapped() -> T:
            return function(*arguments)

        return self.run(wrapped())

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run ``last``, then stop for good."""
        try:
            self.run(last)
        finally:
            with self._lock:
                self._closed = True
                if self._pumping:
                    self._loop.call_soon_threadsafe(self._loop.stop)
            self._stopping.set()
            self._pump.join(5.0)
            with self._lock:
                led = self._led
            if not led:  # a caller in another thread may still be on its way out
                self._loop.close()

    def _begin(self, call: _Call[T]) -> None:
        """On the loop, or while it stands still and is ours."""
        if call.task is None:
            call.task = self._loop.create_task(call.coroutine)
            call.task.add_done_callback(lambda task: self._ended(call))

    def _ended(self, call: _Call[T]) -> None:
        """On the loop: a call has its result."""
        with self._lock:
            if call in self._followers:
                self._followers.remove(call)
                assert call.woken is not None
                call.woken.set()
                return
        self._loop.stop()  # it is the leader's own

    def _wait(self, call: _Call[T]) -> None:
        assert call.woken is not None
        try:
            call.woken.wait()
        except BaseException:
            with self._lock:
                mine = call in self._followers
                if mine:
                    self._followers.remove(call)
            if mine:
                self._loop.call_soon_threadsafe(self._abandon, call)
            elif call.leads:  # it had just been passed to us
                self._abandon(call)
                self._hand_on()
            raise

    def _abandon(self, call: _Call[T]) -> None:
        if call.task is not None:
            call.task.cancel()
        else:
            call.coroutine.close()

    def _lead(self, call: _Call[T]) -> None:
        """Run the loop until the call has its result."""
        try:
            self._begin(call)
            assert call.task is not None
            while not call.task.done():
                self._loop.run_forever()
        except BaseException:
            self._abandon(call)
            raise
        finally:
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            if self._followers:
                self._calls += 1
                following = self._followers.popleft()
                following.leads = True  # also where it has its result by now: the lead is its own to pass on
                assert following.woken is not None
                following.woken.set()
            else:
                self._led = False

    def _run_pump(self) -> None:
        """Looks in every IDLE_S (waking at the end of each call instead costs every caller a thread switch)."""
        seen = -1
        while not self._stopping.wait(IDLE_S):
            with self._lock:
                if self._led or self._calls != seen:
                    seen = self._calls
                    continue
                if self._closed:
                    return
                self._led = self._pumping = True
            try:
                self._loop.run_forever()
            finally:
                with self._lock:
                    self._pumping = False
                self._hand_on()
