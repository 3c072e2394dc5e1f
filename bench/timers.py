#!/usr/bin/env python3
"""Ten million delayed messages: memory, files, time to open after kill -9, lateness.

    timers.py [--timers 10000000] [--days 40] [--size 100] [--data DIR] [--keep] [--out FILE]

A broker in a process of its own is given the timers as frames of 1,000, behind its data plane (their times are spread evenly
over the days). It is killed with -9, started three times as users start it (`kourou standalone`), killed each time, and then
probed: messages due within seconds, while it does nothing else; 50,000 that are due within a minute and lie in files; 20,000
that are due at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path
from statistics import median
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.append(HERE)
from node import RUN, Node, environment, server_python, use_sources
from report import table

TOPIC = "delays"
FRAME = 1000
QUEUES = 8
MIB = 1024 * 1024
Row = dict[str, Any]


def memory_mib() -> dict[str, int]:
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(("VmRSS", "VmHWM", "RssAnon")):
            name, value, _ = line.split()
            found[name.rstrip(":")] = int(value) // 1024
    return found


def folder_mib(data: Path, name: str, ending: str = "") -> float:
    return round(sum(path.stat().st_size for path in (data / name).glob(f"*{ending}")) / MIB, 1)


# ---- in the broker's process


class Broker:
    """A node without listeners: frames are handed to its journal."""

    def __init__(self, data: Path, size: int) -> None:
        from kourou.app.node import BrokerNode
        from kourou.app.options import BrokerOptions
        from kourou.core.filter import tags as _  # noqa: F401 - as much is imported as in a server
        from kourou.runtime import gc_tame
        from kourou.runtime.log import structlog
        from kourou.runtime.tasks import Periodic

        log = structlog.get_logger()
        self.data = data
        self.node = BrokerNode(BrokerOptions(data=data), log=log, on_failure=lambda reason: os._exit(3))
        started = time.perf_counter()
        self.node.open()
        self.opened_s = time.perf_counter() - started
        self.tasks = Periodic(log, on_bug=lambda reason: os._exit(4))
        self.node.keep_house(self.tasks)
        gc_tame.tame()
        self.body = os.urandom(size)
        self.late_ms: list[int] = []
        self.sequence = 0
        self.node.journal.on_confirmed(self._arrived)

    async def create(self) -> None:
        from kourou.core.route import Placement, TopicType

        state = self.node.state
        if state.topics.find(TOPIC) is None:
            placement = (Placement(self.node.options.name, QUEUES),)
            await self.node.journal.write(state.topics.create(TOPIC, TopicType.DELAY, placement, now_ms=self.now_ms()))

    @staticmethod
    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    async def store(self, due_times: array[int]) -> None:
        from kourou.broker.services.journal import FrameJob
        from kourou.broker.store.columns import check_columns
        from kourou.broker.store.store import CheckedFrame
        from kourou.core.frame import Column, parse_sealed, seal

        # the born time is the due time of the first: a copy of one then says how late it is
        sealed = seal(
            topic=TOPIC, queue_id=self.sequence % QUEUES, records=[self.body] * len(due_times), born_ms=due_times[0],
            columns={Column.DUE_TIMES: due_times},
        )  # fmt: skip
        self.sequence += 1
        header = parse_sealed(sealed)
        incarnation = self.node.state.topics.get(TOPIC).incarnation
        checked = CheckedFrame(
            sealed, header, int.from_bytes(sealed[-4:], "little"), incarnation, check_columns(sealed, 0, header)
        )
        future = asyncio.get_running_loop().create_future()
        self.node.journal.submit(FrameJob(checked, lambda *outcome: future.set_result(outcome)))
        _, _, failure = await future
        if failure is not None:
            raise failure

    def _arrived(self, arrived: Any) -> None:
        from kourou.core.frame import MOVED, Column, column

        for _, checked, placed in arrived:
            if checked.header.attributes & MOVED:
                deltas = column(checked.sealed, 0, checked.header, Column.BORN_DELTAS) or [0] * checked.header.record_count
                self.late_ms += [placed.store_ms - checked.header.born_ms - delta for delta in deltas]

    async def fill(self, timers: int, days: float) -> Row:
        import numpy as np

        random = np.random.default_rng(1)
        await self.create()
        started = time.perf_counter()
        rss_max = pages_max = 0
        for done in range(0, timers, FRAME):
            ahead = random.integers(600_000, int(days * 86_400_000), FRAME, dtype=np.int64)
            due = array("q")
            due.frombytes((ahead + self.now_ms()).tobytes())
            await self.store(due)
            if done % (FRAME * 256) == 0:
                await asyncio.sleep(0)
                rss_max = max(rss_max, memory_mib()["VmRSS"])
                pages_max = max(pages_max, self.node.state.timers.pages)
        stored_s = time.perf_counter() - started
        async with asyncio.timeout(600):
            while self.node.state.timers.fresh_pages >= 64 or self.node.store.index.sealing():
                await asyncio.sleep(0.5)
        await self.node.upkeep.snapshot()
        return {
            "timers pending": len(self.node.state.timers),
            "stored a second": round(timers / stored_s),
            "seconds until moved": round(time.perf_counter() - started - stored_s, 1),
            "most pages in memory": pages_max,
            "buckets": len(self.node.state.timers.buckets),
            "RSS, highest while filled MiB": rss_max,
            "RSS afterwards MiB": memory_mib()["VmRSS"],
            "of it anonymous MiB": memory_mib()["RssAnon"],
            "loop held at most ms": round(self.node.lag.max_ms, 1),
        }

    async def until(self, count: int, patience_s: float) -> list[int]:
        async with asyncio.timeout(patience_s):
            while len(self.late_ms) < count:
                await asyncio.sleep(0.01)
        late, self.late_ms = sorted(self.late_ms), []
        return late

    async def probe(self) -> list[Row]:
        rows: list[Row] = []

        def row(what: str, late: list[int], **more: Any) -> None:
            rows.append({
                "probe": what, "messages": len(late), "earliest ms": late[0], "p50 ms": median(late),
                "p99 ms": late[len(late) * 99 // 100], "latest ms": late[-1], **more,
            })  # fmt: skip

        self.late_ms.clear()
        for number in range(200):
            await self.store(array("q", [self.now_ms() + 1_000 + number % 50 * 20]))
            await asyncio.sleep(0.02)
        row("one at a time, from memory, idle", await self.until(200, 60))
        start = self.now_ms() + 75_000
        for number in range(50_000):
            if number % 100 == 0:
                await self.store(array("q", [start + number]))
        for number in range(0, 50_000, 500):
            await self.store(array("q", [start + number] * 499))
        before = len(self.node.state.timers.buckets)
        await self.node.timers.keeper.release(1 << 62)
        assert len(self.node.state.timers.buckets) > before, "they should lie in a bucket"
        expected = 500 + 100 * 499
        row("1,000 a second in lumps of 499, from a bucket", await self.until(expected, 300))
        due = self.now_ms() + 3_000
        for _ in range(20):
            await self.store(array("q", [due] * FRAME))
        row("all due at once, from memory", await self.until(20 * FRAME, 300))
        return rows


async def inside(what: str, data: Path, timers: int, days: float, size: int) -> None:
    broker = Broker(data, size)
    answer: Any
    if what == "fill":
        answer = await broker.fill(timers, days)
    else:
        answer = {"pending": len(broker.node.state.timers), "open_s": broker.opened_s, "memory": memory_mib()}
        await broker.create()
        answer["rows"] = await broker.probe()
        answer["memory after"] = memory_mib()
        answer["lag_ms"] = broker.node.lag.max_ms
    print("ANSWER " + json.dumps(answer), flush=True)
    await asyncio.Event().wait()  # until it is killed


# ---- outside


def run_inside(what: str, args: argparse.Namespace, data: Path) -> Any:
    process = subprocess.Popen(
        [server_python(), __file__, "--inside", what, "--data", str(data), "--timers", str(args.timers)]
        + ["--days", str(args.days), "--size", str(args.size)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit(f"error: the broker ended ({process.wait()}) while it was to {what}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timers", type=int, default=10_000_000)
    parser.add_argument("--days", type=float, default=40.0)
    parser.add_argument("--size", type=int, default=100, help="bytes of a body")
    parser.add_argument("--data", type=Path, default=RUN / "timers")
    parser.add_argument("--keep", action="store_true", help="leave the data directory")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", choices=("fill", "probe"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        use_sources()
        import uvloop

        uvloop.run(inside(args.inside, args.data, args.timers, args.days, args.size))
        return
    shutil.rmtree(args.data, ignore_errors=True)
    args.data.mkdir(parents=True)
    filled = run_inside("fill", args, args.data)
    newest = max((args.data / "snapshots").glob("*.snap"))
    filled["log MiB"] = folder_mib(args.data, "log")
    filled["bucket files MiB"] = folder_mib(args.data, "timers")
    filled["newest snapshot MiB"] = round(newest.stat().st_size / MIB, 1)
    opened = []
    for _ in range(3):
        node = Node(args.data, log="timers")
        opened.append(node.ready_s)
        node.kill()
    filled["ready after kill -9, s"] = " ".join(f"{ready_s:.2f}" for ready_s in opened)
    probed = run_inside("probe", args, args.data)
    filled["of it opening the store, s"] = round(probed["open_s"], 2)
    filled["pending after that"] = probed["pending"]
    filled["RSS after opening MiB"] = probed["memory"]["VmRSS"]
    filled["RSS after the probes MiB"] = probed["memory after"]["VmRSS"]
    names = list(probed["rows"][0])
    rows = [[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in filled.items()]
    lines = table(f"{args.timers:,} pending timers of {args.size} B over {args.days:g} days", ("what", "measured"), rows)
    lines += table("Lateness with them pending", names, [[f"{row[name]}" for name in names] for row in probed["rows"]])
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
    if not args.keep:
        shutil.rmtree(args.data, ignore_errors=True)


if __name__ == "__main__":
    main()
