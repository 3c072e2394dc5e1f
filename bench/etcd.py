"""A private etcd as processes, for the failover benchmark and the tests; the binary is that of the package ``etcd-server``."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

BINARY = shutil.which("etcd")
START_S = 30.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def command(name: str, data: Path, client: str, peer: str, peers: str) -> list[str]:
    return [
        BINARY or "etcd", "--name", name, "--data-dir", str(data), "--logger", "zap", "--log-level", "warn",
        "--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}",
        "--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}",
        "--initial-cluster", peers, "--initial-cluster-state", "new", "--auto-compaction-retention", "1",
    ]  # fmt: skip


class EtcdMember:
    """``peers``: what --initial-cluster says. ``within``: a command to be put before, as one that enters a namespace."""

    def __init__(
        self,
        name: str,
        folder: Path,
        client: str,
        peer: str,
        peers: str,
        within: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.endpoint = client
        self._log = folder / f"{name}.log"
        self._command = [*within, *command(name, folder / name, client, peer, peers), *options]
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=2) as answer:
                    if b'"true"' in answer.read():
                        return
            except (urllib.error.URLError, OSError):
                pass
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"etcd is not healthy after {START_S} s:\n{self._log.read_text()}")

    def leads(self) -> bool:
        request = urllib.request.Request(f"http://{self.endpoint}/v3/maintenance/status", data=b"{}")
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                status: dict[str, Any] = json.loads(answer.read())
        except (urllib.error.URLError, OSError):
            return False
        return bool(status["header"]["member_id"] == status.get("leader"))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


class EtcdCluster:
    """``with EtcdCluster(folder, members=3) as etcd: etcd.addresses``"""

    def __init__(self, folder: Path, *, members: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * members)
        places = [(f"127.0.0.1:{ports[n]}", f"127.0.0.1:{ports[members + n]}") for n in range(members)]
        peers = peer_list(peer for _, peer in places)
        self.members = [EtcdMember(f"e{n}", folder, client, peer, peers) for n, (client, peer) in enumerate(places)]

    @property
    def addresses(self) -> str:
        return ",".join(member.endpoint for member in self.members)

    def __enter__(self) -> EtcdCluster:
        try:
            for member in self.members:
                member.wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for member in self.members:
            member.signal(signal.SIGCONT)
            member.kill()


def peer_list(peers: Iterable[str]) -> str:
    return ",".join(f"e{n}=http://{peer}" for n, peer in enumerate(peers))
