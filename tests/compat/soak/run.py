"""A soak: official Python, Node and Java clients and our own, mixed message types, a server that is killed again and again.

    python -m tests.compat.soak.run --minutes 10 --kill-every-s 45 --seed 7         one standalone node is killed
    python -m tests.compat.soak.run --brokers 2                                     one broker of a cluster at a time
    python -m tests.compat.soak.run --brokers 2 --proxy                             official clients go through a proxy

Workers are processes that write facts to their output (see checker.py). They are called with the server's address, their
name, messages a second, a seed, and {kind: [topic, group]}; a line on their input says "send no more", its end "stop".
When the time is over they stop sending; once everything is settled, or nothing moves any more, the history is checked.

Servers are killed with SIGKILL, every third time with SIGTERM, and started again on their ports (see server.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:  # run as a file
    sys.path[0] = str(ROOT)
for source in ("proto", "core", "nameserver", "broker", "client"):
    sys.path.append(str(ROOT / source))

from kourou.client.blocking import Client  # noqa: E402
from tests.compat.soak.checker import History, Journal  # noqa: E402
from tests.compat.soak.memory import Memory  # noqa: E402
from tests.compat.soak.server import Server  # noqa: E402
from tests.compat.suites import InstallFailed, Java, Suite, run_installer  # noqa: E402
from tests.compat.suites import Node as NodeJs  # noqa: E402
from tests.compat.suites import Python as PythonSuite  # noqa: E402
from tests.integration.node import environment  # noqa: E402

HERE = Path(__file__).resolve().parent
TOPICS = {kind: [f"soak-{kind}", f"soak-{kind}"] for kind in ("normal", "fifo", "delay", "transaction")}
NATIVE_GROUPS = {f"soak-{kind}-native": kind for kind in ("normal", "fifo")}
STILL_S = 60.0
WORKER_STOP_S = 30.0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


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
            address = server.native if name == "native" else server.official
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
    with Client(server.native) as client:
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


def server_of(options: argparse.Namespace, scratch: Path, logs: Path) -> Server:
    if options.brokers:
        return Server.cluster(scratch, logs, brokers=options.brokers, proxy=options.proxy)
    return Server.standalone(scratch, logs)


def soak(options: argparse.Namespace, scratch: Path, logs: Path, table: IO[str]) -> list[str]:
    rng = random.Random(options.seed)
    faults: list[str] = []
    memory: dict[str, Memory] = defaultdict(Memory)
    server = server_of(options, scratch, logs)
    try:
        server.start()
        create(server)
        with running(server, options, logs) as workers:
            groups = {group: kind for kind, (_, group) in TOPICS.items()}
            groups |= NATIVE_GROUPS if "native" in options.clients else {}
            history = History(groups, frozenset(group for _, group in TOPICS.values()))
            started = time.monotonic()
            next_kill = started + options.kill_every_s
            while (passed := time.monotonic() - started) < 60 * options.minutes:
                time.sleep(1)
                for name, mb in server.rss_mb().items():
                    memory[name].add(mb, life=server.lives)
                    table.write(f"{passed:.0f}\t{name}\t{mb:.1f}\n")
                table.flush()
                read(workers, history)
                faults += [f"{name} ended by itself" for name in server.fell()]
                if faults:
                    break
                if time.monotonic() > next_kill and options.kill_every_s > 0:
                    killed = server.bounce(rng)
                    next_kill = time.monotonic() + options.kill_every_s
                    say(f"{killed} is back; {history.counts()}")
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
    say(f"{history.counts()}; {server.lives - 1} outages")
    for name, samples in memory.items():
        say(f"memory of {name}: {samples}")
        if (fault := samples.fault(options.rss_limit_mb)) is not None:
            faults.append(f"memory of {name}: {fault}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-every-s", type=float, default=45.0, help="0: never (default: %(default)s)")
    parser.add_argument("--brokers", type=int, default=0, help="of a cluster; 0: a standalone node (default: %(default)s)")
    parser.add_argument("--proxy", action="store_true", help="official clients know a proxy, not the nameserver")
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
