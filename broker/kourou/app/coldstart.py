"""Before a master in static mode begins: has it lost what it acknowledged, and does a slave still have it?

Cold is a log that ends below what was promised, or that was written with ``flush = async`` on a machine that has rebooted
since without a clean stop. With ``ack = all`` and ``min_isr`` above 1 the lost tail is in every slave that was in sync: one
of them is waited for, and without it the master does not begin unless the operator accepts the loss.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from kourou.app.groupwatch import GroupMember, GroupWatch
from kourou.app.member import MemberNode
from kourou.broker.services.replication.slave import ask_piece
from kourou.broker.services.replication.tail import take_tail
from kourou.broker.store.incarnation import Incarnations
from kourou.core.errors import DamagedLog, KourouError, NotEnoughReplicas
from kourou.core.wire import Code, encode_json
from kourou.transport.connection import Connection, connect

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
WAIT_S = 10.0
PAUSE_S = 0.2
ASK_S = 5.0


def boot_id() -> str:
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


def is_cold(node: MemberNode, before: Incarnations, *, log: Any) -> bool:
    """May its log lack what it had when the process ``before`` this one ended?"""
    rebooted = not before.clean and before.boot != boot_id() and node.options.flush == "async"
    lost = node.store.end_offset < node.standing.promised
    if rebooted or lost:
        log.warning("started_cold", lost_promised=lost, machine_rebooted=rebooted)
    return rebooted or lost


class ColdStart:
    def __init__(self, node: MemberNode, watch: GroupWatch, *, log: Any) -> None:
        self._node = node
        self._watch = watch
        self._log = log

    def is_cold(self) -> bool:
        return is_cold(self._node, self._before(), log=self._log)

    def _before(self) -> Incarnations:
        try:
            return Incarnations.load(self._node.store.files)
        except DamagedLog:
            return Incarnations((), "", False)

    def begun(self) -> None:
        """What was lost, if anything, is back or given up: note, durably, on which boot of the machine this runs."""
        self._before().running(self._node.store.files, boot_id())

    def closed(self) -> None:
        """In good order."""
        self._before().closed(self._node.store.files)

    async def recover(self) -> None:
        """Take the tail from a slave that has it. Raises NotEnoughReplicas when nobody does who should."""
        options = self._node.options
        needed = options.needs_others
        seconds = WAIT_S if needed else PAUSE_S
        waited = 0.0
        while True:
            found = await self._best()
            if found is not None and (found[1] or not needed):
                await self._take(found[0])
                return
            waited += PAUSE_S
            if waited >= seconds:
                break
            await asyncio.sleep(PAUSE_S)
        if not needed:
            return
        if not options.accept_loss:
            raise NotEnoughReplicas(
                f"this master may have lost the end of its log, and no slave that was in sync answered within {WAIT_S:g} s. "
                f"Start its slaves, promote one that is complete, or start this broker with accept_loss"
            )
        self._log.warning("loss_accepted", log_end=self._node.store.end_offset)
        if found is not None:
            await self._take(found[0])

    async def _best(self) -> tuple[GroupMember, bool] | None:
        """The slave of this epoch with the longest log, and whether it was in sync; those that were come first."""
        node = self._node
        found: list[tuple[bool, int, GroupMember]] = []
        for member in await self._watch.members_within(PAUSE_S * 5) or []:
            if member.broker_id == node.options.broker_id:
                continue
            try:
                connection = await self._connect(member)
                try:
                    facts = await connection.ask_json(Code.STATUS, {}, timeout_s=ASK_S)
                finally:
                    connection.close()
                if facts["role"] == "slave" and facts["epoch"] == node.store.epoch:
                    found.append((bool(facts["replication"]["in_sync"]), int(facts["log"]["end"]), member))
            except (KourouError, KeyError, TypeError) as failure:
                self._log.warning("slave_not_asked", broker_id=member.broker_id, reason=str(failure))
        best = max(found, key=lambda one: one[:2], default=None)
        return None if best is None else (best[2], best[0])

    async def _connect(self, member: GroupMember) -> Connection:
        return await connect(
            member.address, client_id=f"{self._node.options.name}-{self._node.options.broker_id}", handlers={}
        )

    async def _take(self, member: GroupMember) -> None:
        node = self._node
        connection = await self._connect(member)

        async def ask(value: dict[str, Any]) -> memoryview:
            return (await connection.ask(Code.REPLICA_TAIL, parts=(encode_json(value),), timeout_s=ASK_S)).body

        try:
            piece = partial(ask_piece, connection, 0)
            count = await take_tail(node.store, node.state, node.identity, ask=ask, piece=piece, log=self._log)
        finally:
            connection.close()
        self._log.warning("tail_recovered", member=member.broker_id, bytes=count, log_end=node.store.end_offset)
