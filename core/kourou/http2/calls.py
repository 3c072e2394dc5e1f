"""Calls as handlers see them, and what becomes of them: answered, failed, cancelled, past their deadline.

A call ends once, on our side: by trailers (``finished``, perhaps with messages still waiting for the peer's window) or by a
reset. Its connection keeps it from its headers until both sides have ended; a unary call that is answered at once isn't
even entered there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kourou.http2 import frames, reply
from kourou.http2.call import GrpcError, StatusCode
from kourou.http2.compress import decompress
from kourou.http2.inflow import Incoming
from kourou.http2.outflow import Outgoing
from kourou.http2.request import Request

if TYPE_CHECKING:
    from kourou.http2.connection import Connection

BROKEN: Final = "the server failed to handle the call; its log says why"
LATE: Final = "the deadline has passed"


class ServerCall:
    """What all calls have in common; as it is, a call that is only answered by a ``Refusal``."""

    __slots__ = (
        "_callbacks",
        "_task",
        "cancelled",
        "connection",
        "deadline_s",
        "ended",
        "finished",
        "held",
        "incoming",
        "outgoing",
        "request",
        "started",
        "stream_id",
        "tick",
    )

    def __init__(self, connection: Connection, stream_id: int, request: Request, ended: bool) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.request = request
        self.ended = ended  # the client will send no more
        self.started = False  # the response headers have left
        self.finished = False  # so will we, but for what waits in ``outgoing``
        self.cancelled = False
        self.tick = 0  # of the deadline wheel; 0 is not in it
        self.held = 0  # bytes of a message that the handler is at work on
        self.incoming: Incoming | None = None
        self.outgoing: Outgoing | None = None
        self._callbacks: list[Callable[[], None]] | None = None
        self._task: asyncio.Task[Any] | None = None
        timeout_s = request.timeout_s
        self.deadline_s = None if timeout_s is None else connection.engine.now() + timeout_s

    # ---- what handlers see

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.request.metadata

    @property
    def authority(self) -> str:
        return self.request.authority

    @property
    def peer(self) -> str:
        return self.connection.peer

    @property
    def local(self) -> str:
        return self.connection.local

    @property
    def secure(self) -> bool:
        return self.connection.secure

    def remaining_s(self) -> float | None:
        if self.deadline_s is None:
            return None
        return max(0.0, self.deadline_s - self.connection.engine.now())

    def on_cancel(self, callback: Callable[[], None]) -> None:
        if self.cancelled:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    # ---- what the connection tells

    def begin(self) -> None:
        """The headers are in."""

    def received(self, data: bytes, ended: bool) -> None:
        """DATA without its padding; ``ended``: the client's last."""
        incoming = self.incoming
        assert incoming is not None
        self.ended = ended
        if not self.finished:
            try:
                for compressed, message in incoming.feed(data):
                    self.message(self._plain(message) if compressed else message)
            except GrpcError as failure:
                self._abandon()
                self.fail(failure.code, failure.text)
            else:
                if ended:
                    self._end(incoming)
        else:
            self.give_back(len(data))

    def trailers(self) -> None:
        """The client has ended its side with headers."""
        self.received(b"", True)

    def _end(self, incoming: Incoming) -> None:
        if incoming.partial:
            self.fail(StatusCode.INTERNAL, "the request ended inside a message")
        else:
            self.end()

    def _plain(self, message: bytes) -> bytes:
        return decompress(message, self.request.encoding, bytes_max=self.connection.engine.limits.message_bytes_max)

    def message(self, message: bytes) -> None:
        """The client's next message."""
        self.give_back(len(message) + reply.PREFIX_BYTES)

    def end(self) -> None:
        """The client's last message was its last."""

    def expire(self) -> None:
        """The deadline has passed."""
        self.tick = 0
        waits = self.outgoing is not None and self.outgoing.pending
        if waits or self.finished:  # a message may be half sent: nothing but a reset can follow it
            self.reset(frames.CANCEL)
            return
        self._abandon()
        self.fail(StatusCode.DEADLINE_EXCEEDED, LATE)
        self.connection.wake()

    def shut_down(self) -> None:
        """The server stops before the handler was done."""
        if self.finished:
            self.reset(frames.CANCEL)
            return
        self._abandon()
        self.fail(StatusCode.UNAVAILABLE, "the server is shutting down")
        self.connection.wake()

    def reset(self, code: int) -> None:
        """End the call with a reset of ours."""
        self.connection.reset(self.stream_id, code)
        self.cancel()
        self.connection.wake()

    def cancel(self) -> None:
        """The stream is no more: reset by either side, or its connection is lost."""
        connection = self.connection
        connection.streams.pop(self.stream_id, None)
        if self.outgoing is not None:
            connection.outflow.drop(self.outgoing)
        if self.tick:
            connection.engine.deadlines.remove(self)
            self.tick = 0
        if not self.finished:
            connection.engine.calls_failed += 1
            self._abandon()
            self.finished = True
            self._settle()

    def _abandon(self) -> None:
        """Tell the handler that nobody waits for it any more."""
        self.cancelled = True
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception as failure:  # another's bug must not keep the call, or the others, from ending
                self.connection.engine.on_error(self.request.path, failure)

    # ---- how it ends

    def fail(self, code: int, text: str) -> None:
        """End the call with a status."""
        if self.finished:
            return
        self.connection.engine.calls_failed += 1
        if code == StatusCode.OK:
            code, text = StatusCode.INTERNAL, BROKEN  # a handler that raises has not succeeded
        self._finish(reply.failed(self.stream_id, code, text, started=self.started))

    def broken(self, failure: BaseException) -> None:
        """The handler has a bug: it is told to the log, not to the client."""
        if isinstance(failure, GrpcError):
            self.fail(failure.code, failure.text)
            return
        self.connection.engine.on_error(self.request.path, failure)
        self.fail(StatusCode.INTERNAL, BROKEN)

    def refuse(self, refusal: reply.Refusal) -> None:
        self.connection.engine.calls_failed += 1
        if not refusal.body:
            self._finish(refusal.head(self.stream_id))
            return
        self.connection.outflow.out.append(refusal.head(self.stream_id))
        outgoing = self._outgoing()
        outgoing.ends = True
        self.finished = True
        outgoing.closing = b""
        self.connection.outflow.send(outgoing, refusal.body)

    def _finish(self, closing: bytes) -> None:
        self.finished = True
        self._settle()
        if self.outgoing is not None and self.outgoing.pending:
            self.connection.outflow.close(self.outgoing, closing)
        else:
            self.connection.outflow.out.append(closing)
            self.sent_all()

    def sent_all(self) -> None:
        outgoing, self.outgoing = self.outgoing, None
        if outgoing is not None:
            outgoing.stream = None  # a cycle of ours
        if self.tick:
            self.connection.engine.deadlines.remove(self)
            self.tick = 0
        self.connection.over(self)

    def sent_some(self) -> None:
        pass

    def _settle(self) -> None:
        """Give back what the call has of others, and stop its handler if that still runs."""
        self._callbacks = None
        if self.held:
            held, self.held = self.held, 0
            self.connection.inflow.release(held)
        if self.incoming is not None:
            self.incoming.drop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    # ---- windows

    def give_back(self, size: int) -> None:
        """``size`` bytes of the client's are taken, or dropped."""
        if self.incoming is not None and not self.ended:
            update = self.incoming.taken(size)
            if update:
                self.connection.outflow.out.append(update)

    def _outgoing(self) -> Outgoing:
        if self.outgoing is None:
            self.outgoing = Outgoing(self)
        return self.outgoing

    def widen(self, increment: int) -> bool:
        """WINDOW_UPDATE; False where it goes beyond what is allowed."""
        return self.connection.outflow.stream_widened(self._outgoing(), increment)


class RefusedCall(ServerCall):
    """Answered, without a handler, when the client has said all it wants to say."""

    __slots__ = ()

    def received(self, data: bytes, ended: bool) -> None:
        self.ended = ended
        self.give_back(len(data))
        if ended:
            self.end()

    def end(self) -> None:
        assert self.request.refusal is not None
        self.refuse(self.request.refusal)
