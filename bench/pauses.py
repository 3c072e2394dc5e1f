#!/usr/bin/env python3
"""How long the broker's event loop is held under W1 load (and W2, unless --no-consume).

    pauses.py [--seconds 20] [--size 1024] [--in-process] [--quick]

From outside: the histogram kourou_loop_lag_ms on /metrics, as a difference over the load. --in-process (default: both, one
after the other; --metrics for the first alone): a 1 ms timer inside the node, exact figures, and what held the loop.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.append(HERE)
from node import RUN, Node, environment, server_python

BUCKET = "kourou_loop_lag_ms_bucket "
TARGET_MS = 10.0


def percentile(before: dict[str, float], after: dict[str, float], share: float) -> float:
    """The upper bound of the bucket that holds it."""
    rows = sorted(
        (float(key[len(BUCKET) :]), value - before.get(key, 0)) for key, value in after.items() if key.startswith(BUCKET)
    )
    if not rows or rows[-1][1] <= 0:
        return float("nan")
    return next(bound for bound, count in rows if count >= share * rows[-1][1])


def drive(node: Node, *, seconds: float, size: int, consume: bool) -> dict[str, float]:
    """W1 load for about so long; with ``consume`` somebody reads along. Messages sent and seconds."""
    argv = [server_python(), "-P", f"{HERE}/load.py"]
    common = ["--server", node.server, "--topic", "pauses", "--size", str(size)]
    sent = 0
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        number = int(min(2_000_000, max(100_000, seconds * 50_000)))
        producing = subprocess.run(
            [*argv, "produce", *common, "--messages", str(number)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        if producing.returncode:
            raise RuntimeError(f"the load failed: {producing.stderr.strip().splitlines()[-1]}")
        sent += number
        if consume:
            reading = [*argv, "consume", *common, "--messages", str(number)]
            subprocess.run(reading, env=environment(), check=True, capture_output=True, timeout=600)
    return {"messages": sent, "seconds": round(time.monotonic() - started, 1)}


def from_metrics(given: argparse.Namespace, data: Path) -> dict[str, object]:
    with Node(data, log="pauses") as node:
        before = node.metrics()
        load = drive(node, seconds=given.seconds, size=given.size, consume=not given.no_consume)
        after = node.metrics()
        rss, _ = node.memory_mb()
    count = after["kourou_loop_lag_ms_count"] - before["kourou_loop_lag_ms_count"]
    return {
        **load,
        "samples": int(count),
        "p99_ms_at_most": percentile(before, after, 0.99),
        "p999_ms_at_most": percentile(before, after, 0.999),
        "highest_bucket_ms": percentile(before, after, 1.0),
        "max_ms_since_start": round(after["kourou_loop_lag_max_ms"], 3),
        "max_ms_before_load": round(before["kourou_loop_lag_max_ms"], 3),
        "rss_mb": round(rss),
    }


def in_process(given: argparse.Namespace, data: Path) -> dict[str, object]:
    found = RUN / "data" / "pauses.json"
    found.unlink(missing_ok=True)
    stacks = ("--no-stacks",) if given.no_stacks else ()
    with Node(data, inside=("--lag", str(found), *stacks), log="pauses") as node:
        node.process.send_signal(signal.SIGUSR1)
        load = drive(node, seconds=given.seconds, size=given.size, consume=not given.no_consume)
        node.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + 10
        while not found.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return {**load, **json.loads(found.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--metrics", action="store_true", help="only what /metrics says")
    parser.add_argument("--in-process", action="store_true", help="only the sampler inside")
    parser.add_argument(
        "--no-stacks", action="store_true", help="don't look who holds the loop (the looking takes the GIL now and then)"
    )
    parser.add_argument("--no-consume", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.seconds = min(given.seconds, 3.0)
    data = RUN / "data" / "pauses"
    results: dict[str, object] = {}
    both = given.metrics == given.in_process
    try:
        for name, wanted, measure in (
            ("metrics", given.metrics, from_metrics),
            ("in process", given.in_process, in_process),
        ):
            if wanted or both:
                shutil.rmtree(data, ignore_errors=True)
                results[name] = measure(given, data)
                print(f"{name}: {json.dumps(results[name], indent=1)}", flush=True)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
