"""A private etcd on free ports, of the Debian package ``etcd-server``; without it tests are skipped, and say so."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import pytest

BINARY = shutil.which("etcd")
needs_etcd = pytest.mark.skipif(BINARY is None, reason="NO ETCD: failover was not tested; apt install etcd-server")
START_S = 30.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


class EtcdMember:
    def __init__(self, name: str, folder: Path, client: int, peer: int, cluster: str) -> None:
        self.name = name
        self.endpoint = f"127.0.0.1:{client}"
        self._log = folder / f"{name}.log"
        self._command = [
            BINARY or "etcd", "--name", name, "--data-dir", str(folder / name), "--logger", "zap", "--log-level", "warn",
            "--listen-client-urls", f"http://{self.endpoint}", "--advertise-client-urls", f"http://{self.endpoint}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", cluster, "--initial-cluster-state", "new", "--auto-compaction-retention", "1",
        ]  # fmt: skip
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
        cluster = ",".join(f"e{n}=http://127.0.0.1:{ports[members + n]}" for n in range(members))
        self.members = [EtcdMember(f"e{n}", folder, ports[n], ports[members + n], cluster) for n in range(members)]

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
