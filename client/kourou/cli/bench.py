"""``kourou bench``: quick rates against a running server, with nothing but the client.

The comparison with other systems is ``make bench``; this answers "how fast is it here, over this network".
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, ask
from kourou.cli.failures import USAGE, CommandFailed
from kourou.cli.output import print_json, print_table, progress
from kourou.cli.values import format_size, parse_size

if TYPE_CHECKING:
    from kourou.client import Client

SEND_MANY = 10_000  # messages a call
WARM_UP = 50
SILENCE_S = 15.0


def bench(
    *,
    messages: Annotated[int, Parameter(help="To produce and to consume.")] = 200_000,
    size: Annotated[str, Parameter(help="Body of each, for example 100 or 1KiB.")] = "1KiB",
    queues: Annotated[int, Parameter(help="Of the topic that is made for it, and deleted after.")] = 8,
    serial: Annotated[int, Parameter(help="Messages sent one by one, for latency.")] = 1_000,
    server: Server = None,
    output: Output = "table",
) -> None:
    """Measure produce (send_many), consume (batches) and the latency of a lone send."""
    size_bytes = parse_size(size)
    if messages < 1 or queues < 1 or serial < 1:
        raise CommandFailed("--messages, --queues and --serial must be above 0", status=USAGE)
    result = ask(server, lambda client: _measure(client, messages, size_bytes, queues, serial))
    if output == "json":
        print_json({"messages": messages, "size_bytes": size_bytes, "queues": queues, **result})
        return
    rows = [
        (name, f"{messages:,}", f"{rate:,.0f}/s", f"{format_size(rate * size_bytes)}/s")
        for name, rate in (("produce, send_many", result["produce_per_s"]), ("consume, batches", result["consume_per_s"]))
    ]
    print_table(("WHAT", "MESSAGES", "RATE", "BODIES"), rows, title=f"bodies of {size_bytes:,} bytes, {queues} queues")
    latency = result["latency_us"]
    print_table(
        ("LONE SENDS", "P50 µs", "P99 µs", "MAX µs"), [(f"{serial:,}", latency["p50"], latency["p99"], latency["max"])]
    )


async def _measure(client: Client, messages: int, size: int, queues: int, serial: int) -> dict[str, Any]:
    topic = f"kourou-bench-{secrets.token_hex(4)}"
    group = f"{topic}-group"
    await client.create_topic(topic, queues=queues)
    try:
        with progress() as bars:
            produced = bars.add_task("produce", total=messages, note="")
            consumed = bars.add_task("consume", total=messages, note="")
            produce_per_s = await _produce(client, topic, messages, size, lambda n: bars.update(produced, completed=n))
            consume_per_s = await _consume(client, topic, group, messages, lambda n: bars.update(consumed, completed=n))
        latencies = await _latencies(client, topic, size, serial)
    finally:
        await client.delete_topic(topic)
        await client.delete_group(group)
    cuts = statistics.quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else latencies * 99
    return {
        "produce_per_s": round(produce_per_s),
        "consume_per_s": round(consume_per_s),
        "latency_us": {"p50": round(cuts[49]), "p99": round(cuts[98]), "max": round(max(latencies))},
    }


async def _produce(client: Client, topic: str, messages: int, size: int, update: Any) -> float:
    body = os.urandom(size)
    async with client.producer(deadline_s=60.0) as producer:
        await producer.send(topic, body)
        started = time.perf_counter()
        under_way: set[asyncio.Task[Any]] = set()
        for first in range(0, messages, SEND_MANY):
            part = [body] * min(SEND_MANY, messages - first)
            under_way.add(asyncio.create_task(producer.send_many(topic, part)))
            if len(under_way) >= 4:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            update(first)
        await asyncio.gather(*under_way)
        update(messages)
        return messages / (time.perf_counter() - started)


async def _consume(client: Client, topic: str, group: str, messages: int, update: Any) -> float:
    """From the first batch on, so that joining the group does not count."""
    seen = 0
    started = 0.0
    async with client.consumer(topic, group=group) as consumer:
        while seen < messages + 1:
            batch = await consumer.receive(timeout_s=SILENCE_S)
            if batch is None:
                raise CommandFailed(f"{messages + 1 - seen} messages did not come")
            started = started or time.perf_counter()
            seen += len(batch.bodies())
            batch.done()
            update(seen)
        await consumer.commit()
        return seen / max(time.perf_counter() - started, 1e-9)


async def _latencies(client: Client, topic: str, size: int, serial: int) -> list[float]:
    body = os.urandom(size)
    async with client.producer() as producer:
        for _ in range(WARM_UP):
            await producer.send(topic, body)
        found = []
        for _ in range(serial):
            started = time.perf_counter()
            await producer.send(topic, body)
            found.append((time.perf_counter() - started) * 1e6)
        return found
