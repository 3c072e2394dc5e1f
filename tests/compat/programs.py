"""Our programs as the suites and the soak need them: with ports that stay over restarts, and put together to a cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kourou.client.blocking import Client
from tests.integration.node import Process

CLUSTER_S = 30.0


@dataclass(slots=True)
class Program:
    """A `kourou` process that comes back on the ports it had the first time."""

    name: str
    arguments: tuple[str, ...]
    logs: Path
    urls: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    lives: int = 0

    def start(self) -> None:
        self.lives += 1
        ports = [self._port(flag, name) for flag, name in (("--port", "data plane"), ("--grpc-port", "gRPC"))]
        flags = [word for pair in ports for word in pair if self.arguments[0] != "proxy" or pair[0] != "--port"]
        self.process = Process(*self.arguments, *flags, "--http-port", "0")
        self.process.wait_for("ready", whole=True)
        for line in self.process.lines:
            for name in ("data plane", "official gRPC", "gRPC"):
                if line.startswith(name):
                    self.urls[name] = line.rsplit(None, 1)[-1].removeprefix("http://")

    def _port(self, flag: str, name: str) -> tuple[str, str]:
        known = self.urls.get(name) or self.urls.get(f"official {name}")
        return flag, known.rsplit(":", 1)[1] if known else "0"

    @property
    def official(self) -> str:
        return self.urls.get("official gRPC") or self.urls["gRPC"]

    def end(self, *, hard: bool = False) -> None:
        if self.process is None:
            return
        if self.process.process.poll() is None:
            if hard:
                self.process.kill()
            else:
                self.process.stop()
        (self.logs / f"server-{self.name}-{self.lives}.txt").write_text(self.process.output())

    def fell(self) -> bool:
        return self.process is not None and self.process.process.poll() is not None

    def rss_mb(self) -> float:
        assert self.process is not None
        try:
            return float(psutil.Process(self.process.process.pid).memory_info().rss) / 1e6
        except psutil.NoSuchProcess:
            return 0.0


def cluster(
    data: Path, logs: Path, *flags: str, brokers: int, proxy: bool, engine: str = "http2"
) -> tuple[list[Program], list[Program]]:
    """What stands before the brokers, started, the access point of official clients last; and the brokers, not started."""
    serving = ("--grpc-engine", engine)
    nameserver = Program("nameserver", ("nameserver", *serving), logs)
    nameserver.start()
    before = [nameserver]
    if proxy:
        arguments = ("proxy", "--nameserver", nameserver.urls["data plane"], *serving)
        before.append(Program("proxy", arguments, logs))
        before[-1].start()
    where = ("--nameserver", nameserver.urls["gRPC"], *serving, *flags)
    names = [f"broker-{letter}" for letter in "abcdefghij"[:brokers]]
    programs = [Program(name, ("broker", "--name", name, "--data", str(data / name), *where), logs) for name in names]
    return before, programs


def wait_for_brokers(nameserver: str, count: int) -> None:
    with Client(nameserver) as client:
        deadline = time.monotonic() + CLUSTER_S
        while len(client.cluster()["brokers"]) < count:
            assert time.monotonic() < deadline, "the brokers did not register"
            time.sleep(0.1)
