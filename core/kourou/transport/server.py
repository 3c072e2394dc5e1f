"""The listening end of the data plane: accepts connections, checks HELLO, hands messages to handlers, keeps bounds.

It knows no messages. A process registers one handler a code (nameserver's, broker's or both); everything a peer can do
to the process is bounded here: connections, bytes under way, unread answers, silence, slow writers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from kourou.core import limits, wire
from kourou.core.errors import KourouError, LimitExceeded, ShuttingDown, TooManyRequests
from kourou.core.wire import Code, WireMessage
from kourou.transport.load import Load
from kourou.transport.peer import Handler, Part, Peer

__all__ = ["DataPlaneServer", "Events", "Handler", "Part", "Peer", "ServerIdentity", "ServerLimits"]


class Events(Protocol):
    """Where the server reports what happened: structlog's bound logger fits."""

    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...

    def error(self, event: str, **fields: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class ServerLimits:
    connections_max: int = 20_000  # a process's file descriptors are raised to it at start where allowed
    hello_timeout_ms: int = 5_000
    idle_timeout_ms: int = 120_000
    message_timeout_ms: int = 30_000  # a message that has begun must be whole by then (slow writers)
    unsent_timeout_ms: int = 30_000  # a peer must read something of what waits for it by then (slow readers)
    in_flight_bytes: int = 32 * 1024 * 1024  # of one connection's unanswered requests; beyond it reading pauses
    in_flight_total_bytes: int = 256 * 1024 * 1024  # of all connections together, with parts of messages
    unsent_bytes_max: int = 64 * 1024 * 1024
    write_high_water_bytes: int = 2 * 1024 * 1024  # deliveries pause above it


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What HELLO answers about this process."""

    role: str  # standalone, nameserver or broker
    name: str
    cluster: str
    version: str
    compressions: tuple[str, ...] = ("zlib",)


class DataPlaneServer:
    """Listens, and owns the peers and the tasks of their requests."""

    SWEEP_S = 0.1

    def __init__(
        self,
        handlers: Mapping[int, Handler],
        *,
        identity: ServerIdentity,
        log: Events,
        bounds: ServerLimits | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handlers: dict[int, Handler] = {}
        self.serve(handlers)
        self.identity = identity
        self.limits = bounds or ServerLimits()
        self.log = log
        self.now = now
        self.load = Load(own_max=self.limits.in_flight_bytes, total_max=self.limits.in_flight_total_bytes, now=now)
        self.cut_off = 0
        self.bugs = 0
        self.draining = False
        self.peers: set[Peer] = set()
        self._numbers = count(1)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._to_sweep: list[Peer] = []
        self._all_gone: asyncio.Event | None = None  # while closing

    async def listen(self, host: str, port: int) -> int:
        """Bind and start to accept; the port that was bound (of use with port 0). OSError is the caller's to explain."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Peer(self, next(self._numbers)), host, port, backlog=1024, reuse_address=True
        )
        if self._sweeper is None:
            self._sweeper = loop.call_later(self.SWEEP_S, self._sweep)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def unlisten(self) -> None:
        """Accept nobody more, until ``listen`` is called again."""
        if self._server is not None:
            self._server.close()

    async def close(self, *, grace_s: float = 3.0) -> None:
        """Stop accepting, tell everybody, let requests under way finish for a while, close."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for peer in list(self.peers):
            peer.close("the server is shutting down")
        if self.peers:
            self._all_gone = asyncio.Event()
            try:
                async with asyncio.timeout(grace_s):
                    await self._all_gone.wait()
            except TimeoutError:
                for peer in list(self.peers):
                    peer.abort("did not close in time")
                await self._all_gone.wait()

    def serve(self, handlers: Mapping[int, Handler]) -> None:
        """From now on these handlers, and no others."""
        self.handlers = {int(Code.PING): self._ping, int(Code.HELLO): self._hello_again}
        self.handlers.update({int(code): handler for code, handler in handlers.items()})

    def drop_peers(self, reason: str) -> None:
        """Cut everybody off, and end what runs for them; who connects from now on is served."""
        for task in self._tasks:
            task.cancel()
        for peer in list(self.peers):
            peer.abort(reason)

    def see_off(self, reason: str, *, linger_s: float) -> None:
        """End what runs for everybody who is connected, and ask them to go; what they have sent already is still handled.
        Their connections are closed a little later, when nothing is under way that a close would destroy."""
        for task in self._tasks:
            task.cancel()
        peers = list(self.peers)
        for peer in peers:
            peer.push_json(Code.GOAWAY, {"reason": reason})
        asyncio.get_running_loop().call_later(linger_s, self._close_all, peers, reason)

    @staticmethod
    def _close_all(peers: list[Peer], reason: str) -> None:
        for peer in peers:
            peer.close(reason)

    def spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hello(self) -> dict[str, Any]:
        me = self.identity
        return {
            "version": wire.PROTOCOL_VERSION,
            "server": {"role": me.role, "name": me.name, "cluster": me.cluster, "version": me.version},
            "limits": {
                "wire_bytes": limits.WIRE_BYTES_MAX,
                "body_bytes": limits.BODY_BYTES_MAX,
                "frame_bytes": limits.FRAME_BYTES_MAX,
                "frames_per_request": limits.FRAMES_PER_REQUEST_MAX,
                "in_flight_bytes": self.limits.in_flight_bytes,
            },
            "compressions": list(me.compressions),
        }

    def accepted(self, peer: Peer) -> None:
        if len(self.peers) >= self.limits.connections_max or self.draining:
            self.peers.add(peer)
            failure: KourouError = (
                ShuttingDown("the server is shutting down; reconnect")
                if self.draining
                else TooManyRequests(f"{len(self.peers)} connections are open; the limit is {self.limits.connections_max}")
            )
            peer._write(wire.encode_error(0, 0, failure))
            peer.close(str(failure))
            return
        self.peers.add(peer)

    def lost(self, peer: Peer) -> None:
        self.peers.discard(peer)
        self.load.gone(peer)
        if self._all_gone is not None and not self.peers:
            self._all_gone.set()

    @property
    def in_flight_bytes(self) -> int:
        """Of everybody's requests, those that have not arrived wholly too."""
        return self.load.in_flight + self.load.partial

    def _sweep(self) -> None:
        """A twentieth of the peers each time, so that ten thousand idle ones don't hold the loop."""
        if not self._to_sweep:
            self._to_sweep = list(self.peers)
        self.load.relieve()
        now = self.now()
        for _ in range(min(len(self._to_sweep), max(32, len(self.peers) // 20))):
            self._to_sweep.pop().sweep(now)
        self._sweeper = asyncio.get_running_loop().call_later(self.SWEEP_S, self._sweep)

    @staticmethod
    def _ping(peer: Peer, message: WireMessage) -> None:
        peer.reply_json(message, {})

    @staticmethod
    def _hello_again(peer: Peer, message: WireMessage) -> None:
        raise LimitExceeded("HELLO was already said on this connection")
