"""``kourou topic``: definitions of topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import USAGE, CommandFailed
from kourou.cli.output import print_facts, print_json, print_table
from kourou.cli.values import format_time

if TYPE_CHECKING:
    from kourou.client import Client

Type = Literal["normal", "fifo", "delay", "transaction", "priority", "lite"]


def create(
    name: str,
    /,
    *,
    type: Annotated[Type, Parameter(help="What the topic takes.")] = "normal",
    queues: Annotated[int, Parameter(help="How many in all, spread over the broker groups.")] = 8,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Create a topic. One that exists already with the same definition is left as it is."""
    if queues < 1:
        raise CommandFailed("--queues must be above 0", status=USAGE)
    created = ask(server, lambda client: client.create_topic(name, type=type, queues=queues))
    if output == "json":
        print_json({"topic": name, "type": type, "queues": queues, "created": created})
    elif created:
        print(f"created topic {name} ({type}, {queues} queues)")
    else:
        print(f"topic {name} is there already ({type}, {queues} queues)")


def list_(*, server: Server = None, output: Output = "table") -> None:
    """List topics."""
    topics = ask(server, lambda client: client.topics())
    if output == "json":
        print_json(topics)
        return
    rows = [
        (t["topic"], t["type"], sum(n for _, n in t["placement"]), placement(t), format_time(t["created_ms"]))
        for t in topics
    ]
    print_table(("TOPIC", "TYPE", "QUEUES", "BROKERS", "CREATED"), rows)


def describe(name: str, /, *, server: Server = None, output: Output = "table") -> None:
    """Show a topic's queues and what they hold."""
    topic = ask(server, lambda client: client.describe_topic(name))
    if output == "json":
        print_json(topic)
        return
    held = sum(q["max"] - q["min"] for q in topic["queues"])
    print_facts(
        (
            ("topic", topic["topic"]),
            ("type", topic["type"]),
            ("brokers", placement(topic)),
            ("created", format_time(topic["created_ms"])),
            ("messages", held),
        )
    )
    rows = [(q["broker"], q["queue"], q["min"], q["max"], q["max"] - q["min"]) for q in topic["queues"]]
    print_table(("BROKER", "QUEUE", "MIN", "MAX", "MESSAGES"), rows)


def delete(
    name: str,
    /,
    *,
    missing_ok: Annotated[bool, Parameter(negative=(), help="A topic that is not there is no failure.")] = False,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Delete a topic and its messages, for good."""

    async def work(client: Client) -> bool:
        return await client.delete_topic(name)

    deleted = ask(server, work)
    if not deleted and not missing_ok:
        raise CommandFailed(f"topic {name!r} does not exist")
    if output == "json":
        print_json({"topic": name, "deleted": deleted})
    else:
        print(f"deleted topic {name}" if deleted else f"there is no topic {name}")


def placement(topic: dict[str, Any]) -> str:
    return ", ".join(f"{broker} x {count}" for broker, count in topic["placement"])
