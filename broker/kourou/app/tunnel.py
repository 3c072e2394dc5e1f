"""Calls of the official API between gateways: the broker's end, which answers them, and the end that passes them on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf.message import DecodeError

from kourou.client.cluster import Cluster
from kourou.core.errors import KourouError
from kourou.core.route import BrokerRoute, Endpoint
from kourou.core.views import RouteView
from kourou.core.wire import Code, WireMessage
from kourou.gateway.service import SETTINGS, Gateway
from kourou.gateway.status import Refused
from kourou.gateway.tunnel import (
    CallInfo,
    TunnelledCall,
    decode_answer,
    decode_info,
    encode_answer,
    encode_failure,
)
from kourou.http2.call import GrpcError, StatusCode
from kourou.transport.connection import Connection
from kourou.transport.server import Handler, Peer

COMMAND_ID_BYTES_MAX = 1_024
DECIDED = frozenset(
    {"SendMessage", "ReceiveMessage", "AckMessage", "ChangeInvisibleDuration", "EndTransaction", "RecallMessage"}
)
ANSWER_S = 70.0  # for calls without a deadline: more than the longest poll


class TunnelHandlers:
    """A broker's end: OFFICIAL_CALL in, answers and OFFICIAL_COMMAND out."""

    def __init__(self, gateway: Gateway, *, check_open: Callable[[], None]) -> None:
        """``check_open`` raises when the broker decides nothing at present: then the other end may know a better time."""
        self._gateway = gateway
        self._check_open = check_open
        self._clients: dict[Peer, set[str]] = {}
        self._calls: dict[Peer, set[TunnelledCall]] = {}

    def table(self) -> dict[int, Handler]:
        return {Code.OFFICIAL_CALL: self.call}

    async def call(self, peer: Peer, message: WireMessage) -> None:
        method, info = decode_info(bytes(message.header))
        if method in DECIDED:
            self._check_open()
        data = bytes(message.body)
        call = TunnelledCall(info, data)
        self._watch(peer).add(call)
        try:
            if method == SETTINGS:
                self._clients.setdefault(peer, set()).add(info.metadata.get("x-mq-client-id", ""))
            messages = await self._gateway.tunnelled(method, call, data, self._pusher(peer))
            header, parts = encode_answer(messages)
        except GrpcError as failure:
            header, parts = encode_failure(failure)
        except Refused as failure:
            header, parts = encode_failure(GrpcError(StatusCode.INVALID_ARGUMENT, str(failure)))
        except DecodeError:
            header, parts = encode_failure(GrpcError(StatusCode.INVALID_ARGUMENT, "the request does not parse"))
        finally:
            self._calls.get(peer, set()).discard(call)
        peer.reply(message, header=header, parts=parts)

    def _watch(self, peer: Peer) -> set[TunnelledCall]:
        calls = self._calls.get(peer)
        if calls is None:
            calls = self._calls[peer] = set()
            peer.on_close(self._ended)
        return calls

    def _pusher(self, peer: Peer) -> Callable[[str, bytes], None]:
        def push(client: str, command: bytes) -> None:
            peer.push(Code.OFFICIAL_COMMAND, header=client.encode()[:COMMAND_ID_BYTES_MAX], parts=(command,))

        return push

    def _ended(self, peer: Peer) -> None:
        for call in self._calls.pop(peer, set()):
            call.cancel()
        self._gateway.tunnel_ended(self._clients.pop(peer, set()))


class ClusterTunnel:
    """The other end: connections to the brokers of a cluster, found through its nameservers.

    ``routes`` name the address that the client used (gateway), the brokers' own (broker), or (auto) the first for groups
    with slaves, whose master may be another one soon, and the second for the others.
    """

    def __init__(self, cluster: Cluster, *, routes: str) -> None:
        self._cluster = cluster
        self._routes = routes
        self._with_slaves: set[str] = set()  # seen so once; one member that is left for a while changes nothing
        self._known: dict[str, Connection] = {}
        self.on_command: Callable[[str, bytes], None] = lambda client, data: None
        self.on_back: Callable[[str], None] = lambda broker: None
        cluster.handlers[Code.OFFICIAL_COMMAND] = self._command

    async def route(self, topic: str) -> RouteView:
        route = await self._cluster.route(topic)
        endpoints: dict[str, Endpoint | None] = {}
        for broker in route.brokers:
            if self._through_us(broker):
                endpoints[broker.broker] = None
            elif broker.official is not None:
                endpoints[broker.broker] = broker.official
        return RouteView(route, endpoints)

    def _through_us(self, broker: BrokerRoute) -> bool:
        if self._routes != "auto":
            return self._routes == "gateway"
        if broker.replicas:
            self._with_slaves.add(broker.broker)
        return broker.broker in self._with_slaves

    def known_group(self, name: str) -> None:
        """Groups are known to brokers alone."""
        return None

    def brokers(self) -> list[str]:
        return [name for name, master in self._cluster.masters.items() if master is not None]

    async def call(self, broker: str, method: str, data: bytes, info: CallInfo) -> list[bytes]:
        connection = await self._connection(broker)
        timeout_s = info.left_ms / 1000 + 1 if info.left_ms is not None else ANSWER_S
        answer = await connection.ask(Code.OFFICIAL_CALL, header=info.encode(method), parts=(data,), timeout_s=timeout_s)
        return decode_answer(answer.header, answer.body)

    async def _connection(self, broker: str) -> Connection:
        connection = self._cluster.connected(broker)
        if connection is None:
            if not self._cluster.masters:
                await self._cluster.refresh_brokers()
            connection = await self._cluster.broker(broker)
        if self._known.get(broker) is not connection:
            again = broker in self._known
            self._known[broker] = connection
            if again:
                self.on_back(broker)
        return connection

    def _command(self, message: WireMessage) -> None:
        self.on_command(str(bytes(message.header), "utf-8", "replace"), bytes(message.body))

    async def keep(self) -> None:
        """Learn of the brokers, before anybody asks, and dial those that are back, so that they learn of our clients; called
        every second or so."""
        if not self.brokers():
            try:
                async with asyncio.timeout(1.0):
                    await self._cluster.refresh_brokers()
            except (KourouError, TimeoutError):
                return
        for broker in self.brokers():
            try:
                async with asyncio.timeout(1.0):
                    await self._connection(broker)
            except (KourouError, TimeoutError):
                continue

    async def close(self) -> None:
        await self._cluster.close()
