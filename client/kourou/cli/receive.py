"""``kourou receive``: reads a topic as a member of a group and prints what comes."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kourou.cli.asking import Server, ask
from kourou.cli.failures import USAGE, CommandFailed
from kourou.cli.messages import message_json, message_line
from kourou.cli.output import note, print_json_line
from kourou.cli.values import parse_start
from kourou.core.errors import GroupShapeMismatch

if TYPE_CHECKING:
    from kourou.client import Client, ReceivedMessage, SharedMessage

Form = Literal["table", "json", "body"]
POLL_S = 20.0


def receive(
    topic: str,
    /,
    *,
    group: Annotated[str, Parameter(help="The consumer group; its offsets move on.")],
    count: Annotated[int | None, Parameter(help="Stop after this many messages.")] = None,
    timeout: Annotated[float | None, Parameter(help="Stop when nothing has come for this many seconds.")] = None,
    start: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="Where the group begins if it has read nothing yet: earliest, latest, offset:N, or a time such as -15m.",
        ),
    ] = "earliest",
    tag: Annotated[tuple[str, ...], Parameter(name="--tag", negative=(), help="Only this tag; may be repeated.")] = (),
    shared: Annotated[
        bool, Parameter(negative=(), help="As a member of a shared group: each message is acknowledged once it is printed.")
    ] = False,
    sql: Annotated[str | None, Parameter(help="With --shared: only messages for which this condition holds.")] = None,
    lite_topic: Annotated[
        tuple[str, ...],
        Parameter(name="--lite-topic", negative=(), help="With --shared: of a lite topic, what to get; may be repeated."),
    ] = (),
    bury: Annotated[
        str | None, Parameter(help="With --shared: move each message to the dead letters, for this reason, once printed.")
    ] = None,
    broadcast: Annotated[bool, Parameter(negative=(), help="Receive everything, whatever others receive.")] = False,
    server: Server = None,
    output: Annotated[
        Form, Parameter(name=("--output", "-o"), help="table: one line a message; json: one object a line; body: as it is.")
    ] = "table",
) -> None:
    """Receive messages until --count or --timeout is reached, else until Ctrl-C.

    A message counts as received once it is printed. Exit status 1 when --timeout ends it before --count is reached.
    """
    if count is not None and count < 1:
        raise CommandFailed("--count must be above 0", status=USAGE)
    if timeout is not None and not timeout > 0:
        raise CommandFailed("--timeout must be above 0", status=USAGE)
    if shared and (broadcast or start != "earliest"):
        raise CommandFailed("--shared goes with neither --broadcast nor --start", status=USAGE)
    if sql is not None and (not shared or tag):
        raise CommandFailed("--sql goes with --shared, and without --tag", status=USAGE)
    if not shared and (lite_topic or bury is not None):
        raise CommandFailed("--lite-topic and --bury go with --shared", status=USAGE)
    begin = parse_start(start, now_ms=time.time_ns() // 1_000_000)
    wanted = "broadcast" if broadcast else "stream"

    async def work(client: Client) -> int:
        consumer = client.consumer(topic, group=group, start=begin, tags=tag or None, mode=wanted)
        received = 0
        async with consumer:
            while count is None or received < count:
                batch = await consumer.receive(timeout_s=timeout)
                if batch is None:
                    break
                for message in batch.messages():
                    if batch.revoked:
                        break  # it belongs to another member now, which starts from what is committed
                    _print(message, output)
                    received += 1
                    consumer.done(message)
                    if received == count:
                        break
                else:
                    batch.done()
                sys.stdout.flush()
        return received

    async def work_shared(client: Client) -> int:
        from kourou.client import Sql

        wanted = Sql(sql) if sql is not None else " || ".join(tag) or None
        received = 0
        async with client.shared_consumer(topic, group=group, filter=wanted, lite=lite_topic or None) as consumer:
            while count is None or received < count:
                limit = 32 if count is None else min(32, count - received)
                messages = await consumer.receive(limit, wait_s=POLL_S if timeout is None else timeout)
                if not messages and timeout is not None:
                    break
                for message in messages:
                    _print(message, output)
                    received += 1
                sys.stdout.flush()
                await asyncio.gather(*(m.ack() if bury is None else m.bury(bury) for m in messages))
        return received

    try:
        received = ask(server, work_shared if shared else work)
    except GroupShapeMismatch as failure:
        hint = "leave --shared out" if shared else "add --shared"
        raise CommandFailed(f"{failure}; {hint}") from None
    if count is not None and received < count:
        raise CommandFailed(f"received {received} of {count} messages; none came for {timeout:g} s")
    if sys.stderr.isatty():
        note(f"received {received:,} messages")


def _print(message: ReceivedMessage | SharedMessage, output: Form) -> None:
    if output == "json":
        print_json_line(message_json(message))
    elif output == "body":
        sys.stdout.buffer.write(message.body + b"\n")
    else:
        print(message_line(message))
