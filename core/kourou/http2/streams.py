"""Calls with more than one message, in either direction."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from kourou.http2 import reply
from kourou.http2.call import StatusCode
from kourou.http2.calls import ServerCall
from kourou.http2.request import Request

if TYPE_CHECKING:
    from kourou.http2.connection import Connection


class StreamedCall(ServerCall):
    """Served by a task that receives and sends."""

    __slots__ = ("_drainer", "_inbox", "_receiver")

    def __init__(self, connection: Connection, stream_id: int, request: Request, ended: bool) -> None:
        super().__init__(connection, stream_id, request, ended)
        self._inbox: deque[bytes] = deque()
        self._receiver: asyncio.Future[None] | None = None
        self._drainer: asyncio.Future[None] | None = None

    # ---- what handlers see

    async def receive(self) -> bytes | None:
        while not self._inbox:
            if self.ended or self.finished:
                return None
            if self._receiver is None or self._receiver.done():
                self._receiver = asyncio.get_running_loop().create_future()
            await self._receiver
        message = self._inbox.popleft()
        self.held -= len(message)
        self.connection.inflow.release(len(message))
        self.give_back(len(message) + reply.PREFIX_BYTES)
        self.connection.wake()
        return message

    def start(self) -> None:
        if not self.started and not self.finished:
            self.started = True
            self.connection.outflow.out.append(reply.start(self.stream_id))
            self.connection.wake()

    def send(self, message: bytes) -> None:
        if self.finished:
            return
        connection = self.connection
        outflow = connection.outflow
        if not self.started:
            self.started = True
            outflow.out.append(reply.start(self.stream_id))
        outgoing = self._outgoing()
        size = len(message) + reply.PREFIX_BYTES
        if not outgoing.pending and size <= outflow.room() and size <= outflow.stream_window + outgoing.adjust:
            outflow.window -= size
            outflow.turn_left -= size
            outgoing.adjust -= size
            outflow.out.append(reply.data_head(self.stream_id, len(message)))
            outflow.out.append(message)
        else:
            outflow.send(outgoing, reply.prefix(len(message)) + message)
        connection.wake()

    async def drain(self) -> None:
        bound = self.connection.engine.limits.call_output_bytes
        while self.outgoing is not None and self.outgoing.pending_bytes > bound and not self.finished:
            if self._drainer is None or self._drainer.done():
                self._drainer = asyncio.get_running_loop().create_future()
            await self._drainer

    # ---- what the connection tells

    def begin(self) -> None:
        method = self.request.method
        assert method is not None
        assert method.stream is not None
        try:
            self._task = self.connection.engine.spawn(method.stream(self))
        except Exception as failure:
            self.broken(failure)
            return
        self._task.add_done_callback(self._done)

    def message(self, message: bytes) -> None:
        self._inbox.append(message)
        self.held += len(message)
        self.connection.inflow.hold(len(message))
        self._wake_receiver()

    def end(self) -> None:
        self._wake_receiver()

    def sent_some(self) -> None:
        drainer = self._drainer
        if drainer is not None and (
            self.outgoing is None or self.outgoing.pending_bytes <= self.connection.engine.limits.call_output_bytes
        ):
            _wake(drainer)

    # ---- how it ends

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if task.cancelled():
            self.fail(StatusCode.CANCELLED, "the server cancelled the call")
        elif (failure := task.exception()) is not None:
            self.broken(failure)
        elif not self.finished:
            self.start()
            self._finish(reply.ok(self.stream_id))
        self.connection.wake()

    def _settle(self) -> None:
        super()._settle()
        self._inbox.clear()
        self._wake_receiver()
        if self._drainer is not None:
            _wake(self._drainer)

    def _wake_receiver(self) -> None:
        if self._receiver is not None:
            _wake(self._receiver)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():  # or cancelled, with the task that waited
        waiter.set_result(None)
