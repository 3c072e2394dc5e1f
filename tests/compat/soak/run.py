"""A soak: official Python, Node and Java clients and our own, mixed message types, a server that is killed again and again.

    python -m tests.compat.soak.run --minutes 10 --kill-every-s 45 --seed 7

Workers are processes that write facts to their output (see checker.py). They are called with the server's address, their
name, messages a second, a seed, and {kind: [topic, group]}; a line on their input says "send no more", its end "stop".
When the time is over they stop sending; once everything is settled, or nothing moves any more, the history is checked.

So far one standalone node is killed (-9, or SIGTERM every third time) and started again on its ports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:  # run as a file
    sys.path[0] = str(ROOT)
for source in ("proto", "core", "nameserver", "broker", "client"):
    sys.path.append(str(ROOT / source))

import psutil  # noqa: E402

from kourou.client.blocking import Client  # noqa: E402
from tests.compat.soak.checker import History, Journal  # noqa: E402
from tests.compat.suites import InstallFailed, Java, Suite, run_installer  # noqa: E402
from tests.compat.suites import Node as NodeJs  # noqa: E402
from tests.compat.suites import Python as PythonSuite  # noqa: E402
from tests.integration.node import Process, environment  # noqa: E402

HERE = Path(__file__).resolve().parent
TOPICS = {kind: [f"soak-{kind}", f"soak-{kind}"] for kind in ("normal", "fifo", "delay", "transaction")}
NATIVE_GROUPS = {f"soak-{kind}-native": kind for kind in ("normal", "fifo")}
OUTAGE_TAIL_S = 5.0  # clients may still repeat what they sent when the server had come back
STILL_S = 60.0
WORKER_STOP_S = 30.0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# ---- the server


@dataclass(slots=True)
class Server:
    """A node that comes back on the same ports and data."""

    data: Path
    logs: Path
    ports: tuple[int, int, int] = (0, 0, 0)
    node: Process | None = None
    outages: list[tuple[int, int]] = field(default_factory=list)
    lives: int = 0

    def __post_init__(self) -> None:
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            for each in (one, two, three):
                each.bind(("127.0.0.1", 0))
            self.ports = (one.getsockname()[1], two.getsockname()[1], three.getsockname()[1])

    def start(self) -> None:
        data, grpc, http = map(str, self.ports)
        flags = ["--no-auto-create", "--transaction-check-after-s", "9", "--transaction-check-every-s", "5"]
        self.lives += 1
        flags += ["--data", str(self.data), "--port", data, "--grpc-port", grpc, "--http-port", http]
        self.node = Process("standalone", *flags)
        self.node.wait_for("ready", whole=True)

    def bounce(self, rng: random.Random) -> None:
        node = self.node
        assert node is not None
        since = time.time_ns()
        if self.lives % 3:
            node.kill()
        else:
            node.stop()
        self._keep_log(node)
        time.sleep(rng.uniform(0, 3))  # the outage itself
        self.start()
        self.outages.append((since, time.time_ns() + int(OUTAGE_TAIL_S * 1e9)))

    def stop(self) -> None:
        if self.node is not None and self.node.process.poll() is None:
            self.node.stop()
        if self.node is not None:
            self._keep_log(self.node)

    def _keep_log(self, node: Process) -> None:
        (self.logs / f"server-{self.lives}.txt").write_text(node.output())

    def rss_mb(self) -> float:
        assert self.node is not None
        try:
            return float(psutil.Process(self.node.process.pid).memory_info().rss) / 1e6
        except psutil.NoSuchProcess:
            return 0.0


# ---- the workers


@dataclass(slots=True)
class Worker:
    name: str
    process: subprocess.Popen[str]
    journal: Journal

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(text)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def end(self) -> str | None:
        """Stop it; what is wrong with it, if anything."""
        assert self.process.stdin is not None
        early = self.process.poll()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(WORKER_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return None if early is None else f"worker {self.name} ended by itself with status {early}"


def start_worker(name: str, argv: list[str], arguments: list[str], env: dict[str, str], logs: Path) -> Worker:
    out = logs / f"{name}.jsonl"
    with out.open("w") as facts, (logs / f"{name}.err").open("w") as errors:
        process = subprocess.Popen(
            [*argv, *arguments], stdin=subprocess.PIPE, stdout=facts, stderr=errors, text=True, env=env, cwd=logs
        )
    return Worker(name, process, Journal(out))


def languages(cache: Path, wanted: list[str], logs: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Command and environment of each worker that can run here; says loudly which can't."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {}
    python, node, java = PythonSuite(cache), NodeJs(cache), Java(cache)
    for suite in (python, node, java):
        if suite.name not in wanted:
            continue
        why = suite.missing()
        if why is not None:
            say(f"SKIPPED: {suite.name}: {why}")
            continue
        prepare(suite)
        if suite is python:
            argv = [str(python.interpreter), "-B", str(HERE / "worker_python.py")]
            env = {"ROCKETMQ_CLIENT_LOG_PATH": str(logs)}
        elif suite is node:
            argv, env = ["node", str(HERE / "worker.js")], {"NODE_PATH": str(node.modules)}
        else:
            classes = java.cache / "soak"
            class_path = java.classpath_file.read_text()
            run_installer(
                ["javac", "-nowarn", "-proc:none", "-cp", class_path, "-d", str(classes), str(HERE / "Worker.java")]
            )
            argv = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", f"-Drocketmq.log.root={logs}", f"-Duser.home={logs}"]
            argv, env = [*argv, "-cp", f"{classes}{os.pathsep}{class_path}", "Worker"], {}
        found[suite.name] = (argv, {**os.environ, **env})
    if "native" in wanted:
        found["native"] = ([sys.executable, str(HERE / "worker_native.py")], environment())
    return found


def prepare(suite: Suite) -> None:
    try:
        suite.prepare()
    except InstallFailed as error:
        raise SystemExit(f"error: {suite.name} could not be installed: {error}") from error


@contextmanager
def running(server: Server, options: argparse.Namespace, logs: Path) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        for number, (name, (argv, env)) in enumerate(languages(options.cache, options.clients, logs).items()):
            address = f"127.0.0.1:{server.ports[0 if name == 'native' else 1]}"
            arguments = [address, name, str(options.rate), str(options.seed + number), json.dumps(TOPICS)]
            workers.append(start_worker(name, argv, arguments, env, logs))
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


# ---- the run


def create(server: Server) -> None:
    with Client(f"127.0.0.1:{server.ports[0]}") as client:
        for kind, (topic, group) in TOPICS.items():
            client.create_topic(topic, type=kind, queues=8)
            client.create_group(group, fifo=kind == "fifo", max_attempts=1000)
        for group in NATIVE_GROUPS:
            client.create_group(group)


def read(workers: list[Worker], history: History) -> bool:
    """Take in what was written meanwhile; false when nothing was."""
    fresh = [fact for worker in workers for fact in worker.journal.fresh()]
    history.add(fresh)
    return bool(fresh)


def drain(workers: list[Worker], history: History) -> None:
    """Wait until all is settled; give up when nothing has been for a while."""
    moved = time.monotonic()
    settled = -1
    while time.monotonic() - moved < STILL_S:
        read(workers, history)
        if not history.outstanding():
            return
        if len(history.settled) != settled:
            settled, moved = len(history.settled), time.monotonic()
        time.sleep(0.5)


def soak(options: argparse.Namespace, scratch: Path, logs: Path, table: IO[str]) -> list[str]:
    rng = random.Random(options.seed)
    server = Server(scratch / "data", logs)
    faults: list[str] = []
    samples: list[float] = []
    server.start()
    try:
        create(server)
        with running(server, options, logs) as workers:
            groups = {group: kind for kind, (_, group) in TOPICS.items()}
            groups |= NATIVE_GROUPS if "native" in options.clients else {}
            history = History(groups, frozenset(group for _, group in TOPICS.values()))
            started = time.monotonic()
            next_kill = started + options.kill_every_s
            while (passed := time.monotonic() - started) < 60 * options.minutes:
                time.sleep(1)
                samples.append(server.rss_mb())
                table.write(f"{passed:.0f}\t{samples[-1]:.1f}\n")
                read(workers, history)
                if time.monotonic() > next_kill and options.kill_every_s > 0:
                    server.bounce(rng)
                    next_kill = time.monotonic() + options.kill_every_s
                    say(f"life {server.lives}; {history.counts()}; RSS {samples[-1]:.0f} MB")
            for worker in workers:
                worker.tell("send no more\n")
            say("draining")
            drain(workers, history)
            faults += [fault for fault in (worker.end() for worker in workers) if fault]
            read(workers, history)
    finally:
        server.stop()
    faults += history.faults(server.outages)
    faults += [f"worker {worker.name} did nothing" for worker in workers if worker.journal.file.stat().st_size == 0]
    memory = f"RSS {min(samples):.0f} to {max(samples):.0f} MB, last {samples[-1]:.0f}"
    say(f"{history.counts()}; {server.lives - 1} outages; {memory}")
    if max(samples) > options.rss_limit_mb:
        faults.append(f"memory: {max(samples):.0f} MB")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-every-s", type=float, default=45.0, help="0: never (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=20.0, help="messages a second of each client (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rss-limit-mb", type=float, default=1024.0)
    parser.add_argument("--clients", nargs="+", default=["python", "node", "java", "native"])
    default = os.environ.get("KOUROU_COMPAT_CACHE", str(ROOT / ".cache" / "compat"))
    parser.add_argument("--cache", type=Path, default=Path(default))
    options = parser.parse_args()
    options.cache = options.cache.resolve()
    logs = options.cache / "logs" / "soak"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    say(f"{options.minutes:g} minutes, seed {options.seed}; logs: {logs}")
    with tempfile.TemporaryDirectory(prefix="kourou-soak-") as scratch, (logs / "rss.tsv").open("w") as table:
        faults = soak(options, Path(scratch), logs, table)
    for fault in faults[:50]:
        say(f"FAULT: {fault}")
    say(f"soak: {'passed' if not faults else f'FAILED with {len(faults)} faults'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
