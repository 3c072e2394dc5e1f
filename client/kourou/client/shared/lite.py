"""Which lite topics a member of a shared group is handed messages of, told to every broker.

A broker forgets it with the connection, and when it hears nothing for minutes, so that pollers repeat it now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from kourou.client.cluster import Cluster
from kourou.core import wire
from kourou.core.errors import BadRequest, NotConnected, OutcomeUnknown
from kourou.core.names import check_lite_topic
from kourou.core.wire import Code, WireMessage
from kourou.transport.connection import Connection

REPEAT_S = 30.0
STARTS = {"earliest": ["min", 0], "latest": ["max", 0]}
Start = str | dict[str, int]


class LiteSubscriptions:
    """One of a consumer."""

    def __init__(self, cluster: Cluster, topic: str, group: str, names: Iterable[str]) -> None:
        self.names = dict.fromkeys(names)
        self.on_evicted: Callable[[str], None] | None = None
        self._cluster = cluster
        self._topic = topic
        self._group = group
        self._told: dict[str, tuple[Connection, float]] = {}  # by broker: over which connection, and when

    async def tell(self, broker: str, connection: Connection) -> None:
        """The whole of it, where the broker may not know it (any more)."""
        now = asyncio.get_running_loop().time()
        known = self._told.get(broker)
        if known is not None and known[0] is connection and now - known[1] < REPEAT_S:
            return
        _Evictions.of(connection).add(self)
        await self._ask(connection, "replace", self.names, None)
        self._told[broker] = connection, now

    async def change(self, action: str, names: Iterable[str], start: Start | None, brokers: Iterable[str]) -> None:
        if isinstance(names, str):
            raise BadRequest("give the names of lite topics one by one, not as one text")
        chosen = dict.fromkeys(map(check_lite_topic, names))
        place = _place(start)
        if action == "add":
            self.names.update(chosen)
        else:
            for name in chosen:
                self.names.pop(name, None)
        for broker in brokers:
            connection = await self._cluster.broker(broker)
            await self.tell(broker, connection) if broker not in self._told else None
            await self._ask(connection, action, chosen, place)

    async def leave(self, brokers: Iterable[str]) -> None:
        for broker in brokers:
            connection = self._cluster.connected(broker)
            if connection is not None and broker in self._told:
                _Evictions.of(connection).remove(self)
                await self._ask(connection, "clear", (), None)

    async def _ask(self, connection: Connection, action: str, names: Iterable[str], start: list[Any] | None) -> None:
        value = {"group": self._group, "topic": self._topic, "action": action, "names": list(names), "start": start}
        try:
            await connection.ask_json(Code.LITE_SUBSCRIBE, value, timeout_s=self._cluster.timeout_s)
        except OutcomeUnknown as failure:
            raise NotConnected(str(failure)) from None  # it is told again, as a whole, over the next connection

    def evicted(self, group: str, topic: str, name: str) -> None:
        if (group, topic) == (self._group, self._topic) and name in self.names:
            del self.names[name]
            if self.on_evicted is not None:
                self.on_evicted(name)


class _Evictions:
    """Hands what a connection says about lite topics to the consumers on it."""

    def __init__(self, connection: Connection) -> None:
        self._members: dict[LiteSubscriptions, None] = {}
        connection.handlers[Code.LITE_EVICTED] = self._take

    @staticmethod
    def of(connection: Connection) -> _Evictions:
        known = getattr(connection.handlers.get(Code.LITE_EVICTED), "__self__", None)
        return cast(_Evictions, known) if known is not None else _Evictions(connection)

    def add(self, member: LiteSubscriptions) -> None:
        self._members[member] = None

    def remove(self, member: LiteSubscriptions) -> None:
        self._members.pop(member, None)

    def _take(self, message: WireMessage) -> None:
        value = wire.decode_json(message.body, what="LITE_EVICTED")
        for member in list(self._members):
            member.evicted(value["group"], value["topic"], value["lite_topic"])


def _place(start: Start | None) -> list[Any] | None:
    if start is None:
        return None
    if isinstance(start, str) and start in STARTS:
        return STARTS[start]
    if isinstance(start, dict) and len(start) == 1:
        ((kind, number),) = start.items()
        if kind in ("time", "offset", "tail") and isinstance(number, int) and number >= 0:
            return [kind, number]
    raise BadRequest('start must be "earliest", "latest", {"time": ms}, {"offset": n} or {"tail": n}')
