"""``kourou send``: one message, or a file line by line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import USAGE, CommandFailed
from kourou.cli.lines import Lines
from kourou.cli.output import note, print_facts, print_json, progress
from kourou.cli.values import format_time, parse_length, parse_property, parse_time

if TYPE_CHECKING:
    from kourou.client import Client, Receipt


def send(
    topic: str,
    body: Annotated[str | None, Parameter(help="The message; or give --file.")] = None,
    /,
    *,
    file: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="Send each line of this file as a message; - is standard input."),
    ] = None,
    key: Annotated[str | None, Parameter(help="To find the message by.")] = None,
    tag: Annotated[str | None, Parameter(help="To filter by.")] = None,
    property: Annotated[
        tuple[str, ...], Parameter(name="--property", negative=(), help="NAME=VALUE; may be repeated.")
    ] = (),
    message_group: Annotated[
        str | None,
        Parameter(name=("--message-group", "--group-key"), help="Messages of one group stay in order; fifo topics need it."),
    ] = None,
    delay: Annotated[
        str | None, Parameter(help="Deliver it after so long: 10s, 5m; delay topics need this or the next.")
    ] = None,
    deliver_at: Annotated[
        str | None, Parameter(name=("--deliver-at", "--at"), help="Deliver it at this time: 2026-01-31T12:00.")
    ] = None,
    priority: Annotated[int | None, Parameter(help="Higher is more urgent; priority topics need it.")] = None,
    lite_topic: Annotated[str | None, Parameter(help="Which lite topic inside; lite topics need it.")] = None,
    deadline: Annotated[float, Parameter(help="Seconds after which a message that is not stored has failed.")] = 10.0,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Send BODY, or each line of a file (without its line end) as a message of its own."""
    if (body is None) == (file is None):
        raise CommandFailed("give a BODY or --file, not both" if body is not None else "give a BODY or --file", status=USAGE)
    if not deadline > 0:
        raise CommandFailed("--deadline must be above 0", status=USAGE)
    if delay is not None and deliver_at is not None:
        raise CommandFailed("give --delay or --deliver-at, not both", status=USAGE)
    fields: dict[str, Any] = {"key": key, "tag": tag, "properties": dict(map(parse_property, property))}
    fields |= {"message_group": message_group, "priority": priority, "lite_topic": lite_topic}
    fields["delay"] = parse_length(delay) if delay is not None else None
    if deliver_at is not None:
        fields["deliver_at"] = parse_time(deliver_at, now_ms=time.time_ns() // 1_000_000) / 1000
    if body is not None:
        receipt = ask(server, lambda client: _send_one(client, topic, body, fields, deadline))
        _show_receipt(receipt, output)
        return
    assert file is not None
    started = time.monotonic()
    with Lines(file) as lines:
        sent = ask(server, lambda client: _send_lines(client, topic, lines, fields, deadline))
    seconds = time.monotonic() - started
    if output == "json":
        print_json({"topic": topic, "sent": sent, "seconds": round(seconds, 3)})
    else:
        print(f"sent {sent:,} messages to {topic} in {seconds:.1f} s")


async def _send_one(client: Client, topic: str, body: str, fields: dict[str, Any], deadline_s: float) -> Receipt:
    async with client.producer(deadline_s=deadline_s) as producer:
        return await producer.send(topic, body, **fields)


async def _send_lines(client: Client, topic: str, lines: Lines, fields: dict[str, Any], deadline_s: float) -> int:
    sent = 0
    started = time.monotonic()
    async with client.producer(deadline_s=deadline_s) as producer:
        with progress() as bar:
            task = bar.add_task(f"sending {lines.name}", total=lines.size or None, note="")
            while turn := await lines.next():
                taken = 0
                for line in turn:
                    await producer.post(topic, line, **fields)
                    taken += len(line) + 1
                sent += len(turn)
                rate = sent / max(1e-9, time.monotonic() - started)
                bar.update(task, advance=taken, note=f"{sent:,} messages, {rate:,.0f}/s")
            await producer.flush()
    if not sent:
        note(f"{lines.name} is empty: nothing was sent")
    return sent


def _show_receipt(receipt: Receipt, output: str) -> None:
    if output == "json":
        print_json(
            {
                "id": receipt.id,
                "topic": receipt.topic,
                "broker": receipt.broker,
                "queue": receipt.queue,
                "offset": receipt.offset,
                "store_ms": receipt.store_ms,
                "recall_handle": receipt.recall_handle,
            }
        )
        return
    print_facts(
        (
            ("id", receipt.id),
            ("queue", f"{receipt.broker}:{receipt.queue}"),
            ("offset", receipt.offset),
            ("stored", format_time(receipt.store_ms)),
            *((("recall handle", receipt.recall_handle),) if receipt.recall_handle is not None else ()),
        )
    )
