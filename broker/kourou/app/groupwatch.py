"""What the nameservers say about this broker's own group: who its members are, who its master is; told when it changes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from kourou.client.cluster import Cluster
from kourou.core import fields
from kourou.core.errors import KourouError, NotConnected
from kourou.core.route import Endpoint, parse_endpoint
from kourou.core.wire import Code

ASK_S = 2.0


@dataclass(frozen=True, slots=True)
class GroupMember:
    broker_id: int
    epoch: int
    master: bool
    address: Endpoint


class GroupWatch:
    """``servers`` gives the nameservers' data planes, as far as they are known."""

    def __init__(self, group: str, *, servers: Callable[[], tuple[Endpoint, ...]], on_change: Callable[[], None]) -> None:
        self._group = group
        self._servers = servers
        self._on_change = on_change
        self._cluster: Cluster | None = None
        self._known: tuple[Endpoint, ...] = ()

    async def cluster(self) -> Cluster:
        """A client of the nameservers. Raises NotConnected while none has answered."""
        if self._cluster is None:
            servers = self._servers()
            if not servers:
                raise NotConnected("no nameserver has answered yet")
            self._cluster = Cluster(servers, client_id=f"broker-{self._group}-{secrets.token_hex(4)}")
            self._cluster.on_change(self._on_change)
        else:
            self.servers_known()
        return self._cluster

    def servers_known(self) -> None:
        """Another nameserver has answered: it can stand in for the one that is watched."""
        if self._cluster is not None and (servers := self._servers()):
            self._cluster.now_known(servers)

    async def members(self) -> list[GroupMember]:
        """All that are registered. Raises KourouError when no nameserver answers."""
        cluster = await self.cluster()
        try:
            async with asyncio.timeout(ASK_S):
                answer = await cluster.ask_nameserver(Code.CLUSTER, {})
        except TimeoutError:
            raise NotConnected(f"no nameserver answered within {ASK_S:g} s") from None
        found = [value for value in answer.get("brokers", ()) if value.get("broker") == self._group]
        return [
            GroupMember(
                fields.number(value, "broker_id"), fields.number(value, "epoch"), fields.flag(value, "master", False),
                parse_endpoint(fields.text(value, "address")),
            )
            for value in found
        ]  # fmt: skip

    async def members_within(self, seconds: float) -> list[GroupMember] | None:
        """The same, tried until the time is over; None then."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self.members()
                    except KourouError:
                        await asyncio.sleep(0.05)
        except TimeoutError:
            return None

    async def master(self) -> GroupMember:
        """Raises NotConnected when the nameservers know of none."""
        for member in await self.members():
            if member.master:
                return member
        raise NotConnected(f"the nameservers know of no master of broker {self._group}")

    async def close(self) -> None:
        if self._cluster is not None:
            await self._cluster.close()
