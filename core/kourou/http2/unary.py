"""Calls with one message and one answer, which is nearly all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kourou.http2 import reply
from kourou.http2.call import GrpcError, StatusCode
from kourou.http2.calls import ServerCall
from kourou.http2.request import Request

if TYPE_CHECKING:
    from kourou.http2.connection import Connection


class UnaryCall(ServerCall):
    """One message, one answer."""

    __slots__ = ("_message",)

    def __init__(self, connection: Connection, stream_id: int, request: Request, ended: bool) -> None:
        super().__init__(connection, stream_id, request, ended)
        self._message: bytes | None = None

    def message(self, message: bytes) -> None:
        if self._message is not None:
            raise GrpcError(StatusCode.INTERNAL, "more than one message in a unary call")
        self._message = message

    def end(self) -> None:
        message, self._message = self._message, None
        if message is None:
            self.fail(StatusCode.INTERNAL, "no message in a unary call")
        else:
            self.run(message)

    def run(self, message: bytes) -> None:
        """Call the handler."""
        handler = self.request.unary
        assert handler is not None
        try:
            result = handler(message, self)
        except Exception as failure:
            self.broken(failure)
            return
        if isinstance(result, bytes):
            self._answer(result)
            return
        self.held = len(message)
        self.connection.inflow.hold(self.held)
        self.connection.enter(self)
        future: asyncio.Future[Any]
        if asyncio.isfuture(result):
            future = result
        else:
            try:
                future = self._task = self.connection.engine.spawn(result)
            except TypeError as failure:  # the handler gave something else altogether
                self.broken(failure)
                return
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._task = None
        if future.cancelled():
            self.fail(StatusCode.CANCELLED, "the server cancelled the call")
        elif (failure := future.exception()) is not None:
            self.broken(failure)
        elif not self.finished:
            self._answer(future.result())
        self.connection.wake()

    def _answer(self, message: Any) -> None:
        outflow = self.connection.outflow
        stream_id = self.stream_id
        if not isinstance(message, bytes):
            self.broken(TypeError(f"the handler answered {type(message).__name__}, not bytes"))
            return
        size = len(message)
        if self.outgoing is None and size + 5 <= outflow.room():
            outflow.window -= size + 5
            outflow.turn_left -= size + 5
            out = outflow.out
            out.append(reply.start_and_data_head(stream_id, size))
            out.append(message)
            out.append(reply.ok(stream_id))
            self.finished = True
            self._settle()
            self.sent_all()
        else:
            self.connection.enter(self)
            outflow.out.append(reply.start(stream_id))
            self.started = True
            outflow.send(self._outgoing(), reply.prefix(size) + message)
            self._finish(reply.ok(stream_id))
