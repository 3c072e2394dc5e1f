"""Replication on the data plane: the master's end of sessions, and the slave's dialling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from kourou.broker.services.replication.master import MasterReplication
from kourou.broker.services.replication.messages import ack_of, answer_to_json, hello_of, ping_of, ready_of
from kourou.core import fields, wire
from kourou.core.errors import IllegalName, KourouError, MessageNotFound, ReplicaRefused
from kourou.core.limits import WIRE_BYTES_MAX
from kourou.core.route import Endpoint, parse_endpoint
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection, connect
from kourou.transport.server import Handler, Peer

PIECE_BYTES_MAX = 4 * 1024 * 1024
HELLO_BYTES_MAX = 4 * 1024 * 1024  # a history of 100,000 epochs; more would hold the loop for a second
PROBE_S = 1.0
FETCHED = ("timers/", "snapshots/")


class ReplicaHandlers:
    """What slaves ask of a master. Those who are not slaves get nothing: a file needs a session."""

    def __init__(
        self, replication: MasterReplication, read_file: Callable[[str, int, int], bytes], *, executor: Executor
    ) -> None:
        self._replication = replication
        self._read_file = read_file
        self._executor = executor

    def table(self) -> dict[int, Handler]:
        return {
            Code.REPLICA_HELLO: self.hello,
            Code.REPLICA_READY: self.ready,
            Code.REPLICA_ACK: self.ack,
            Code.REPLICA_PING: self.ping,
            Code.REPLICA_FILE: self.file,
            Code.REPLICA_LOG: self.log,
        }

    def hello(self, peer: Peer, message: WireMessage) -> None:
        hello = hello_of(wire.decode_json(message.body, what="REPLICA_HELLO", bytes_max=HELLO_BYTES_MAX))
        if "replica" not in peer.attachments:
            peer.attachments["replica"] = True
            peer.on_close(self._replication.lost)
        answer = answer_to_json(self._replication.hello(peer, hello), epoch=hello.epoch)
        if "copy" in answer:
            answer["copy"] = self._replication.copy()
        peer.reply_json(message, answer)

    def ready(self, peer: Peer, message: WireMessage) -> None:
        self._replication.ready(peer, ready_of(wire.decode_json(message.body, what="REPLICA_READY")))
        peer.reply_json(message, {})

    def ack(self, peer: Peer, message: WireMessage) -> None:
        self._replication.acked(peer, ack_of(message))

    def ping(self, peer: Peer, message: WireMessage) -> None:
        self._replication.pinged(peer, ping_of(message))

    async def file(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="REPLICA_FILE")
        if not self._replication.may_read(peer, fields.number(value, "session", high=(1 << 64) - 1)):
            raise ReplicaRefused("files are for slaves with a session")
        peer.reply(message, parts=(await _piece(value, FETCHED, self._read_file, self._executor),))

    async def log(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="REPLICA_LOG")
        session = fields.number(value, "session", high=(1 << 64) - 1)
        start, end = (fields.number(value, name, high=(1 << 63) - 1) for name in ("start", "end"))
        peer.reply(message, parts=(await self._replication.lend(peer, session, start, end),))


class TailHandlers:
    """What a slave lends to its own master that lost the end of its log."""

    def __init__(
        self,
        read_tail: Callable[[dict[str, Any]], bytes],
        read_file: Callable[[str, int, int], bytes],
        *,
        executor: Executor,
    ) -> None:
        self._read_tail = read_tail
        self._read_file = read_file
        self._executor = executor

    def table(self) -> dict[int, Handler]:
        return {Code.REPLICA_TAIL: self.tail, Code.REPLICA_FILE: self.file}

    async def tail(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="REPLICA_TAIL", bytes_max=WIRE_BYTES_MAX)
        data = await asyncio.get_running_loop().run_in_executor(self._executor, self._read_tail, value)
        peer.reply(message, parts=(data,))

    async def file(self, peer: Peer, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="REPLICA_FILE")
        peer.reply(message, parts=(await _piece(value, ("timers/",), self._read_file, self._executor),))


async def _piece(
    value: dict[str, Any], folders: tuple[str, ...], read_file: Callable[[str, int, int], bytes], executor: Executor
) -> bytes:
    name = fields.text(value, "name", characters_max=100)
    offset = fields.number(value, "offset")
    size = fields.number(value, "size", low=1, high=PIECE_BYTES_MAX)
    if not name.startswith(folders) or name.count("/") != 1 or ".." in name or "\0" in name:
        raise IllegalName(f"there is no file {name!r} for slaves")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, read_file, name, offset, size)
    except FileNotFoundError:
        raise MessageNotFound(f"{name} is gone") from None


async def dial(
    endpoint: Endpoint,
    group: str,
    *,
    client_id: str,
    handlers: dict[int, Callable[[WireMessage], None]],
    lost: Callable[[str], None],
) -> Connection:
    """Connect to the member of a broker group that should be its master. Raises KourouError."""
    connection = await connect(endpoint, client_id=client_id, handlers=handlers)
    name = connection.hello.get("server", {}).get("name")
    if name != group:
        connection.abort("another broker")
        raise ReplicaRefused(f"{endpoint} is broker {name}, not {group}")
    connection.on_close(lambda gone: lost(gone.reason or "it was closed"))
    return connection


async def is_refused(address: str) -> bool:
    """Does a host answer that nobody listens there? One that does not answer at all may have lost nothing."""
    try:
        endpoint = parse_endpoint(address)
    except KourouError:
        return False
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except ConnectionRefusedError:
        return True
    except (TimeoutError, OSError):
        return False
    writer.close()
    return False
