#!/usr/bin/env python3
"""Ten million delayed messages: memory, files, start-up after kill -9 and after a clean stop, lateness, recall, listing.

    timers.py [--timers 10000000] [--days 40] [--size 100] [--data DIR] [--keep] [--out FILE]

`kourou standalone` as users start it is given the timers by the native client (their times are spread evenly over the days),
killed with -9 and started three times, stopped and started three times, and then probed over its data plane with all of
them pending: messages due within seconds, while it does nothing else; more than fit into memory, due within minutes, from
a file; many that are due at once; some of the ten million recalled; the next ones listed. Lateness is from the due time to
the moment a consumer has the message; the body says when it is due.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import struct
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.append(HERE)
from node import RUN, Node, use_sources
from pauses import percentile
from report import table

use_sources()
from kourou.client import Client, Message  # noqa: E402
from kourou.core.errors import InvalidRecallHandle  # noqa: E402

TOPIC, PROBES = "delays", "probes"
CHUNK = 20_000
CHUNKS = 3  # under way together
NEAR_S = 600  # none of the many is due sooner
RECALLS = 200
FROM_FILE, FROM_FILE_S, FROM_FILE_IN_S = 280_000, 140, 100  # more than stay in memory, over so long, in so long
AT_ONCE = 20_000
MIB = 1024 * 1024
Row = dict[str, Any]
_DUE = struct.Struct("<qI")


def folder_mib(data: Path, name: str, ending: str = "") -> float:
    return round(sum(path.stat().st_size for path in (data / name).glob(f"*{ending}")) / MIB, 1)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Memory:
    """The highest RSS of a node, looked at twice a second."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.most = self.anonymous = 0.0
        self.pages = 0.0

    async def watch(self) -> None:
        while True:
            rss, anonymous = self.node.memory_mb()
            self.most, self.anonymous = max(self.most, rss), max(self.anonymous, anonymous)
            metrics = await asyncio.to_thread(self.node.metrics)
            self.pages = max(self.pages, metrics["kourou_timer_pages"])
            await asyncio.sleep(0.5)


async def fill(node: Node, timers: int, days: float, size: int) -> tuple[Row, list[Any]]:
    """Send them all; facts, and the receipts of a few."""
    rng = random.Random(1)
    body = os.urandom(size)
    memory = Memory(node)
    watching = asyncio.create_task(memory.watch())
    before = node.metrics()
    receipts: list[Any] = []
    keep = max(1, timers // (RECALLS * 2))
    async with Client(node.server, timeout_s=120) as client, client.producer(deadline_s=600.0) as producer:
        await client.create_topic(TOPIC, type="delay", queues=8)
        started = time.perf_counter()

        async def send(first: int, count: int) -> None:
            now, span = time.time() + NEAR_S, days * 86_400 - NEAR_S - 60
            messages = [Message(body, deliver_at=now + rng.random() * span) for _ in range(count)]
            sent = await producer.send_many(TOPIC, messages)
            receipts.extend(sent[at] for at in range(count) if (first + at) % keep == 0)

        under_way: set[asyncio.Task[None]] = set()
        for first in range(0, timers, CHUNK):
            under_way.add(asyncio.create_task(send(first, min(CHUNK, timers - first))))
            if len(under_way) >= CHUNKS:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        for task in under_way:
            await task
        stored_s = time.perf_counter() - started
    await settled(node)
    moved_s = time.perf_counter() - started - stored_s
    watching.cancel()
    after = node.metrics()
    rss, anonymous = node.memory_mb()
    return {
        "pending": int(after["kourou_timers"]),
        "stored a second": round(timers / stored_s),
        "server's CPU us each": round(node.cpu_s() / timers * 1e6, 2),
        "seconds until moved to files": round(moved_s, 1),
        "RSS, highest while filled MiB": round(memory.most),
        "of it anonymous MiB": round(memory.anonymous),
        "most in memory": int(memory.pages) * 4096,
        "RSS afterwards MiB": f"{rss:.0f} ({anonymous:.0f} anonymous)",
        "buckets": int(after["kourou_timer_buckets"]),
        "loop held at p99.9, at most ms": percentile(before, after, 0.999),
        "loop held at most ms": round(after["kourou_loop_lag_max_ms"], 1),
    }, receipts


async def settled(node: Node) -> None:
    """Wait until no more of them move to files."""
    last, since = -1.0, time.monotonic()
    async with asyncio.timeout(600):
        while time.monotonic() - since < 3:
            await asyncio.sleep(0.5)
            metrics = await asyncio.to_thread(node.metrics)
            now = metrics["kourou_timer_pages"] * 1e6 + metrics["kourou_timer_buckets"]
            if now != last:
                last, since = now, time.monotonic()


def starts(data: Path, node: Node) -> tuple[Row, Node]:
    """Kill or stop it and start it again, three times each."""
    killed, stopped, stopping = [], [], []
    for _ in range(3):
        node.kill()
        node = Node(data, log="timers")
        killed.append(node.ready_s)
    for _ in range(3):
        began = time.monotonic()
        node.stop()
        stopping.append(time.monotonic() - began)
        node = Node(data, log="timers")
        stopped.append(node.ready_s)
    rss, anonymous = node.memory_mb()
    return {
        "ready after kill -9, s": " ".join(f"{each:.2f}" for each in killed),
        "a clean stop takes, s": " ".join(f"{each:.2f}" for each in stopping),
        "ready after it, s": " ".join(f"{each:.2f}" for each in stopped),
        "pending after that": int(node.metrics()["kourou_timers"]),
        "RSS after opening MiB": f"{rss:.0f} ({anonymous:.0f} anonymous)",
    }, node


# ---- probes


class Probe:
    def __init__(self, client: Client, consumer: Any, size: int) -> None:
        self.client = client
        self.producer = client.producer(deadline_s=120.0)
        self.messages = aiter(consumer)
        self.filler = os.urandom(max(0, size - _DUE.size))
        self.number = 0

    def message(self, due_ms: int) -> Message:
        self.number += 1
        return Message(_DUE.pack(due_ms, self.number) + self.filler, deliver_at=due_ms / 1000)

    async def take(self, what: str, count: int, patience_s: float) -> Row:
        """So many messages: how late they were, whether each queue's came in order and each one came once."""
        late: list[int] = []
        due: dict[int, list[int]] = {}
        numbers: set[int] = set()
        async with asyncio.timeout(patience_s):
            while len(late) < count:
                message = await anext(self.messages)
                arrived = now_ms()
                due_ms, number = _DUE.unpack_from(message.body)
                late.append(arrived - due_ms)
                due.setdefault(message.queue, []).append(due_ms)
                numbers.add(number)
        late.sort()
        return {
            "probe": what,
            "messages": count,
            "once each": len(numbers) == count,
            "in order": all(a <= b for times in due.values() for a, b in pairwise(times)),
            "earliest ms": late[0],
            "p50 ms": median(late),
            "p99 ms": late[count * 99 // 100],
            "latest ms": late[-1],
        }


async def probes(node: Node, size: int) -> list[Row]:
    rows: list[Row] = []
    async with Client(node.server, timeout_s=120) as client:
        await client.create_topic(PROBES, type="delay", queues=2)
        async with client.consumer(PROBES, group="probes", start="earliest") as consumer:
            probe = Probe(client, consumer, size)
            count = 200
            taking = asyncio.create_task(probe.take("one at a time, from memory, idle", count, 60))
            for number in range(count):
                await probe.producer.send_many(PROBES, [probe.message(now_ms() + 1_000 + number % 50 * 20)])
                await asyncio.sleep(0.02)
            rows.append(await taking)
            start = now_ms() + FROM_FILE_IN_S * 1000
            for first in range(0, FROM_FILE, CHUNK):
                some = range(first, first + CHUNK)
                dues = [start + number * FROM_FILE_S * 1000 // FROM_FILE for number in some]
                await probe.producer.send_many(PROBES, [probe.message(due_ms) for due_ms in dues])
            before = node.metrics()
            async with asyncio.timeout(60):
                while node.metrics()["kourou_timer_pages"] > 32:
                    await asyncio.sleep(0.5)
            rate = FROM_FILE // FROM_FILE_S
            rows.append(await probe.take(f"{rate:,} a second, from a file", FROM_FILE, FROM_FILE_IN_S + FROM_FILE_S + 120))
            after = node.metrics()
            rows[-1]["loop at most ms"] = percentile(before, after, 1.0)
            due_ms = now_ms() + 5_000
            await probe.producer.send_many(PROBES, [probe.message(due_ms) for _ in range(AT_ONCE)])
            rows.append(await probe.take("all due at once, from memory", AT_ONCE, 120))
            await probe.producer.close()
    return rows


async def recalls(node: Node, receipts: list[Any]) -> Row:
    """Recall some of the many, twice each; list the next ones."""
    took: list[float] = []
    refused = 0
    async with Client(node.server, timeout_s=120) as client:
        count, _ = await client.scheduled(TOPIC, limit=1)
        for receipt in receipts[:RECALLS]:
            began = time.perf_counter()
            assert await client.recall(TOPIC, receipt.recall_handle) == receipt.id
            took.append((time.perf_counter() - began) * 1000)
        for receipt in receipts[:RECALLS]:
            try:
                await client.recall(TOPIC, receipt.recall_handle)
            except InvalidRecallHandle:
                refused += 1
        began = time.perf_counter()
        left, listed = await client.scheduled(TOPIC, limit=1_000)
        list_ms = (time.perf_counter() - began) * 1000
        assert left == count - len(took)
        assert all(a["due_ms"] <= b["due_ms"] for a, b in pairwise(listed))
        began = time.perf_counter()
        assert await client.recall(TOPIC, listed[-1]["recall_handle"])
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return {
        "recalled by handle, then refused": f"{len(took) - 1}, {refused}",
        "a recall takes ms, p50 and most": f"{median(took):.1f}, {took[-1]:.1f}",
        "the next 1,000 are listed in ms": round(list_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timers", type=int, default=10_000_000)
    parser.add_argument("--days", type=float, default=40.0)
    parser.add_argument("--size", type=int, default=100, help="bytes of a body")
    parser.add_argument("--data", type=Path, default=RUN / "timers")
    parser.add_argument("--keep", action="store_true", help="leave the data directory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shutil.rmtree(args.data, ignore_errors=True)
    node = Node(args.data, log="timers")
    try:
        facts, receipts = asyncio.run(fill(node, args.timers, args.days, args.size))
        more, node = starts(args.data, node)
        facts |= more
        newest = max((args.data / "snapshots").glob("*.snap"))
        facts |= {
            "log MiB": folder_mib(args.data, "log"),
            "bucket files MiB": folder_mib(args.data, "timers"),
            "newest snapshot MiB": round(newest.stat().st_size / MIB, 1),
        }
        facts |= asyncio.run(recalls(node, receipts))
        rows = asyncio.run(probes(node, args.size))
        rss, anonymous = node.memory_mb()
        facts["RSS after the probes MiB"] = f"{rss:.0f} ({anonymous:.0f} anonymous)"
    finally:
        node.stop()
    shown = [[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in facts.items()]
    lines = table(f"{args.timers:,} pending timers of {args.size} B over {args.days:g} days", ("what", "measured"), shown)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines += table("Lateness with them pending", names, [[f"{row.get(name, '')}" for name in names] for row in rows])
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
    if not args.keep:
        shutil.rmtree(args.data, ignore_errors=True)


if __name__ == "__main__":
    main()
