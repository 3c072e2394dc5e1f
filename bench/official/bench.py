"""The official API beside Apache RocketMQ's own proxy: raw calls from Go, and the official Python and Java clients. `make bench-official`.

Both servers run by turns on this machine, each on a fresh data directory, warmed up before anything is measured (a JVM
needs that). A round measures both; the table has medians over the rounds. Server CPU is that of its whole process tree.

    python bench/official/bench.py --rounds 3 --seconds 6
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "adapters")]

import psutil  # noqa: E402
from kourou_adapter import Kourou, environment, server_python  # noqa: E402
from rocketmq_grpc import GRPC, RocketPy  # noqa: E402

TASKS = (1, 16, 64)
CACHE = Path(os.environ.get("BENCH_RUN", "/tmp/mq-bench"))
LOAD = CACHE / "official-load"
JAVA = CACHE / "java" / "official-client"


def build() -> None:
    """The load generator, by Go from its own module cache."""
    if shutil.which("go") is None:
        sys.exit("error: the load generator needs Go")
    subprocess.run(["go", "build", "-o", str(LOAD), "."], cwd=HERE / "load", check=True)


def build_java() -> str | None:
    """The Java client's program; why it can't be had."""
    if shutil.which("mvn") is None or shutil.which("javac") is None:
        return "there is no mvn or javac"
    if not list(JAVA.glob("rocketmq-client-java-*.jar")):
        fetch = ["mvn", "-q", "-B", "-ntp", f"-Dmaven.repo.local={CACHE / 'm2'}", "-f", str(HERE / "client-pom.xml")]
        fetch += ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={JAVA}"]
        if subprocess.run(fetch).returncode:
            return "mvn could not fetch the client"
    compiled = subprocess.run(["javac", "-nowarn", "-cp", f"{JAVA}/*", "-d", str(JAVA), str(HERE / "JavaClient.java")])
    return "javac failed" if compiled.returncode else None


class Ours:
    name = "kourou"

    def __init__(self, engine: str) -> None:
        self.name = "kourou" if engine == "http2" else f"kourou-{engine}"
        self._engine = engine
        self._data = CACHE / "data" / self.name
        self._process: subprocess.Popen[str] | None = None
        self.endpoint = ""
        self._server = ""

    def start(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        command = [server_python(), "-m", "kourou.cli", "standalone", "--data", str(self._data), "--port", "0"]
        command += ["--grpc-port", "0", "--http-port", "0", "--grpc-engine", self._engine]
        log = (CACHE / "logs" / f"{self.name}.log").open("ab")
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment()}, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("official gRPC"):
                self.endpoint = line.split()[-1]
            if line.startswith("data plane"):
                self._server = line.split()[-1]
            if line.strip() == "ready":
                return
        sys.exit(f"error: {self.name} did not start")

    def create(self, topic: str) -> None:
        for what in (["topic", "create", topic, "--queues", "4"], ["group", "create", f"g-{topic}"]):
            subprocess.run(
                [server_python(), "-m", "kourou.cli", *what, "--server", self._server],
                env={**os.environ, **environment()},
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def processes(self) -> list[psutil.Process]:
        assert self._process is not None
        return [psutil.Process(self._process.pid)]

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)


class Theirs:
    name = "rocketmq"

    def __init__(self) -> None:
        self._adapter = RocketPy()
        self.endpoint = f"127.0.0.1:{GRPC}"

    def start(self) -> None:
        self._adapter.prepare()
        self._adapter.start()

    def create(self, topic: str) -> None:
        self._adapter.create_topic(topic, 4)

    def processes(self) -> list[psutil.Process]:
        return list(self._adapter.pids())

    def stop(self) -> None:
        self._adapter.stop()


def cpu_s(server: Any) -> float:
    total = 0.0
    for process in server.processes():
        times = process.cpu_times()
        total += times.user + times.system
    return total


def load(server: Any, topic: str, kind: str, tasks: int, *, seconds: float, count: int = 0) -> dict[str, Any]:
    """One run of the load generator, with the server's CPU for each message."""
    command = [str(LOAD), "-target", server.endpoint, "-topic", topic, "-group", f"g-{topic}", "-kind", kind]
    command += ["-tasks", str(tasks), "-seconds", str(seconds), "-count", str(count)]
    before = cpu_s(server)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    if done.returncode:
        sys.exit(f"error: {server.name} {kind}: {done.stderr.strip()[-400:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    found["cpu_us"] = (cpu_s(server) - before) / max(1, found["messages"]) * 1e6
    return found


def official_client(server: Any, language: str, topic: str, count: int) -> dict[str, dict[str, Any]]:
    """An official client: Python with one producer, then one simple consumer; Java with 16 threads of each."""
    program = [sys.executable, str(HERE / "python_client.py")]
    if language == "java":
        program = ["java", "-cp", f"{JAVA}:{JAVA}/*", "JavaClient"]
    found: dict[str, dict[str, Any]] = {}
    for kind in ("send", "receive"):
        before = cpu_s(server)
        done = subprocess.run(
            [*program, kind, server.endpoint, topic, f"g-{topic}", str(count)], capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            sys.exit(f"error: {server.name}, {language} client: {done.stderr.strip()[-400:]}")
        result = json.loads(done.stdout.strip().splitlines()[-1])
        result["cpu_us"] = (cpu_s(server) - before) / count * 1e6
        found[f"{language} {kind}"] = result
    return found


def measure(server: Any, *, seconds: float, warm_s: float, counts: dict[str, int]) -> dict[str, dict[str, Any]]:
    server.start()
    try:
        server.create("warm")
        load(server, "warm", "send", 16, seconds=warm_s)
        load(server, "warm", "receive", 16, seconds=warm_s / 2)
        results: dict[str, dict[str, Any]] = {}
        for tasks in TASKS:
            topic = f"t{tasks}"
            server.create(topic)
            results[f"send {tasks}"] = load(server, topic, "send", tasks, seconds=seconds)
            sent = results[f"send {tasks}"]["messages"]
            results[f"receive+ack {tasks}"] = load(server, topic, "receive", tasks, seconds=seconds, count=sent)
        results["route 16"] = load(server, "t16", "route", 16, seconds=seconds / 2)
        for language, count in counts.items():
            server.create(language)
            results.update(official_client(server, language, language, count))
        return results
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--warm", type=float, default=12.0, help="seconds of load before measuring")
    parser.add_argument("--python-count", type=int, default=2000)
    parser.add_argument("--java-count", type=int, default=20_000)
    parser.add_argument("--engines", default="http2", help="of ours: http2,grpcio")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    (CACHE / "logs").mkdir(parents=True, exist_ok=True)
    build()
    counts = {"python": options.python_count, "java": options.java_count}
    without = build_java()
    if without is not None:
        print(f"SKIPPED: the Java client: {without}", file=sys.stderr)
        del counts["java"]
    servers: list[Any] = [Ours(engine) for engine in options.engines.split(",")]
    missing = RocketPy.missing()
    if missing:
        print(f"SKIPPED: rocketmq: {missing}", file=sys.stderr)
    else:
        servers.append(Theirs())
    rounds: dict[str, list[dict[str, dict[str, Any]]]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
            print(f"round {number + 1}: {server.name} …", file=sys.stderr, flush=True)
            started = time.monotonic()
            rounds[server.name].append(measure(server, seconds=options.seconds, warm_s=options.warm, counts=counts))
            print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(rounds, indent=1))
    report(rounds)


def report(rounds: dict[str, list[dict[str, dict[str, Any]]]]) -> None:
    names = list(rounds)
    print("| call, at a time | " + " | ".join(f"{name}: msg/s, p50/p99 µs, CPU µs" for name in names) + " |")
    print("|---|" + "---|" * len(names))
    for kind in rounds[names[0]][0]:
        cells = []
        for name in names:
            values = [each[kind] for each in rounds[name]]
            middle = {key: statistics.median(v[key] for v in values) for key in ("rate", "p50_us", "p99_us", "cpu_us")}
            cells.append(f"{middle['rate']:,.0f}, {middle['p50_us']:,.0f}/{middle['p99_us']:,.0f}, {middle['cpu_us']:,.0f}")
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
