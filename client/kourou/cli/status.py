"""``kourou status``: the brokers as the nameserver sees them, and what each says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kourou.cli import members
from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import FAILED
from kourou.cli.output import note, print_facts, print_json, print_table
from kourou.cli.values import format_size

if TYPE_CHECKING:
    from kourou.client import Client


def status(*, server: Server = None, output: Output = "table") -> int:
    """Show the brokers and how they do. Exit status 1 if one does not answer, has a full disk or a damaged log."""

    async def work(client: Client) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        cluster = await client.cluster()
        return cluster, await client.status(), await members.ask_members(cluster)

    cluster, facts, found = ask(server, work)
    troubles = [trouble for name, fact in facts.items() for trouble in _troubles(name, fact)]
    troubles += [f"broker {b['broker']} has no master" for b in _masterless(cluster)]
    troubles += members.troubles(found)
    if not cluster["brokers"]:
        troubles.append("no broker is registered")
    if output == "json":
        print_json({"cluster": cluster, "brokers": facts, "members": found, "troubles": troubles})
    else:
        print_facts((("cluster", cluster["cluster"]), ("automatic creation", bool(cluster["auto_create"]))))
        print_table(
            ("BROKER", "ID", "ADDRESS", "ROLE", "EPOCH", "HEARD", "LOG", "DISK", "TOPICS", "GROUPS", "IN", "OUT", "VERSION"),
            [_row(broker, facts.get(broker["broker"], {})) for broker in cluster["brokers"]],
        )
        if found:
            print_table(members.HEADER, members.rows(found))
        for trouble in troubles:
            note(f"trouble: {trouble}")
    return FAILED if troubles else 0


def _row(broker: dict[str, Any], fact: dict[str, Any]) -> tuple[object, ...]:
    if not broker["master"]:
        fact = {}
    log = fact.get("log", {})
    return (
        broker["broker"],
        str(broker["broker_id"]),
        broker["address"],
        "master" if broker["master"] else "slave",
        str(broker["epoch"]),
        f"{broker['heard_ms_ago'] / 1000:.1f} s ago",
        format_size(log["end"] - log["start"]) if log else None,
        f"{fact['disk']['used_ratio']:.0%}" if "disk" in fact else None,
        fact.get("topics"),
        fact.get("groups"),
        fact.get("messages_in"),
        fact.get("messages_out"),
        broker["version"],
    )


def _masterless(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    served = {broker["broker"] for broker in cluster["brokers"] if broker["master"]}
    return [broker for broker in cluster["brokers"] if broker["broker"] not in served]


def _troubles(name: str, fact: dict[str, Any]) -> list[str]:
    if "error" in fact:
        return [f"broker {name} does not answer: {fact['error']}"]
    troubles = []
    if fact.get("disk", {}).get("full"):
        troubles.append(f"the disk of broker {name} is full: it refuses messages")
    if fact.get("log", {}).get("damaged"):
        troubles.append(f"the log of broker {name} is damaged; see: kourou log verify")
    return troubles
