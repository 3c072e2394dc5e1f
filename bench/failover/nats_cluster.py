"""NATS: three servers in a cluster, a JetStream stream of three replicas in files, all else as it is by default."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from typing import Any

from bench.failover.contestant import BULK, TOPIC, Cluster, bench_python, has_module
from bench.failover.process import until
from bench.node import RUN

SERVER = RUN / "bin/nats-server"


class NatsCluster(Cluster):
    name = "nats"
    server = "NATS JetStream, 3 servers, a stream with 3 replicas in files, default settings"
    client = "nats-py, default settings (publish waits 5 s and does not try again)"
    switchover_is = "the stream's leader is asked to step down"
    ready_line = "Server is ready"

    @classmethod
    def missing(cls) -> str | None:
        if not SERVER.exists():
            return "nats-server is not installed (bench/setup.sh)"
        return None if has_module("nats") else "nats-py is not installed (bench/setup.sh)"

    def start(self) -> None:
        self._clients = [host.place() for host in self.hosts]
        routes = [host.place() for host in self.hosts]
        self._monitors = [host.place() for host in self.hosts]
        for number, host in enumerate(self.hosts):
            config = self.folder / f"server-{number}.conf"
            config.write_text(
                f'server_name: n{number}\nlisten: "{self._clients[number]}"\nhttp: "{self._monitors[number]}"\n'
                f'jetstream {{ store_dir: "{self.folder}/js-{number}", max_file_store: 50G }}\n'
                f'cluster {{ name: bench, listen: "{routes[number]}", routes: [{", ".join(f"nats://{r}" for r in routes)}] }}\n'
            )
            self.members.append(self.run(host, f"server-{number}", str(SERVER), "-c", str(config)))
        for process in self.members:
            process.wait_for(self.ready_line)
        until(lambda: self._ask("create", TOPIC, BULK), "nats: streams are there", pause_s=0.5)
        self.settled()

    def _ask(self, *arguments: str) -> bool:
        command, env = self.python_client("admin_nats.py", self.where(), *arguments, python=bench_python())
        return subprocess.run(command, env=env, cwd=self.folder, capture_output=True, timeout=60).returncode == 0

    def where(self) -> str:
        return ",".join(f"nats://{client}" for client in self._clients)

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        return self.python_client("send_nats.py", *arguments, python=bench_python())

    def _stream(self, member: int, name: str) -> dict[str, Any] | None:
        """What a server says of a stream: its leader, and how the replicas are doing as the leader sees it."""
        url = f"http://{self._monitors[member]}/jsz?streams=true&accounts=true"
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                told = json.loads(answer.read())
        except (urllib.error.URLError, OSError, ValueError):
            return None
        for account in told.get("account_details") or ():
            for stream in account.get("stream_detail") or ():
                if stream["name"] == name:
                    cluster: dict[str, Any] = stream.get("cluster") or {}
                    return cluster
        return None

    def leader(self) -> int | None:
        for member in range(3):
            cluster = self._stream(member, TOPIC)
            if cluster is not None and cluster.get("leader") == f"n{member}":
                return member
        return None

    def whole(self) -> bool:
        return all(self._is_whole(name) for name in (TOPIC, BULK))

    def _is_whole(self, name: str) -> bool:
        """Each server has the stream, and its leader finds the others current."""
        seen = [self._stream(member, name) for member in range(3)]
        if None in seen:
            return False
        leading = [cluster for n, cluster in enumerate(seen) if cluster is not None and cluster.get("leader") == f"n{n}"]
        if len(leading) != 1:
            return False
        replicas = leading[0].get("replicas") or ()
        return len(replicas) == 2 and all(
            r.get("current") and not r.get("offline") and r.get("lag", 0) < 100 for r in replicas
        )

    def switch_over(self, to: int) -> None:
        self._ask("step-down", TOPIC)
