"""``kourou dlq``: messages that a shared group gave up."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import USAGE, CommandFailed
from kourou.cli.output import print_json, print_table
from kourou.cli.values import format_time

Id = Annotated[list[str] | None, Parameter(name="--id", help="Only this one; may be repeated.")]
Wanted = Annotated[str | None, Parameter(name="--filter", help="Tags (a || b), or with --sql a condition.")]
Sql = Annotated[bool, Parameter(negative=(), help="--filter is SQL over properties.")]


def _kind(sql: bool) -> Literal["sql", "tag"]:
    return "sql" if sql else "tag"


def list_(
    group: str,
    /,
    *,
    filter_: Wanted = None,
    sql: Sql = False,
    limit: Annotated[int, Parameter(help="At most this many.")] = 32,
    server: Server = None,
    output: Output = "table",
) -> None:
    """List a group's dead letters, oldest first: where they came from, how often they were tried, and why they are here."""
    count, found = ask(
        server, lambda client: client.dead_letters(group, limit=limit, filter=filter_, filter_kind=_kind(sql))
    )
    if output == "json":
        print_json({"count": count, "messages": found})
        return
    rows = [
        (m["id"], m["topic"], m["attempts"], format_time(m["dead_ms"]), m["tag"] or "", " ".join(m["keys"]), m["reason"])
        for m in found
    ]
    print_table(("ID", "TOPIC", "ATTEMPTS", "SINCE", "TAG", "KEYS", "REASON"), rows)
    if count > len(found):
        print(f"{count} in all")


def redrive(
    group: str,
    /,
    *,
    id_: Id = None,
    filter_: Wanted = None,
    sql: Sql = False,
    limit: Annotated[int | None, Parameter(help="At most this many.")] = None,
    rate: Annotated[float, Parameter(help="Messages a second.")] = 100.0,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Send dead letters back to the topics they came from; only this group gets them."""
    if sql and filter_ is None:
        raise CommandFailed("--sql says of what kind --filter is; there is no --filter", status=USAGE)
    done = ask(
        server,
        lambda client: client.redrive(
            group, ids=id_ or None, filter=filter_, filter_kind=_kind(sql), limit=limit, rate=rate
        ),
    )
    if output == "json":
        print_json({"group": group, "redriven": done})
    else:
        print(f"sent back {done} messages")


def purge(
    group: str,
    /,
    *,
    id_: Id = None,
    filter_: Wanted = None,
    sql: Sql = False,
    limit: Annotated[int | None, Parameter(help="At most this many.")] = None,
    everything: Annotated[bool, Parameter(name="--all", negative=(), help="All of them.")] = False,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Throw dead letters away. Says what: --id, --filter or --all."""
    if sql and filter_ is None:
        raise CommandFailed("--sql says of what kind --filter is; there is no --filter", status=USAGE)
    if (not id_) + (filter_ is None) + (not everything) != 2:
        raise CommandFailed("say what to throw away: --id, --filter or --all", status=USAGE)
    done = ask(
        server,
        lambda client: client.purge_dead_letters(
            group, ids=id_ or None, filter=filter_, filter_kind=_kind(sql), limit=limit
        ),
    )
    if output == "json":
        print_json({"group": group, "purged": done})
    else:
        print(f"threw away {done} messages")
