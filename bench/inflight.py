#!/usr/bin/env python3
"""A shared group with a million messages in flight, and ten million behind it.

    inflight.py [--messages 1000000] [--backlog 10000000] [--data DIR] [--keep] [--out FILE]

`kourou standalone` as users start it and the native client. Messages of 100 bytes are received and not acknowledged; the
node is killed with -9 and started three times, stopped and started three times; then it is kept down until all leases are
over, so that all of them come back at one moment; they are received again and acknowledged. At last a backlog is sent, of
which a few are received.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.append(HERE)
from node import RUN, Node, load, use_sources
from pauses import percentile
from report import table

use_sources()
from kourou.client import Client  # noqa: E402

TOPIC, GROUP = "inflight", "slow"
QUEUES = 16  # a queue takes 100,000 in flight
SIZE = 100
A_RECEIVE = 128
CONSUMERS = 4
INVISIBLE_S = 90.0
MIB = 1024 * 1024
Row = dict[str, Any]


async def send(node: Node, messages: int) -> None:
    async with Client(node.server, timeout_s=120) as client, client.producer(deadline_s=120.0) as producer:
        await client.create_topic(TOPIC, queues=QUEUES)
        bodies = [os.urandom(SIZE)] * 50_000
        for first in range(0, messages, len(bodies)):
            await producer.send_many(TOPIC, bodies[: messages - first])


async def receive(node: Node, messages: int, *, invisible_s: float, ack: bool) -> list[float]:
    """So many; how long each receive took, ms."""
    took: list[float] = []
    left = messages

    async def work() -> None:
        nonlocal left
        async with Client(node.server, timeout_s=120) as client:
            async with client.shared_consumer(TOPIC, group=GROUP, invisible_s=invisible_s) as consumer:
                while left > 0:
                    began = time.perf_counter()
                    found = await consumer.receive(min(A_RECEIVE, left), wait_s=2)
                    took.append((time.perf_counter() - began) * 1000)
                    left -= len(found)
                    if ack:
                        await asyncio.gather(*(message.ack() for message in found))

    async with asyncio.timeout(900):
        await asyncio.gather(*(work() for _ in range(CONSUMERS)))
    return sorted(took)


class Held:
    """How long the loop was held meanwhile."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._before = node.metrics()

    def said(self) -> str:
        after = self._node.metrics()
        return ", ".join(f"{percentile(self._before, after, share):g}" for share in (0.99, 0.999, 1.0))


HELD = "loop held at p99, p99.9, most, at most ms"


def starts(data: Path, node: Node) -> tuple[Row, Node]:
    killed, stopped, stopping = [], [], []
    for _ in range(3):
        node.kill()
        node = Node(data, log="inflight")
        killed.append(node.ready_s)
    for _ in range(3):
        began = time.monotonic()
        node.stop()
        stopping.append(time.monotonic() - began)
        node = Node(data, log="inflight")
        stopped.append(node.ready_s)
    return {
        "ready after kill -9, s": " ".join(f"{each:.2f}" for each in killed),
        "a clean stop takes, s": " ".join(f"{each:.2f}" for each in stopping),
        "ready after it, s": " ".join(f"{each:.2f}" for each in stopped),
        "RSS after opening MiB": round(node.memory_mb()[0]),
        "newest snapshot MiB": round(max((data / "snapshots").glob("*.snap")).stat().st_size / MIB, 1),
    }, node


def in_flight(data: Path, node: Node, messages: int) -> tuple[Row, Node]:
    asyncio.run(send(node, messages))
    rss, _ = node.memory_mb()
    held, began = Held(node), time.perf_counter()
    asyncio.run(receive(node, messages, invisible_s=INVISIBLE_S, ack=False))
    took = time.perf_counter() - began
    over = time.monotonic() + INVISIBLE_S
    facts: Row = {"received a second": round(messages / took), HELD: held.said()}
    grown = node.memory_mb()[0] - rss
    facts |= {"RSS grew MiB": round(grown), "bytes of memory each": round(grown * MIB / messages)}
    more, node = starts(data, node)
    facts |= more
    node.stop()
    time.sleep(max(0.0, over - time.monotonic()) + 1)
    node = Node(data, log="inflight")
    facts["ready when all leases are over, s"] = round(node.ready_s, 2)
    held, began = Held(node), time.perf_counter()
    asyncio.run(receive(node, messages, invisible_s=INVISIBLE_S, ack=True))
    took = time.perf_counter() - began
    facts |= {"received again and acknowledged a second": round(messages / took), f"{HELD}, meanwhile": held.said()}
    return facts, node


def backlog(data: Path, node: Node, messages: int) -> tuple[Row, Node]:
    held = Held(node)
    sent = load("produce", node, TOPIC, messages, "--size", str(SIZE), "--queues", str(QUEUES))
    facts: Row = {"sent a second": int(sent["per_s"]), "RSS MiB": round(node.memory_mb()[0])}
    took = asyncio.run(receive(node, 400 * A_RECEIVE, invisible_s=INVISIBLE_S, ack=True))
    facts[f"a receive of {A_RECEIVE} takes ms, p50 and most"] = f"{median(took):.1f}, {took[-1]:.1f}"
    facts[HELD] = held.said()
    more, node = starts(data, node)
    return facts | more, node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--backlog", type=int, default=10_000_000)
    parser.add_argument("--data", type=Path, default=RUN / "inflight")
    parser.add_argument("--keep", action="store_true", help="leave the data directory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shutil.rmtree(args.data, ignore_errors=True)
    node = Node(args.data, log="inflight")
    lines: list[str] = []
    try:
        for title, facts_of, count in (
            ("{:,} messages in flight", in_flight, args.messages),
            ("{:,} messages behind a slow group", backlog, args.backlog),
        ):
            facts, node = facts_of(args.data, node, count)
            shown = [[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in facts.items()]
            found = table(title.format(count), ("what", "measured"), shown)
            print("\n".join(found), flush=True)
            lines += found
    finally:
        node.stop()
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    if not args.keep:
        shutil.rmtree(args.data, ignore_errors=True)


if __name__ == "__main__":
    main()
