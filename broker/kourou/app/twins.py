"""Two processes started as the same broker by mistake, in static mode: the later one must not serve beside the other.

A nameserver keeps the registration of a process that it hears from, and refuses another one's under the same name and
id. Whoever is refused asks who is registered: a process that answers there and is another one proves the mistake. What
does not answer is what is left of a former process, and goes by itself. With an elected master etcd tells, not this.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any

from kourou.app.groupwatch import GroupMember, GroupWatch
from kourou.core.errors import KourouError
from kourou.core.wire import Code
from kourou.transport.connection import connect

ASK_S = 1.0


class Twins:
    """``process`` is this process's name, which STATUS tells."""

    def __init__(self, group: str, broker_id: int, watch: GroupWatch, *, log: Any) -> None:
        self.process = secrets.token_hex(8)
        self._group = group
        self._broker_id = broker_id
        self._watch = watch
        self._log = log

    async def other(self, members: Iterable[GroupMember] | None = None) -> str | None:
        """Why this process must not go on; None when nobody else is seen to be this broker."""
        if members is None:
            members = await self._watch.members_within(ASK_S) or ()
        for member in members:
            if member.broker_id == self._broker_id and await self._is_another(member):
                return (
                    f"another process is broker {self._group} {self._broker_id}: it answers at {member.address}. Two of one "
                    f"id can't be: stop one of them, or give this one an id and a data directory of its own"
                )
        return None

    async def _is_another(self, member: GroupMember) -> bool:
        try:
            async with asyncio.timeout(ASK_S):
                connection = await connect(member.address, client_id=f"{self._group}-{self._broker_id}", handlers={})
                try:
                    facts = await connection.ask_json(Code.STATUS, {}, timeout_s=ASK_S)
                finally:
                    connection.close()
        except (KourouError, TimeoutError) as failure:
            self._log.info("registered_broker_not_asked", address=str(member.address), reason=str(failure))
            return False
        process = facts.get("process")
        mine = (facts.get("broker"), facts.get("broker_id")) == (self._group, self._broker_id)
        return mine and isinstance(process, str) and process != self.process
