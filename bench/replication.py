"""What replication costs: a broker alone beside a master with one slave (--ack all --min-isr 2), in interleaved rounds.

    python bench/replication.py [--rounds 5] [--messages 100000] [--size 1024] [--serial 1000]

Prints the ratio of throughputs of each round, the medians of lone sends, and the CPU time of each process per message.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from kourou.client import Client
from kourou.core.errors import KourouError

SEND_MANY = 10_000
READY_S = 60.0


class Group:
    """A nameserver and one or two brokers."""

    def __init__(self, folder: Path, slaves: int) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        lines = self._start("nameserver", "nameserver", "--port", "0", "--grpc-port", "0", "--http-port", "0")
        self.server = _address(lines, "data plane")
        grpc = _address(lines, "gRPC").removeprefix("http://")
        replication = ("--ack", "all", "--min-isr", str(slaves + 1)) if slaves else ()
        for number in range(slaves + 1):
            self._start(
                "slave" if number else "master", "broker", "--broker-id", str(number), "--data", str(folder / str(number)),
                "--nameserver", grpc, "--port", "0", "--grpc-port", "0", "--http-port", "0", *replication,
            )  # fmt: skip

    def _start(self, name: str, *arguments: str) -> list[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kourou.cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.processes[name] = process
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if lines[-1] == "ready":
                return lines
        raise RuntimeError(f"{name} did not start: {lines}")

    def cpu_s(self) -> dict[str, float]:
        times = {name: psutil.Process(p.pid).cpu_times() for name, p in self.processes.items() if name != "nameserver"}
        return {name: found.user + found.system for name, found in times.items()}

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(30)


def _address(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(name)).rsplit(None, 1)[-1]


async def _topic(client: Client) -> None:
    """Once the master serves."""
    while True:
        try:
            await client.create_topic("bench", queues=8)
            return
        except KourouError:
            await asyncio.sleep(0.1)


async def produce(group: Group, options: argparse.Namespace) -> dict[str, Any]:
    body = bytes(options.size)
    async with Client(group.server) as client, client.producer(deadline_s=60) as producer:
        async with asyncio.timeout(READY_S):
            await _topic(client)
            await producer.send("bench", body)
        before, started = group.cpu_s(), time.perf_counter()
        for first in range(0, options.messages, SEND_MANY):
            await producer.send_many("bench", [body] * min(SEND_MANY, options.messages - first))
        seconds, after = time.perf_counter() - started, group.cpu_s()
        lone: list[float] = []
        for _ in range(options.serial):
            begun = time.perf_counter()
            await producer.send("bench", body)
            lone.append(time.perf_counter() - begun)
    return {
        "per_s": options.messages / seconds,
        "p50_us": statistics.median(lone) * 1e6,
        "cpu_us": {name: (after[name] - before[name]) / options.messages * 1e6 for name in after},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 5), ("messages", 100_000), ("size", 1024), ("serial", 1_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kourou-bench-") as folder:
        groups = {"alone": Group(Path(folder) / "alone", 0), "pair": Group(Path(folder) / "pair", 1)}
        try:
            rounds = []
            for number in range(options.rounds + 1):  # the first one warms up
                found = {name: asyncio.run(produce(group, options)) for name, group in groups.items()}
                if number:
                    rounds.append(found)
                    print(_line(number, found), flush=True)
            ratios = [found["pair"]["per_s"] / found["alone"]["per_s"] for found in rounds]
            print(f"median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
        finally:
            for group in groups.values():
                group.stop()


def _line(number: int, found: dict[str, Any]) -> str:
    alone, pair = found["alone"], found["pair"]
    cpu = ", ".join(f"{name} {spent:.2f}" for name, spent in pair["cpu_us"].items())
    return (
        f"round {number}: alone {alone['per_s']:,.0f}/s, pair {pair['per_s']:,.0f}/s, ratio {pair['per_s'] / alone['per_s']:.2f}; "
        f"lone send p50 {alone['p50_us']:.0f} and {pair['p50_us']:.0f} us; "
        f"CPU us a message: alone {alone['cpu_us']['master']:.2f}, {cpu}"
    )


if __name__ == "__main__":
    main()
