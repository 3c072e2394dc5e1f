#!/usr/bin/env python3
"""What grows with the backlog, and what must not.

    growth.py [--quick] [--only messages,queues,open] [--gib 10] [--messages 10000000] [--queues 100000] [--cold] [--out FILE]

messages  one topic of 8 queues filled to 10^4 .. 10^7 messages of 100 B. At each step a probe: the cost of the next messages
          (produce, wall and server CPU), of reading the oldest and the newest ones, of fetches at random places, of a lone
          send, and the node's memory.
queues    1 .. 100,000 queues with the same frames in each: cost a message to produce and to consume, memory.
open      a log of 10 GiB, memory at each GiB; then kill -9, start, first acknowledged message, three times (--cold drops
          the machine's page cache before, as root); and the first fetch from the middle of the backlog.

Everything is bounded: a step that takes longer than --patience seconds is reported as such and ends its part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.append(HERE)
from node import RUN, Node, load, use_sources
from report import table

GIB = 1 << 30
Row = dict[str, Any]


def ask(server: str, work: Callable[[Any], Any]) -> Any:
    """Run a coroutine function with an open client."""
    use_sources()
    from kourou.client import Client

    async def go() -> Any:
        async with Client(server, timeout_s=60) as client:
            return await work(client)

    return asyncio.run(go())


async def lone_sends(client: Any, topic: str, *, count: int = 500) -> float:
    """p50 in us of sends one after the other."""
    taken = []
    async with client.producer() as producer:
        for _ in range(count):
            started = time.perf_counter()
            await producer.send(topic, b"x" * 100)
            taken.append((time.perf_counter() - started) * 1e6)
    return median(taken)


async def random_fetches(client: Any, topic: str, *, count: int = 300, bytes_max: int = 4096) -> float:
    """p50 in us of small fetches anywhere in the backlog, offsets drawn beforehand."""
    rng = random.Random(7)
    bounds = [(queue["broker"], queue["queue"], queue["min"], queue["max"]) for queue in await client.offsets(topic)]
    bounds = [place for place in bounds if place[3] > place[2]]
    taken = []
    for _ in range(count):
        broker, queue, low, high = rng.choice(bounds)
        started = time.perf_counter()
        await client.fetch(topic, queue, rng.randrange(low, high), broker=broker, bytes_max=bytes_max)
        taken.append((time.perf_counter() - started) * 1e6)
    return median(taken)


async def read_from(client: Any, topic: str, start: Any, count: int) -> float:
    """us a message to read ``count`` by a group that starts there."""
    group = f"g-{random.getrandbits(48):x}"
    seen = 0
    async with client.consumer(topic, group=group, start=start) as consumer:
        started = time.perf_counter()
        async for batch in consumer.batches():
            seen += len(batch.bodies())
            if seen >= count:
                batch.done()
                break
        await consumer.commit()
        taken = (time.perf_counter() - started) / seen * 1e6
    await client.delete_group(group)
    return taken


def reads(few: int, newest: int) -> Callable[[Any], Any]:
    """What is asked of a backlog besides producing; ``newest``: the queue offset from which about ``few`` are left."""

    async def work(client: Any) -> Row:
        return {
            "oldest_us": await read_from(client, "growth", "earliest", few),
            "newest_us": await read_from(client, "growth", {"offset": newest}, few // 2),
            "fetch_p50_us": await random_fetches(client, "growth"),
            "send_p50_us": await lone_sends(client, "alone"),
        }

    return work


def by_messages(given: argparse.Namespace, data: Path) -> list[Row]:
    rows: list[Row] = []
    probe, queues, size = 20_000 if given.quick else 100_000, 8, 100
    options = (
        "--size",
        str(size),
        "--queues",
        str(queues),
        "--batch-bytes",
        str(size * 256),
    )  # frames of 256, everywhere alike
    with Node(data, log="growth") as node:
        load("produce", node, "warm", 100_000, *options)
        there = 0
        for step in steps(10_000, given.messages):
            if step > there:
                load("produce", node, "growth", step - there, *options, timeout_s=given.patience)
            figures = load("produce", node, "growth", probe, *options, timeout_s=given.patience)
            there = step + probe
            rss, anonymous = node.memory_mb()
            few = min(probe, step)
            newest = (there - few) // queues
            row: Row = {"messages": step, "produce_us": 1e6 / figures["per_s"], "server_us": figures["server_us"]}
            row |= ask(node.server, reads(few, newest))
            rows.append({**row, "rss_mb": rss, "anonymous_mb": anonymous})
            say(f"messages {step:,}", rows[-1])
    return rows


def by_queues(given: argparse.Namespace, data: Path) -> list[Row]:
    """Frames of 16 messages, eight a queue; more where that were too little to be timed (the column tells)."""
    rows: list[Row] = []
    per_frame, size, frames = 16, 100, 2 if given.quick else 8
    for count in steps(1, given.queues):
        shutil.rmtree(data, ignore_errors=True)
        messages = count * frames * per_frame
        options = ("--size", str(size), "--queues", str(count), "--batch-bytes", str(size * per_frame))
        produced = max(messages, 50_000 if given.quick else 200_000)
        row: Row = {"queues": count, "messages": produced, "frames_a_queue": round(produced / count / per_frame)}
        rows.append(row)
        with Node(data, log="growth") as node:
            load("produce", node, "warm", 50_000, "--size", str(size), "--batch-bytes", str(size * per_frame))
            before = node.memory_mb()
            try:
                figures = load("produce", node, "queues", produced, *options, timeout_s=given.patience)
                row |= {"produce_us": 1e6 / figures["per_s"], "server_us": figures["server_us"]}
                row |= {"rss_mb": node.memory_mb()[0], "grown_mb": node.memory_mb()[0] - before[0]}
                row["send_p50_us"] = ask(node.server, lambda c: lone_sends(c, "alone"))
                figures = load("consume", node, "queues", produced, "--size", str(size), timeout_s=given.patience)
                row |= {"consume_us": 1e6 / figures["per_s"], "consume_server_us": figures["server_us"]}
                row["consume_rss_mb"] = node.memory_mb()[0]
            except Exception as failure:  # the part ends here, said loudly
                row["failed"] = f"{type(failure).__name__}: {str(failure)[:200]}"
                say(f"queues {count:,}", row)
                break
            row |= reopen(node, data)
        say(f"queues {count:,}", row)
    return rows


def reopen(node: Node, data: Path) -> Row:
    """kill -9, and how long until a message is acknowledged again."""
    node.kill()
    with Node(data, log="growth") as again:
        ask(again.server, lambda c: lone_sends(c, "alone", count=1))
        return {
            "ready_s": again.ready_s,
            "first_ack_s": time.monotonic() - again.started,
            "reopened_rss_mb": again.memory_mb()[0],
        }


def by_opening(given: argparse.Namespace, data: Path) -> list[Row]:
    size = 1024
    whole = int(given.gib * GIB)
    free = shutil.disk_usage(RUN).free
    if free < 2 * whole:
        print(f"SKIPPED open: {free / GIB:.1f} GiB are free under {RUN}, {2 * whole / GIB:.1f} are wanted", file=sys.stderr)
        return []
    rows: list[Row] = []
    part = min(whole, GIB) // size
    options = ("--size", str(size), "--queues", "8")
    node = Node(data, log="growth")
    try:
        for number in range(max(1, whole // GIB)):
            figures = load("produce", node, "open", part, *options, timeout_s=given.patience)
            rss, anonymous = node.memory_mb()
            gib = (number + 1) * part * size / GIB
            rows.append({"gib": gib, "produce_us": 1e6 / figures["per_s"], "server_us": figures["server_us"], "rss_mb": rss,
                         "anonymous_mb": anonymous})  # fmt: skip
            say(f"log of {gib:.2f} GiB", rows[-1])
    finally:
        node.kill()
    for number in range(3):
        if given.cold:
            drop_caches()
        with Node(data, log="growth") as node:
            row: Row = {"opened": number + 1, "gib": rows[-1]["gib"], "ready_s": node.ready_s}
            ask(node.server, lambda c: lone_sends(c, "alone", count=1))
            row["first_ack_s"] = time.monotonic() - node.started  # our client's imports and connection included
            row["fetch_p50_us"] = ask(node.server, lambda c: random_fetches(c, "open"))
            row["rss_mb"] = node.memory_mb()[0]
            load("produce", node, "open", 50_000, *options)  # a tail behind the last snapshot
            rows.append(row)
            say(f"opening {number + 1}", row)
            node.kill()
    return rows


def drop_caches() -> None:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as failure:
        print(f"the page cache stays warm: {failure}", file=sys.stderr)


def steps(low: int, high: int) -> list[int]:
    """low, ten times that, … and high."""
    found = []
    while low < high:
        found.append(low)
        low *= 10
    return [*found, high]


def say(what: str, row: Row) -> None:
    shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}
    print(f"{time.strftime('%H:%M:%S')} {what}: {shown}", file=sys.stderr, flush=True)


def show(title: str, rows: list[Row]) -> None:
    header = list(dict.fromkeys(name for row in rows for name in row))
    cells = [["" if name not in row else f"{row[name]:,.2f}" if isinstance(row[name], float) else str(row[name]) for name in header]
             for row in rows]  # fmt: skip
    print("\n".join(table(title, header, cells)))


def verdict(rows: list[Row], field: str, *, least: int, by: str) -> str:
    """The last figure over the first that is big enough to be timed well."""
    known = [row for row in rows if field in row and row[by] >= least]
    if len(known) < 2 or not known[0][field]:
        return f"{field}: -"
    return f"{field}: x{known[-1][field] / known[0][field]:.2f} from {known[0][by]:,} to {known[-1][by]:,} {by}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="messages,queues,open")
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--queues", type=int, default=100_000)
    parser.add_argument("--gib", type=float, default=10.0)
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each opening (root)")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for one step")
    parser.add_argument("--quick", action="store_true", help="10^5 messages, 1,000 queues, a quarter GiB")
    parser.add_argument("--out", type=Path, default=RUN / "growth.json")
    given = parser.parse_args()
    if given.quick:
        given.messages, given.queues, given.gib = (
            min(given.messages, 100_000),
            min(given.queues, 1_000),
            min(given.gib, 0.25),
        )
    data = RUN / "data" / "growth"
    parts = {"messages": by_messages, "queues": by_queues, "open": by_opening}
    results: dict[str, list[Row]] = {}
    for name in given.only.split(","):
        shutil.rmtree(data, ignore_errors=True)
        try:
            results[name] = parts[name](given, data)
        finally:
            shutil.rmtree(data, ignore_errors=True)
        given.out.write_text(json.dumps(results, indent=1))
    for name, rows in results.items():
        if name == "open":
            show("The log grows", [row for row in rows if "opened" not in row])
            show("Opening it after kill -9", [row for row in rows if "opened" in row])
        elif rows:
            show(f"Cost by {name}", rows)
            least = 10_000 if name == "messages" else 1
            fields = (
                "produce_us",
                "server_us",
                "oldest_us",
                "newest_us",
                "fetch_p50_us",
                "send_p50_us",
                "consume_us",
                "rss_mb",
            )
            for field in fields:
                if any(field in row for row in rows):
                    print(verdict(rows, field, least=least, by=name))


if __name__ == "__main__":
    main()
