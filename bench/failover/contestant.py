"""What the benchmark asks of a contestant: three servers that copy each other, and a client as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from bench.failover.hosts import Host, Loopback, Network
from bench.failover.process import Running, until
from bench.failover.sends import Sends
from bench.node import RUN, environment, server_python

CLIENTS = Path(__file__).resolve().parent / "clients"
TOPIC = "bench"
BULK = "bulk"
CLIENT_LIMIT_S = 1_800.0


class Mortal(Protocol):
    def start(self) -> None: ...

    def kill(self) -> None: ...


class Cluster(ABC):
    """One contestant, started. ``members``: the three that hold messages, in the order of their hosts."""

    name: ClassVar[str] = "?"
    server: ClassVar[str] = "?"
    client: ClassVar[str] = "?"
    switchover_is: ClassVar[str] = "?"
    can_bulk: ClassVar[bool] = True  # the client can fill a topic quickly, and members tell whether they are in sync
    by_default: ClassVar[bool] = True
    warm_s: ClassVar[float] = 1  # sends before the first fault
    ready_line: ClassVar[str] = ""  # what a member says when it serves
    coordinators: ClassVar[str] = ""  # what elects, where that is another process than a member

    @classmethod
    def missing(cls) -> str | None:
        """Why it can't run here."""
        return None

    def __init__(self, network: Network | Loopback, folder: Path) -> None:
        self.network = network
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.hosts: list[Host] = [network.host() for _ in range(3)]
        self.members: list[Running] = []
        self.others: list[Running] = []
        self.clients: list[Running] = []

    @abstractmethod
    def start(self) -> None:
        """The servers."""

    @abstractmethod
    def where(self) -> str:
        """What a client is told."""

    @abstractmethod
    def leader(self) -> int | None:
        """The number of the member that leads, if one does."""

    @abstractmethod
    def whole(self) -> bool:
        """Somebody leads, and all three are in sync."""

    @abstractmethod
    def switch_over(self, to: int) -> None:
        """Another member is to lead, as an operator would ask for it."""

    def coordinator_leader(self) -> Mortal:
        """The leader of those that elect, where ``coordinators`` names them."""
        raise NotImplementedError

    def coordinator_processes(self) -> Sequence[Mortal]:
        raise NotImplementedError

    def stop(self) -> None:
        for process in (*self.clients, *self.members, *self.others):
            process.thaw()
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what all have

    def settled(self, what: str = "the cluster is whole", timeout_s: float = 180.0) -> float:
        return until(self.whole, f"{self.name}: {what}", timeout_s=timeout_s)

    def now_leads(self) -> int:
        found: list[int] = []

        def leads() -> bool:
            leader = self.leader()
            if leader is not None:
                found.append(leader)
            return bool(found)

        until(leads, f"{self.name}: somebody leads")
        return found[-1]

    def run(self, host: Host, name: str, *command: str, env: dict[str, str] | None = None) -> Running:
        return Running([*host.within, *command], self.folder / f"{name}.log", env=env, folder=self.folder)

    @abstractmethod
    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """The client as a command, and its environment."""

    def python_client(self, script: str, *arguments: str, python: str | None = None) -> tuple[list[str], dict[str, str]]:
        return [python or server_python(), str(CLIENTS / script), *arguments], environment()

    def sender(self, rate: int, file: Path, topic: str = TOPIC) -> Sender:
        return Sender(self, rate, file, topic)

    def read(self, file: Path, topic: str = TOPIC) -> None:
        self.finish("read", self.where(), topic, str(file))

    def load(self, mib: int, topic: str = BULK) -> None:
        self.finish("load", self.where(), topic, str(mib))

    def finish(self, *arguments: str) -> None:
        command, env = self.command(*arguments)
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, timeout=CLIENT_LIMIT_S)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(arguments)}: {(done.stdout + done.stderr)[-2_000:]}")


class Sender:
    """The client that sends at a rate; ``sends`` has what came of it."""

    def __init__(self, cluster: Cluster, rate: int, file: Path, topic: str) -> None:
        command, env = cluster.command("send", cluster.where(), topic, str(rate), str(file))
        file.unlink(missing_ok=True)
        self.process = Running(command, cluster.folder / "sender.log", env=env, folder=cluster.folder)
        cluster.clients.append(self.process)
        self.sends = Sends(file)
        self.process.wait_for("running")

    def finish(self) -> int:
        """How many sends it made."""
        self.process.stop()
        words = [line.split() for line in self.process.output().splitlines()]
        self.sends.refresh()
        return next(int(line[1]) for line in words if line[:1] == ["called"])

    def failures(self) -> list[str]:
        return [line for line in self.process.output().splitlines() if line.startswith("failed ")]


def bench_python() -> str:
    """The Python that has the other systems' clients (bench/setup.sh)."""
    return str(RUN / "venv/bin/python")


def has_module(module: str) -> bool:
    python = bench_python()
    if not os.path.exists(python):
        return False
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)
