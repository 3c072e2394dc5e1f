"""The clients of the official API that this process knows: their settings, their telemetry streams, signs of life.

A client is known by the id in its metadata, from its first settings until it says goodbye or is silent for too long. Its
newest telemetry stream is the one that commands go out on. What the broker keeps invisible for it is let go of when it
has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kourou.core.clock import Clock
from kourou.core.errors import TooManyRequests
from kourou.http2.call import StreamCall
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service

SILENT_MS = 120_000  # without a heartbeat
STREAM_GRACE_MS = 15_000  # after its stream ended, without another one or a heartbeat
CLIENTS_MAX = 100_000
CONSUMERS = frozenset(
    {pb.PUSH_CONSUMER, pb.SIMPLE_CONSUMER, pb.PULL_CONSUMER, pb.LITE_PUSH_CONSUMER, pb.LITE_SIMPLE_CONSUMER}
)


@dataclass(slots=True, eq=False)
class GatewayClient:
    id: str
    settings: pb.Settings  # as merged
    heard_ms: int
    topics: frozenset[str] = frozenset()  # that it publishes to, our names
    group: str = ""  # of a consumer, our name
    peer: str = ""
    stream: StreamCall | None = None
    ended_ms: int | None = None  # when its last stream ended
    subscriptions: dict[str, tuple[str, str]] = field(default_factory=dict)  # topic -> (kind, expression)

    def tell(self, command: service.TelemetryCommand) -> bool:
        """Send a command; False when no stream is open."""
        if self.stream is None:
            return False
        self.stream.send(command.SerializeToString())
        return True


class Clients:
    def __init__(self, *, clock: Clock, gone: Callable[[GatewayClient], None]) -> None:
        self._clock = clock
        self._gone = gone
        self._clients: dict[str, GatewayClient] = {}
        self._producers: dict[str, dict[str, GatewayClient]] = {}  # by topic
        self._groups: dict[str, dict[str, GatewayClient]] = {}
        self._strangers: dict[str, GatewayClient] = {}  # hold messages that are renewed, but sent no settings (yet)
        self._turn = 0
        self._nonces = 0
        self._answers: dict[str, asyncio.Future[service.TelemetryCommand]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[GatewayClient]:
        return iter(list(self._clients.values()))

    def find(self, client_id: str) -> GatewayClient | None:
        return self._clients.get(client_id)

    def members(self, group: str) -> list[GatewayClient]:
        return list(self._groups.get(group, {}).values())

    def producers(self, topic: str) -> list[GatewayClient]:
        """Those that can be asked, a different one first each time."""
        known = [client for client in self._producers.get(topic, {}).values() if client.stream is not None]
        if not known:
            return []
        self._turn += 1
        first = self._turn % len(known)
        return known[first:] + known[:first]

    def settled(
        self,
        client_id: str,
        settings: pb.Settings,
        *,
        topics: frozenset[str],
        group: str,
        subscriptions: dict[str, tuple[str, str]],
        stream: StreamCall | None,
        peer: str,
    ) -> GatewayClient:
        """Settings came and were merged."""
        old = self._clients.get(client_id)
        if old is None and len(self._clients) >= CLIENTS_MAX:
            raise TooManyRequests(f"{CLIENTS_MAX} clients are connected already", retry_after_ms=10_000)
        if old is not None:
            self._unlist(old)
        client = old or GatewayClient(client_id, settings, 0)
        client.settings, client.topics, client.group, client.subscriptions = settings, topics, group, subscriptions
        client.heard_ms, client.peer = self._clock.monotonic_ms(), peer
        if stream is not None:
            client.stream, client.ended_ms = stream, None
        self._clients[client_id] = client
        self._strangers.pop(client_id, None)
        for topic in topics:
            self._producers.setdefault(topic, {})[client_id] = client
        if group:
            self._groups.setdefault(group, {})[client_id] = client
        return client

    def heard(self, client_id: str) -> GatewayClient | None:
        client = self._clients.get(client_id)
        known = client or self._strangers.get(client_id)
        if known is not None:
            known.heard_ms = self._clock.monotonic_ms()
        return client

    def holds(self, client_id: str) -> None:
        """It receives messages that stay invisible while it lives: what it holds comes back when it is not heard of any
        more, whether its settings ever come or not."""
        if self.heard(client_id) is None and client_id not in self._strangers:
            if len(self._strangers) >= CLIENTS_MAX:
                raise TooManyRequests(f"{CLIENTS_MAX} clients are connected already", retry_after_ms=10_000)
            self._strangers[client_id] = GatewayClient(client_id, pb.Settings(), self._clock.monotonic_ms())

    def knows(self, client_id: str) -> bool:
        """Whether it has settings here or holds messages, and has not left."""
        return client_id in self._clients or client_id in self._strangers

    def stream_ended(self, client_id: str, stream: StreamCall) -> None:
        client = self._clients.get(client_id)
        if client is not None and client.stream is stream:
            client.stream, client.ended_ms = None, self._clock.monotonic_ms()

    def left(self, client_id: str) -> GatewayClient | None:
        """It said goodbye, or has been silent for too long."""
        client = self._clients.pop(client_id, None)
        stranger = self._strangers.pop(client_id, None)
        if client is not None:
            self._unlist(client)
            self._gone(client)
        elif stranger is not None:
            self._gone(stranger)
        return client

    def _unlist(self, client: GatewayClient) -> None:
        for index, names in ((self._producers, client.topics), (self._groups, (client.group,))):
            for name in names:
                listed = index.get(name)
                if listed is not None and listed.pop(client.id, None) is not None and not listed:
                    del index[name]

    def expire(self) -> list[str]:
        """Let go of those that have gone without a word; called every few seconds."""
        now_ms = self._clock.monotonic_ms()
        gone = []
        for client in [*self._clients.values(), *self._strangers.values()]:
            silent = client.stream is None and now_ms - max(client.heard_ms, client.ended_ms or 0) > SILENT_MS
            ended = (
                client.ended_ms is not None
                and now_ms - client.ended_ms > STREAM_GRACE_MS
                and client.heard_ms <= client.ended_ms
            )
            if silent or ended:
                self.left(client.id)
                gone.append(client.id)
        return gone

    # ---- commands that are answered

    def ask(self, client: GatewayClient, command: service.TelemetryCommand, nonce: str) -> asyncio.Future[
        service.TelemetryCommand
    ]:  # fmt: skip
        """Send a command with a nonce; its answer, or a cancelled future when the client has no stream."""
        future: asyncio.Future[service.TelemetryCommand] = asyncio.get_running_loop().create_future()
        if not client.tell(command):
            future.cancel()
            return future
        self._answers[nonce] = future
        future.add_done_callback(lambda done: self._answers.pop(nonce, None))
        return future

    def next_nonce(self) -> str:
        self._nonces += 1
        return str(self._nonces)

    def answered(self, nonce: str, command: service.TelemetryCommand) -> None:
        future = self._answers.get(nonce)
        if future is not None and not future.done():
            future.set_result(command)
