"""A broker of ours as a process, for everything under bench/: which Python it runs on, its ports, its memory and CPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCES = tuple(str(ROOT / name) for name in ("proto", "core", "nameserver", "broker", "client"))
RUN = Path(os.environ.get("BENCH_RUN", "/tmp/mq-bench"))
TICKS = os.sysconf("SC_CLK_TCK")
READY_S = 120.0


def server_python() -> str:
    """KOUROU_BENCH_PYTHON, else the checkout's .venv, else this one."""
    chosen = os.environ.get("KOUROU_BENCH_PYTHON")
    if chosen:
        return chosen
    own = ROOT / ".venv/bin/python"
    return str(own) if own.exists() else sys.executable


def environment(**more: str) -> dict[str, str]:
    """The five source roots on the path, and nothing of the harness."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES), "PYTHONUNBUFFERED": "1", **more}


def use_sources() -> None:
    """Make ``kourou`` importable here, from the checkout."""
    sys.path[:0] = [place for place in SOURCES if place not in sys.path]


class Node:
    """`kourou standalone` on free ports. ``inside``: arguments for inside.py, which runs the same with instruments."""

    def __init__(self, data: Path, *options: str, inside: tuple[str, ...] | None = None, log: str = "node") -> None:
        (RUN / "logs").mkdir(parents=True, exist_ok=True)
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        program = ("-m", "kourou.cli", "standalone") if inside is None else ("-P", str(HERE / "inside.py"), *inside)
        ports = ("--port", "0", "--grpc-port", "0", "--http-port", "0")
        self._log = (RUN / "logs" / f"{log}.log").open("ab")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [server_python(), *program, "--data", str(data), *ports, *options],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.urls = self._wait()
        self.ready_s = time.monotonic() - self.started
        self.server = self.urls["data plane"]

    @property
    def pid(self) -> int:
        return self.process.pid

    def _wait(self) -> dict[str, str]:
        assert self.process.stdout is not None
        urls: dict[str, str] = {}
        for line in self.process.stdout:
            if line.strip() == "ready":
                return urls
            name, _, url = line.strip().rpartition(" ")
            urls[name.strip()] = url
        status = self.process.wait()
        said = Path(self._log.name).read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise SystemExit(
            f"error: the node ended ({status}) before it was ready; {server_python()} said: {said[-1]} "
            f"(all of it: {self._log.name}; another Python for it: KOUROU_BENCH_PYTHON)"
        )

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._ended()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._ended()

    def _ended(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    # ---- what it costs

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mb(self) -> tuple[float, float]:
        """(RSS, of it anonymous)."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        sizes = {name: int(size) / 1024 for name, size in re.findall(r"(VmRSS|RssAnon):\s+(\d+) kB", text)}
        return sizes.get("VmRSS", 0.0), sizes.get("RssAnon", 0.0)

    # ---- what it says of itself

    def metrics(self) -> dict[str, float]:
        """Each sample of /metrics by its name and ``le`` label; samples that differ in other labels are added up."""
        with urllib.request.urlopen(self.urls["http"] + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
            bound = re.search(r'le="([^"]+)"', labels)
            key = f"{name} {bound[1]}" if bound else name
            found[key] = found.get(key, 0.0) + float(value)
        return found


def load(what: str, node: Node, topic: str, messages: int, *options: str, timeout_s: float = 900.0) -> dict[str, float]:
    """Run load.py to its end, and add what it cost the server: ``server_us`` a message."""
    argv = [server_python(), "-P", str(HERE / "load.py"), what, "--server", node.server, "--topic", topic]
    cpu = node.cpu_s()
    done = subprocess.run(
        [*argv, "--messages", str(messages), *options], env=environment(), capture_output=True, text=True, timeout=timeout_s
    )
    if done.returncode:
        raise RuntimeError(f"load.py {what}: {(done.stderr.strip().splitlines() or ['died'])[-1]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return {**figures, "server_us": round((node.cpu_s() - cpu) / messages * 1e6, 4)}
