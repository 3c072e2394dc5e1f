"""``kourou admin``: who is master of a broker group, and whether its members hold the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import FAILED, CommandFailed
from kourou.cli.output import note, print_json, print_table
from kourou.core.errors import KourouError
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code
from kourou.transport.connection import connect

if TYPE_CHECKING:
    from kourou.client import Client

ASK_S = 30.0
Group = Annotated[str, Parameter(help="Name of the broker group.")]


def promote(
    group: Group,
    /,
    *,
    id: Annotated[int, Parameter(help="Broker id of the slave that is to be the master.")],
    accept_loss: Annotated[
        bool, Parameter(negative=(), help="Even if another member has more, or this one is not known to have everything.")
    ] = False,
    server: Server = None,
    output: Output = "table",
) -> int:
    """Make a slave the master of its broker group. The former one, if it is there, follows; so do the other slaves.

    Refused when another member that answers has more of the log, or when the slave is not known to have all that was
    acknowledged; --accept-loss overrides both.
    """

    async def work(client: Client) -> dict[str, Any]:
        members = await _members(client, group)
        chosen = next((member for member in members if member["broker_id"] == id), None)
        if chosen is None:
            known = ", ".join(str(member["broker_id"]) for member in members) or "none"
            raise CommandFailed(f"broker {group} has no member {id}; registered are: {known}")
        if not accept_loss:
            await _check_others(members, chosen)
        above = max(max(member["epoch"], member.get("group_epoch", 0)) for member in members)  # that anybody has heard of
        return await _ask(chosen, Code.PROMOTE, {"accept_loss": accept_loss, "above": above})

    answer = ask(server, work)
    if output == "json":
        print_json({"broker": group, "broker_id": id, **answer})
    else:
        note(f"broker {group} {id} is the master of epoch {answer['epoch']}, from log offset {answer['log_offset']} on")
    return 0


def hash_(
    group: Group,
    /,
    *,
    server: Server = None,
    output: Output = "table",
) -> int:
    """Show the state of each member of a broker group, by hash, with the log offset that it is as of.

    Exit status 1 if two members at the same offset differ, or one does not answer.
    """

    async def work(client: Client) -> list[dict[str, Any]]:
        members = await _members(client, group)
        return await asyncio.gather(*(_digest(member) for member in members))

    found = ask(server, work)
    if not found:
        raise CommandFailed(f"broker {group} has no member that is registered")
    differing = _differing(found)
    if output == "json":
        print_json({"broker": group, "members": found, "differing": differing})
    else:
        print_table(
            ("ID", "ROLE", "EPOCH", "OFFSET", "PART", "HASH"),
            [
                (str(one["broker_id"]), one["role"], str(one["epoch"]), str(one["offset"]), part, value)
                for one in found
                if "error" not in one
                for part, value in sorted(one["digest"].items())
            ],
        )
    for one in found:
        if "error" in one:
            note(f"trouble: {group} {one['broker_id']} does not answer: {one['error']}")
    for part in differing:
        note(f"trouble: members differ in {part}")
    return FAILED if differing or any("error" in one for one in found) else 0


def _differing(found: list[dict[str, Any]]) -> list[str]:
    """Parts in which members at one offset are not the same."""
    parts: set[str] = set()
    by_offset: dict[int, dict[str, str]] = {}
    for one in found:
        if "error" in one:
            continue
        first = by_offset.setdefault(one["offset"], one["digest"])
        parts |= {part for part in first.keys() | one["digest"].keys() if first.get(part) != one["digest"].get(part)}
    return sorted(parts)


async def _members(client: Client, group: str) -> list[dict[str, Any]]:
    cluster = await client.cluster()
    return [broker for broker in cluster["brokers"] if broker["broker"] == group]


async def _ask(member: dict[str, Any], code: int, value: object) -> dict[str, Any]:
    connection = await connect(parse_endpoint(member["address"]), client_id="kourou-admin", handlers={})
    try:
        return await connection.ask_json(code, value, timeout_s=ASK_S)
    finally:
        connection.close()


async def _digest(member: dict[str, Any]) -> dict[str, Any]:
    try:
        return await _ask(member, Code.DIGEST, {})
    except KourouError as failure:
        return {"broker_id": member["broker_id"], "error": str(failure)}


async def _check_others(members: list[dict[str, Any]], chosen: dict[str, Any]) -> None:
    """Raises CommandFailed when another slave has what the chosen one lacks. While the master is there they differ at any
    time by what is not confirmed yet; the chosen one itself knows whether it is in sync."""
    if any(member["master"] for member in members):
        return
    mine = _place(await _ask(chosen, Code.STATUS, {}))
    for member in members:
        if member is chosen:
            continue
        try:
            other = _place(await _ask(member, Code.STATUS, {}))
        except KourouError:
            continue  # it is not there
        if other > mine:
            raise CommandFailed(
                f"member {member['broker_id']} has more of the log (epoch {other[0]}, end {other[1]}) than "
                f"{chosen['broker_id']} (epoch {mine[0]}, end {mine[1]}); promote it, or use --accept-loss"
            )


def _place(status: dict[str, Any]) -> tuple[int, int]:
    return status["epoch"], status["log"]["end"]
