"""The members of broker groups as ``kourou status`` shows them: what each says of itself, and its master of it."""

from __future__ import annotations

import asyncio
from typing import Any

from kourou.cli.values import format_size
from kourou.core.errors import KourouError
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code
from kourou.transport.connection import connect

ASK_S = 2.0
AT_A_TIME = 32
SILENT_MS = 3_000

HEADER = ("BROKER", "ID", "ROLE", "EPOCH", "IN SYNC", "LOG END", "CONFIRMED", "LAG", "STATE")


async def ask_members(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """What every registered broker of a group of several says of itself; ``error`` where it does not answer."""
    groups: dict[str, int] = {}
    for broker in cluster["brokers"]:
        groups[broker["broker"]] = groups.get(broker["broker"], 0) + 1
    limit = asyncio.Semaphore(AT_A_TIME)

    async def one(broker: dict[str, Any]) -> dict[str, Any]:
        async with limit:
            return {**broker, **await _status(broker["address"])}

    asked = [b for b in cluster["brokers"] if groups[b["broker"]] > 1 or not b["master"]]
    return list(await asyncio.gather(*(one(broker) for broker in asked)))


async def _status(address: str) -> dict[str, Any]:
    try:
        connection = await connect(parse_endpoint(address), client_id="kourou-status", handlers={})
        try:
            facts = await connection.ask_json(Code.STATUS, {}, timeout_s=ASK_S)
        finally:
            connection.close()
    except KourouError as failure:
        return {"error": str(failure)}
    return {name: facts.get(name) for name in ("role", "epoch", "log", "replication", "failover")}


def rows(members: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [_row(member, _master_of(member, members)) for member in members]


def troubles(members: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for member in members:
        name = f"broker {member['broker']} {member['broker_id']}"
        replication = member.get("replication") or {}
        if "error" in member:
            found.append(f"{name} does not answer: {member['error']}")
        elif replication.get("halted"):
            found.append(f"{name} has stopped replicating: {replication['halted']}")
        elif member.get("role") == "starting":
            found.append(f"{name} waits for slaves: min_isr is {replication.get('min_isr')}")
        elif _is_late(member, _master_of(member, members)):
            found.append(f"{name} is not in sync")
        found += _election_troubles(name, member)
    return found


def _election_troubles(name: str, member: dict[str, Any]) -> list[str]:
    """Where the group elects its master: what this member says of the election, and a master of the others."""
    failover = member.get("failover") or {}
    found: list[str] = []
    if failover.get("halted"):
        found.append(f"{name} takes no part in elections: {failover['halted']}")
    elif failover.get("barred"):
        found.append(f"{name} does not lead: {failover['barred']}")
    if (failover.get("etcd_silent_ms") or 0) > SILENT_MS:
        found.append(f"{name} has not reached etcd for {failover['etcd_silent_ms'] / 1000:.0f} s")
    if member.get("role") == "master":
        gone = [m for m in failover.get("members") or [] if not m["live"] and m["broker_id"] != member["broker_id"]]
        found += [f"broker {member['broker']} {m['broker_id']} ({m['address']}) is not there, as etcd shows" for m in gone]
    return found


def _is_late(member: dict[str, Any], master: dict[str, Any] | None) -> bool:
    """Is it a slave that should be in the sync state set of its master, and is not?"""
    known = (master or {}).get("replication") or {}
    return (
        member.get("role") == "slave"
        and "set" in known
        and member["broker_id"] not in known["set"]
        and not (member.get("replication") or {}).get("learner")
    )


def _master_of(member: dict[str, Any], members: list[dict[str, Any]]) -> dict[str, Any] | None:
    same = (m for m in members if m["broker"] == member["broker"] and m.get("role") in ("master", "starting"))
    return max(same, key=lambda m: int(m.get("epoch") or 0), default=None)


def _row(member: dict[str, Any], master: dict[str, Any] | None) -> tuple[object, ...]:
    log, replication = member.get("log") or {}, member.get("replication") or {}
    leads = member is master
    known = (master or {}).get("replication") or {}
    # the master's word counts; without one it is what the slave was told last
    in_sync = member["broker_id"] in known["set"] if "set" in known else replication.get("in_sync")
    end = replication.get("master_end") or 0
    if master is not None and not leads:
        end = max(end, (master.get("log") or {}).get("end", 0))
    return (
        member["broker"],
        str(member["broker_id"]),
        member.get("role"),
        str(member["epoch"]),
        None if in_sync is None else bool(in_sync),
        log.get("end"),
        log.get("confirmed"),
        format_size(max(0, end - log["end"])) if log and not leads else None,
        _state(member, replication),
    )


def _state(member: dict[str, Any], replication: dict[str, Any]) -> str:
    if "error" in member:
        return "does not answer"
    if replication.get("halted"):
        return f"halted: {replication['halted']}"
    if member.get("role") == "slave":
        phase = str(replication.get("phase"))
        why = replication.get("last_error")
        return f"{phase}: {why}" if why and phase != "streaming" else phase
    return "waits for slaves" if member.get("role") == "starting" else "serving"
