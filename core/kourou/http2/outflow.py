"""What leaves on a connection: frames of this turn, and what waits for the peer's windows.

Both windows of HTTP/2 count DATA only. A stream's is kept as ``outflow.stream_window + outgoing.adjust``, so that a change
of the peer's setting needs no walk over the streams. Whatever fits goes to ``out`` at once; the rest waits at its stream,
and the streams take turns, a frame each.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from kourou.http2 import frames
from kourou.http2.frames import DATA, END_STREAM, HEAD, WINDOW_LIMIT, ConnectionFault


class Outgoing:
    """The send side of one stream, once it is more than a reply that fits."""

    __slots__ = ("adjust", "closing", "ends", "pending", "pending_bytes", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream: Stream | None = stream
        self.adjust = 0  # what its window differs from the setting
        self.pending: deque[memoryview] = deque()
        self.pending_bytes = 0
        self.closing: bytes | None = None  # the frame that ends the stream, once it is known
        self.ends = False  # whether instead the last DATA does (answers of HTTP)


class Stream(Protocol):
    """Whoever owns an ``Outgoing``."""

    stream_id: int

    def sent_all(self) -> None:
        """The closing frame is in ``out``; the stream has ended on our side."""

    def sent_some(self) -> None:
        """Less waits than before."""


class Outflow:
    """``blocked`` is for the shell: while it is True nothing but control frames leaves."""

    __slots__ = (
        "_sent",
        "_turn_max",
        "blocked",
        "frame_bytes",
        "out",
        "pending_bytes",
        "stream_window",
        "turn_left",
        "waiting",
        "window",
    )

    def __init__(self, *, turn_bytes: int) -> None:
        self.out: list[bytes | memoryview] = []
        self.window = frames.WINDOW_DEFAULT
        self.stream_window = frames.WINDOW_DEFAULT
        self.frame_bytes = frames.FRAME_BYTES
        self.pending_bytes = 0
        self.waiting: dict[int, Outgoing] = {}
        self.blocked = False
        self._sent = 0  # before this turn
        self._turn_max = self.turn_left = turn_bytes

    def room(self) -> int:
        """The largest DATA payload that a stream without ``Outgoing`` may send at once."""
        if self.blocked:
            return 0
        return min(self.window, self.stream_window, self.frame_bytes, self.turn_left)

    @property
    def sent_bytes(self) -> int:
        """Of DATA, ever."""
        return self._sent + self._turn_max - self.turn_left

    def send(self, outgoing: Outgoing, payload: bytes) -> None:
        """Queue DATA of a stream."""
        outgoing.pending.append(memoryview(payload))
        outgoing.pending_bytes += len(payload)
        self.pending_bytes += len(payload)
        self._proceed(outgoing)

    def close(self, outgoing: Outgoing, closing: bytes) -> None:
        """``closing`` leaves after all DATA of the stream."""
        outgoing.closing = closing
        self._proceed(outgoing)

    def drop(self, outgoing: Outgoing) -> None:
        """The stream is reset: what it still had to send is of no use."""
        self.pending_bytes -= outgoing.pending_bytes
        outgoing.pending.clear()
        outgoing.pending_bytes = 0
        if outgoing.stream is not None:
            self.waiting.pop(outgoing.stream.stream_id, None)
            outgoing.stream = None

    def _proceed(self, outgoing: Outgoing) -> None:
        stream = outgoing.stream
        assert stream is not None
        if stream.stream_id not in self.waiting:  # else its turn comes
            while outgoing.pending and self._frame(outgoing):
                pass
            if outgoing.pending:
                self.waiting[stream.stream_id] = outgoing
            else:
                self._finish(outgoing)

    def _frame(self, outgoing: Outgoing) -> bool:
        """One DATA frame; False where a window, or the turn, is used up."""
        room = min(self.window, self.stream_window + outgoing.adjust, self.frame_bytes, self.turn_left)
        if room <= 0 or self.blocked:
            return False
        pending = outgoing.pending
        pieces: list[memoryview] = []
        left = room
        while pending and left:
            piece = pending[0]
            if len(piece) > left:
                pending[0] = piece[left:]
                piece = piece[:left]
            else:
                pending.popleft()
            pieces.append(piece)
            left -= len(piece)
        size = room - left
        self.window -= size
        self.turn_left -= size
        self.pending_bytes -= size
        outgoing.adjust -= size
        outgoing.pending_bytes -= size
        assert outgoing.stream is not None
        flags = END_STREAM if outgoing.ends and not pending else 0
        self.out.append(HEAD.pack(size << 8 | DATA, flags, outgoing.stream.stream_id))
        self.out.extend(pieces)
        return True

    def _finish(self, outgoing: Outgoing) -> None:
        stream = outgoing.stream
        assert stream is not None
        if outgoing.closing is not None:
            if outgoing.closing:
                self.out.append(outgoing.closing)
            outgoing.stream = None
            stream.sent_all()

    def proceed(self) -> None:
        """Send of what waits as much as may leave now, a frame of each stream in turn."""
        while self.waiting and not self.blocked and self.window > 0 and self.turn_left > 0:
            progress = False
            for outgoing in list(self.waiting.values()):
                progress = self._waited(outgoing) or progress
            if not progress:
                return

    def _waited(self, outgoing: Outgoing) -> bool:
        """One frame of a stream that waits; False where none may leave."""
        stream = outgoing.stream
        if stream is None or not self._frame(outgoing):
            return False
        if not outgoing.pending:
            del self.waiting[stream.stream_id]
            self._finish(outgoing)
        stream.sent_some()
        return True

    def next_turn(self) -> None:
        self._sent += self._turn_max - self.turn_left
        self.turn_left = self._turn_max

    # ---- what the peer says

    def widened(self, increment: int) -> None:
        self.window += increment
        if self.window > WINDOW_LIMIT:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        self.proceed()

    def stream_widened(self, outgoing: Outgoing, increment: int) -> bool:
        """False where the window would be beyond what HTTP/2 allows."""
        outgoing.adjust += increment
        if self.stream_window + outgoing.adjust > WINDOW_LIMIT:
            return False
        while outgoing.pending and self._waited(outgoing):
            pass
        return True
