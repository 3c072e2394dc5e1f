"""``kourou message``: look-ups in what is stored, and taking back what is not delivered yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import USAGE, CommandFailed
from kourou.cli.messages import body_text, message_json
from kourou.cli.output import note, print_facts, print_json, print_table
from kourou.cli.values import format_time, parse_time

if TYPE_CHECKING:
    from kourou.client import Client, ReceivedMessage

BODY_SHOWN = 80  # characters


def find(
    topic: str,
    /,
    *,
    id: Annotated[str | None, Parameter(help="Message id, as a receipt says it.")] = None,
    key: Annotated[str | None, Parameter(help="One of the message's keys; newest first.")] = None,
    time_: Annotated[
        str | None,
        Parameter(name="--time", allow_leading_hyphen=True, help="Stored from this time on: 2026-01-31T12:00, -15m."),
    ] = None,
    queue: Annotated[int | None, Parameter(help="Queue id; with --offset.")] = None,
    offset: Annotated[int | None, Parameter(help="Queue offset; with --queue.")] = None,
    broker: Annotated[str | None, Parameter(help="Only this broker's queues.")] = None,
    limit: Annotated[int, Parameter(help="At most this many.")] = 32,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Find messages by id, by key, by time, or by queue and offset. Exit status 1 when there are none."""
    ways = sum((id is not None, key is not None, time_ is not None, queue is not None or offset is not None))
    if ways != 1 or (queue is None) != (offset is None):
        raise CommandFailed("say what to find: --id, --key, --time, or --queue with --offset", status=USAGE)
    time_ms = None if time_ is None else parse_time(time_, now_ms=time.time_ns() // 1_000_000)

    async def work(client: Client) -> list[ReceivedMessage]:
        return await client.find(
            topic, id=id, key=key, time_ms=time_ms, queue=queue, offset=offset, broker=broker, limit=limit
        )

    found = ask(server, work)
    if output == "json":
        print_json([message_json(message) for message in found])
    elif found:
        rows = [
            (
                m.id,
                m.broker,
                str(m.queue),
                str(m.offset),
                format_time(m.store_ms),
                ", ".join(m.keys) or None,
                m.tag,
                body_text(m.body, characters_max=BODY_SHOWN),
            )
            for m in found
        ]
        print_table(("ID", "BROKER", "QUEUE", "OFFSET", "STORED", "KEYS", "TAG", "BODY"), rows)
    if not found:
        raise CommandFailed(f"topic {topic} holds no such message")


def explain(
    topic: str,
    id: Annotated[str | None, Parameter(help="Message id, as a receipt says it.")] = None,
    /,
    *,
    key: Annotated[str | None, Parameter(help="All messages with this key.")] = None,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Tell a message's whole life: stored, delivered to whom, put off, acknowledged, given up; and what each group thinks
    of it now."""
    if (id is None) == (key is None):
        raise CommandFailed("say which message: its id, or --key", status=USAGE)
    lives = ask(server, lambda client: client.explain(topic, id=id, key=key))
    if output == "json":
        print_json(lives)
        return
    for life in lives:
        facts = [("message", life["id"]), ("topic", f"{life['topic']}  queue {life['queue']}  offset {life['offset']}")]
        facts += [("broker", f"{life['broker']}  log offset {life['log_offset']}  epoch {life['epoch']}")]
        facts += [(name, state) for name, state in life["state"].items()]
        print_facts(facts)
        rows = [(format_time(event["ms"]), event["event"], _details(event)) for event in life["events"]]
        print_table(("TIME", "EVENT", ""), rows)
        if not life["complete"]:
            note("the log behind it is long: only its beginning was searched")


def _details(event: dict[str, Any]) -> str:
    shown = {name: value for name, value in event.items() if name not in ("ms", "event") and value != ""}
    if "until_ms" in shown:
        shown["until"] = format_time(shown.pop("until_ms"))
    return "  ".join(f"{name} {value}" for name, value in shown.items())


def recall(
    topic: str,
    handle: Annotated[str, Parameter(help="The recall handle of its receipt.")],
    /,
    *,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Take a delayed message back. Exit status 1 when it was delivered, or recalled, before."""

    async def work(client: Client) -> str:
        return await client.recall(topic, handle)

    recalled = ask(server, work)
    if output == "json":
        print_json({"topic": topic, "id": recalled})
    else:
        print(f"recalled message {recalled}")


def scheduled(
    topic: str,
    /,
    *,
    limit: Annotated[int, Parameter(help="At most this many.")] = 100,
    from_: Annotated[str | None, Parameter(name="--from", help="Due from this time on: 2026-01-31T12:00.")] = None,
    server: Server = None,
    output: Output = "table",
) -> None:
    """List messages that wait for their time, soonest first; each with what message recall takes."""
    from_ms = 0 if from_ is None else parse_time(from_, now_ms=time.time_ns() // 1_000_000)

    async def work(client: Client) -> tuple[int, list[dict[str, Any]]]:
        return await client.scheduled(topic, limit=limit, from_ms=from_ms)

    count, found = ask(server, work)
    if output == "json":
        print_json({"count": count, "messages": found})
        return
    rows = [(format_time(each["due_ms"]), each["broker"], str(each["queue"]), each["recall_handle"]) for each in found]
    print_table(("DUE", "BROKER", "QUEUE", "RECALL HANDLE"), rows)
    print(f"{len(found)} of {count} that wait")
