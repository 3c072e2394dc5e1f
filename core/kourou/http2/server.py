"""The listener: TLS and plaintext on one port, and every connection's end.

A connection's first byte tells the two apart: 0x16 begins a TLS handshake, anything else is for the plaintext side, which
knows HTTP/2's preface from the rest. The byte is peeked at, so that whoever serves the connection still finds it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from typing import Any, Final

from kourou.http2.call import Service
from kourou.http2.engine import Engine, OnError
from kourou.http2.limits import Http2Limits
from kourou.http2.protocol import ServerProtocol

_BACKLOG: Final = 1024
_ACCEPTS_A_TURN: Final = 64
_SWEEP_S: Final = 0.1
_SWEEPS_A_ROUND: Final = 10  # a tenth of the connections each time, so that ten thousand don't hold the loop
_SWEEP_MIN: Final = 50
_TASKS_S: Final = 5.0
_REST_S: Final = 0.5  # after the system has no file descriptor left
_TLS_SHUTDOWN_S: Final = 1.0  # that the peer may take to say good-bye; nothing is lost if it doesn't
_TLS_HANDSHAKE: Final = b"\x16"
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = logging.getLogger(__name__)


def _log_error(path: str, failure: BaseException) -> None:
    _log.error("the handler of %s failed", path, exc_info=failure)


class Http2Server:
    """Serves ``service`` to gRPC clients. ``on_error`` gets the path and the exception where a handler has a bug."""

    def __init__(
        self,
        service: Service,
        *,
        limits: Http2Limits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        plaintext: bool = True,
        on_error: OnError = _log_error,
    ) -> None:
        self.limits = limits or Http2Limits()
        self.engine = Engine(service, limits=self.limits, on_error=on_error, arm=self._arm)
        self.draining = False
        self.connections_accepted = 0
        self.connections_refused = 0
        self.handshakes_failed = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self._ssl = ssl_context
        self._plaintext = plaintext
        self._tls_follows: asyncio.Event | None = None  # set once there is a certificate
        self._protocols: set[ServerProtocol] = set()
        self._peeking: dict[socket.socket, float] = {}  # accepted, first byte not there yet: until when
        self._to_sweep: list[ServerProtocol] = []
        self._opening: set[asyncio.Task[Any]] = set()
        self._listeners: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event = asyncio.Event()

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._protocols) + len(self._peeking) + len(self._opening)

    @property
    def calls_started(self) -> int:
        return self.engine.calls_started

    @property
    def calls_failed(self) -> int:
        return self.engine.calls_failed

    def use_tls(self, ssl_context: ssl.SSLContext) -> None:
        """The certificate of the connections from now on."""
        self._ssl = ssl_context
        if self._tls_follows is not None:
            self._tls_follows.set()

    def expect_tls(self) -> None:
        """A certificate is being made: TLS connections that come before ``use_tls`` wait for it, as long as a handshake may
        take."""
        self._tls_follows = asyncio.Event()

    # ---- listening

    async def listen(self, host: str, port: int) -> int:
        """The port that was bound: ``port``, or a free one for 0. Raises OSError. "" is every address."""
        loop = self._loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE, family=socket.AF_UNSPEC
        )
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        try:
            for family, address in addresses:
                port = self._bind(family, address, port)
        except OSError:
            self._unlisten()
            raise
        for listener in self._listeners:
            loop.add_reader(listener.fileno(), self._accept, listener)
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)
        return port

    def _bind(self, family: int, address: Any, port: int) -> int:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            if self._listeners:
                return port  # a machine without IPv6
            raise
        self._listeners.append(listener)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address[0], port, *address[2:]))
        listener.listen(_BACKLOG)
        return int(listener.getsockname()[1])

    def _unlisten(self) -> None:
        for listener in self._listeners:
            if self._loop is not None:
                self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as failure:
                if failure.errno in _EXHAUSTED:
                    self._rest(listener)
                return
            self.connections_accepted += 1
            if self.connections >= self.limits.connections_max:
                self.connections_refused += 1
                accepted.close()
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peeking[accepted] = self.engine.now() + self.limits.handshake_timeout_s
            assert self._loop is not None
            self._loop.add_reader(accepted.fileno(), self._peek, accepted)

    def _rest(self, listener: socket.socket) -> None:
        assert self._loop is not None
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(_REST_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners and self._loop is not None:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _peek(self, accepted: socket.socket) -> None:
        assert self._loop is not None
        try:
            first = accepted.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        self._loop.remove_reader(accepted.fileno())
        del self._peeking[accepted]
        secure = first == _TLS_HANDSHAKE
        if not first or (secure and self._ssl is None and self._tls_follows is None) or not (secure or self._plaintext):
            self.handshakes_failed += secure
            accepted.close()
            return
        task = self._loop.create_task(self._open(accepted, secure=secure))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, *, secure: bool) -> None:
        assert self._loop is not None
        try:
            if secure and self._ssl is None and self._tls_follows is not None:
                async with asyncio.timeout(self.limits.handshake_timeout_s):
                    await self._tls_follows.wait()
            context = self._ssl if secure else None
            await self._loop.connect_accepted_socket(
                lambda: ServerProtocol(self),
                accepted,
                ssl=context,
                ssl_handshake_timeout=self.limits.handshake_timeout_s if context is not None else None,
                ssl_shutdown_timeout=_TLS_SHUTDOWN_S if context is not None else None,
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError):  # TimeoutError is an OSError
            self.handshakes_failed += 1
            accepted.close()

    # ---- what connections tell

    def opened(self, protocol: ServerProtocol) -> None:
        self._protocols.add(protocol)
        if self.draining:
            protocol.drain()

    def closed(self, protocol: ServerProtocol) -> None:
        self._protocols.discard(protocol)
        if not self._protocols:
            self._all_gone.set()

    # ---- time

    def _arm(self, at_s: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, at_s - self.engine.now()), self.engine.expire)

    def _sweep(self) -> None:
        assert self._loop is not None
        now = self.engine.now()
        if not self._to_sweep:
            self._to_sweep = list(self._protocols)
        for _ in range(min(len(self._to_sweep), max(_SWEEP_MIN, len(self._protocols) // _SWEEPS_A_ROUND + 1))):
            self._to_sweep.pop().sweep(now)
        for accepted, until_s in list(self._peeking.items()):
            if now > until_s:
                self._drop(accepted)
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _drop(self, accepted: socket.socket) -> None:
        assert self._loop is not None
        self._loop.remove_reader(accepted.fileno())
        del self._peeking[accepted]
        accepted.close()

    # ---- the end

    async def close(self, grace_s: float) -> None:
        """Listen no more, give the calls under way ``grace_s`` to end, then end them with UNAVAILABLE."""
        self.draining = True
        self._unlisten()
        for accepted in list(self._peeking):
            self._drop(accepted)
        for protocol in list(self._protocols):
            protocol.drain()
        await self._until_gone(grace_s)
        for task in list(self._opening):
            task.cancel()
        for protocol in list(self._protocols):
            protocol.end()
        await self._until_gone(1.0)
        for protocol in list(self._protocols):
            protocol.abort()
        await self._until_gone(1.0)
        tasks = {*self.engine.tasks, *self._opening}
        if tasks:
            await asyncio.wait(tasks, timeout=_TASKS_S)  # all are cancelled; one that doesn't mind must not hold us
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()

    async def _until_gone(self, timeout_s: float) -> None:
        self._all_gone.clear()
        if self._protocols and timeout_s > 0:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
            except TimeoutError:
                pass  # the caller goes on with stronger means
