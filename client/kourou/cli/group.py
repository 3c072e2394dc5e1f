"""``kourou group``: consumer groups, their members, offsets and lag."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import USAGE, CommandFailed
from kourou.cli.output import print_facts, print_json, print_table
from kourou.cli.values import format_time, parse_queue, parse_start

Shape = Literal["stream", "shared"]


def create(
    name: str,
    /,
    *,
    fifo: Annotated[bool, Parameter(negative=(), help="Recorded; the topic decides about order.")] = False,
    max_attempts: Annotated[int, Parameter(help="Deliveries before a message counts as dead.")] = 16,
    shape: Annotated[Shape | None, Parameter(help="Left open, the first use decides.")] = None,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Create a consumer group. One that exists already with the same definition is left as it is."""
    created = ask(server, lambda client: client.create_group(name, shape=shape, fifo=fifo, max_attempts=max_attempts))
    if output == "json":
        print_json({"group": name, "shape": shape, "fifo": fifo, "max_attempts": max_attempts, "created": created})
    else:
        print(f"created group {name}" if created else f"group {name} is there already")


def list_(*, server: Server = None, output: Output = "table") -> None:
    """List consumer groups."""
    groups = ask(server, lambda client: client.groups())
    if output == "json":
        print_json(groups)
        return
    rows = [
        (g["group"], g["shape"] or "open", g["fifo"], str(g["max_attempts"]), format_time(g["created_ms"])) for g in groups
    ]
    print_table(("GROUP", "SHAPE", "FIFO", "ATTEMPTS", "CREATED"), rows)


def describe(name: str, /, *, server: Server = None, output: Output = "table") -> None:
    """Show a group's members with their queues, and of every queue what is committed and how far it lags behind."""
    group = ask(server, lambda client: client.describe_group(name))
    if output == "json":
        print_json(group)
        return
    print_facts(
        (
            ("group", group["group"]),
            ("shape", group["shape"] or "open"),
            ("fifo", group["fifo"]),
            ("max attempts", group["max_attempts"]),
            ("members", len(group["members"])),
            ("lag", group["lag"]),
        )
    )
    if group["members"]:
        rows = [
            (
                m["client"],
                m["remote"],
                m["topic"],
                m["mode"],
                ", ".join(m["tags"]) if m["tags"] else "all",
                " ".join(f"{broker}:{queue}" for broker, queue in m["queues"]) or "-",
            )
            for m in group["members"]
        ]
        print_table(("CLIENT", "FROM", "TOPIC", "MODE", "TAGS", "QUEUES"), rows)
    if group["queues"]:
        queues = [
            (q["topic"], q["broker"], q["queue"], q["min"], q["max"], q["committed"], q["lag"]) for q in group["queues"]
        ]
        print_table(("TOPIC", "BROKER", "QUEUE", "MIN", "MAX", "COMMITTED", "LAG"), queues)


def reset(
    name: str,
    topic: str,
    /,
    *,
    to: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="earliest, latest, offset:N, or a time: 2026-01-31T12:00, -15m.")
    ],
    queue: Annotated[str | None, Parameter(help="Only this queue: its number, or BROKER:NUMBER.")] = None,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Set where a group reads a topic from. Members that are reading are moved."""
    start = parse_start(to, now_ms=time.time_ns() // 1_000_000)
    broker, number = parse_queue(queue) if queue is not None else (None, None)
    moved = ask(server, lambda client: client.reset_offsets(name, topic, to=start, queue=number, broker=broker))
    if output == "json":
        print_json(moved)
    else:
        rows = [(q["broker"], q["queue"], q["from"], q["to"]) for q in moved]
        print_table(("BROKER", "QUEUE", "FROM", "TO"), rows)


def delete(name: str, /, *, server: Server = None, output: Output = "table") -> None:
    """Delete a group and its offsets. Its members are cut off."""
    if not ask(server, lambda client: client.delete_group(name)):
        raise CommandFailed(f"group {name!r} does not exist")
    if output == "json":
        print_json({"group": name, "deleted": True})
    else:
        print(f"deleted group {name}")


def update(
    name: str,
    /,
    *,
    max_attempts: Annotated[int | None, Parameter(help="Deliveries before a message counts as dead.")] = None,
    retry: Annotated[
        str | None, Parameter(help="Delays between attempts, the last goes on: 1s,5s,1m; or exponential:1s,2h,2.")
    ] = None,
    fifo: Annotated[bool | None, Parameter(help="Recorded; the topic decides about order.")] = None,
    exclusive: Annotated[bool | None, Parameter(help="One subscriber at a time for each lite topic.")] = None,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Change a consumer group; what is not given stays. Consumers that are connected are told."""
    policy = parse_retry(retry) if retry is not None else None
    changed = ask(
        server,
        lambda client: client.update_group(name, max_attempts=max_attempts, retry=policy, fifo=fifo, exclusive=exclusive),
    )
    if output == "json":
        print_json({"group": name, "changed": changed})
    else:
        print(f"changed group {name}" if changed else f"group {name} is that way already")


def set_subscription(
    name: str,
    topic: str,
    /,
    *,
    filter_: Annotated[str | None, Parameter(name="--filter", help="Tags (a || b), or with --sql a condition.")] = None,
    sql: Annotated[bool, Parameter(negative=(), help="--filter is SQL over properties.")] = False,
    clear: Annotated[bool, Parameter(negative=(), help="What the members agree on holds again.")] = False,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Set what all members of a shared group get of a topic, whatever they ask for: for changing it member by member."""
    if clear == (filter_ is not None):
        raise CommandFailed("say what the members get: --filter, or --clear", status=USAGE)
    kind = "sql" if sql else "tag"
    changed = ask(server, lambda client: client.set_subscription(name, topic, filter=filter_, filter_kind=kind))
    if output == "json":
        print_json({"group": name, "topic": topic, "changed": changed})
    else:
        print(f"set for group {name}" if changed else f"group {name} has it already")


def parse_retry(text: str) -> object:
    """``1s,5s,1m`` or ``exponential:initial,max,multiplier``. Raises CommandFailed."""
    kind, colon, rest = text.partition(":")
    try:
        if colon and kind == "exponential":
            initial, most, *factor = rest.split(",")
            multiplier = float(factor[0]) if factor else 2.0
            return {"initial_ms": _delay_ms(initial), "max_ms": _delay_ms(most), "multiplier": multiplier}
        return [_delay_ms(part) for part in text.split(",")]
    except ValueError:
        raise CommandFailed(f"--retry: {text!r} is not like 1s,5s,1m or exponential:1s,2h,2", status=USAGE) from None


def _delay_ms(text: str) -> int:
    units = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
    unit = next((unit for unit in ("ms", "s", "m", "h") if text.strip().endswith(unit)), None)
    if unit is None:
        raise ValueError(text)
    return int(float(text.strip().removesuffix(unit)) * units[unit])
