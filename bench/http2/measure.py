"""CPU of the server a call, and calls a second, under one Go client: bench/http2/measure.py [--seconds 5] [--rounds 3].

Builds the client with Go into .cache/, starts serve.py for every engine, and reads the server's CPU time from the system.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / ".cache/bench-http2/load"
CELLS: list[tuple[str, str, list[str]]] = [
    ("own", "bare", ["-method", "/bench/echo"]),
    ("own", "bare, future", ["-method", "/bench/future"]),
    ("own", "bare, coroutine", ["-method", "/bench/task"]),
    ("own", "metadata + deadline", ["-method", "/bench/echo", "-metadata"]),
    ("own", "metadata + deadline, future", ["-method", "/bench/future", "-metadata"]),
    ("own", "1 KiB, metadata + deadline, future", ["-method", "/bench/future", "-metadata", "-bytes", "1024"]),
    ("own", "the same over TLS", ["-method", "/bench/future", "-metadata", "-bytes", "1024", "-tls"]),
    ("own", "the same, one call at a time", ["-method", "/bench/future", "-metadata", "-bytes", "1024", "-calls", "1"]),
    ("grpcio", "bare, coroutine", ["-method", "/bench/task"]),
    ("grpcio", "1 KiB, metadata + deadline, future", ["-method", "/bench/future", "-metadata", "-bytes", "1024"]),
]


def build() -> None:
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-mod=mod", "-o", str(BINARY), "."], cwd=Path(__file__).parent / "load", check=True)


def cpu_ns(pid: int) -> int:
    """By the scheduler's account: the other one counts ticks, which a process that yields before each of them escapes."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def cell(engine: str, options: list[str], seconds: float) -> tuple[float, float, float, float]:
    """CPU µs a call, calls a second, p50 and p99 in ms."""
    paths = os.pathsep.join(str(ROOT / source) for source in ("proto", "core"))
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "serve.py"), "0", engine],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert server.stdout is not None
        address = f"127.0.0.1:{server.stdout.readline().strip()}"
        load = [str(BINARY), "-address", address, *options]
        subprocess.run([*load, "-seconds", "1"], check=True, stdout=subprocess.DEVNULL)
        before = cpu_ns(server.pid)
        result = json.loads(subprocess.run([*load, "-seconds", str(seconds)], check=True, capture_output=True).stdout)
        spent = cpu_ns(server.pid) - before
        return spent / result["calls"] / 1e3, result["per_s"], result["p50_ms"], result["p99_ms"]
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cells whose name has this")
    arguments = parser.parse_args()
    build()
    print("| engine | call | CPU µs a call | calls/s | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for engine, name, options in CELLS:
        if arguments.only not in f"{engine} {name}":
            continue
        rounds = [cell(engine, options, arguments.seconds) for _ in range(arguments.rounds)]
        cpu, rate, p50, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
        low, high = min(row[0] for row in rounds), max(row[0] for row in rounds)
        print(f"| {engine} | {name} | {cpu:.1f} [{low:.1f}..{high:.1f}] | {rate:,.0f} | {p50:.2f} | {p99:.2f} |", flush=True)


if __name__ == "__main__":
    main()
