"""Ours: three brokers with default settings and ``--failover etcd --ack all --min-isr 2``, three members of etcd, a nameserver."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

from bench.etcd import BINARY, EtcdMember, peer_list
from bench.failover.contestant import BULK, TOPIC, Cluster
from bench.failover.hosts import Loopback, Network
from bench.failover.process import Running, until
from bench.node import environment, server_python, use_sources

use_sources()

from kourou.client import Client  # noqa: E402
from kourou.core.errors import KourouError  # noqa: E402
from kourou.core.route import parse_endpoint  # noqa: E402
from kourou.core.wire import Code  # noqa: E402
from kourou.transport.connection import connect  # noqa: E402

GROUP = "broker-a"
ASK_S = 1.0


class KourouGroup(Cluster):
    name = "kourou"
    server = "3 brokers, --failover etcd --ack all --min-isr 2, 3 members of etcd with default times"
    client = "native Python client, default settings"
    switchover_is = "kourou admin promote"
    coordinators = "etcd"
    ready_line = "ready\n"
    options: tuple[str, ...] = ()
    etcd_options: tuple[str, ...] = ()

    @classmethod
    def missing(cls) -> str | None:
        return None if BINARY else "there is no etcd (apt install etcd-server)"

    def __init__(self, network: Network | Loopback, folder: Path) -> None:
        super().__init__(network, folder)
        self.etcd: list[EtcdMember] = []
        self._planes: list[str] = []

    def start(self) -> None:
        folder = self.folder / "etcd"
        folder.mkdir()
        hosts = [self.network.host() for _ in range(3)]
        places = [(host.place(), host.place()) for host in hosts]
        peers = peer_list(peer for _, peer in places)
        self.etcd = [
            EtcdMember(f"e{n}", folder, client, peer, peers, hosts[n].within, self.etcd_options)
            for n, (client, peer) in enumerate(places)
        ]
        for member in self.etcd:
            member.wait()
        home = self.network.host()
        self._nameserver, grpc = home.place(), home.place()
        self.others = [self.run(home, "nameserver", *self._server("nameserver", self._nameserver, grpc), env=environment())]
        self.others[0].wait_for(self.ready_line)
        for number, host in enumerate(self.hosts):
            plane, official = host.place(), host.place()
            self._planes.append(plane)
            command = self._server(
                "broker", plane, official, "--name", GROUP, "--broker-id", str(number), "--data", str(self.folder / str(number)),
                "--nameserver", grpc, "--failover", "etcd", "--etcd", ",".join(client for client, _ in places),
                "--ack", "all", "--min-isr", "2", *self.options,
            )  # fmt: skip
            self.members.append(self.run(host, f"broker-{number}", *command, env=environment()))
        for process in self.members:
            process.wait_for(self.ready_line)
        self.settled()
        asyncio.run(self._topics())

    @staticmethod
    def _server(what: str, plane: str, grpc: str, *more: str) -> list[str]:
        host, _, port = plane.rpartition(":")
        ports = ("--host", host, "--port", port, "--grpc-port", grpc.rpartition(":")[2], "--http-port", "0")
        return [server_python(), "-m", "kourou.cli", what, *ports, *more]

    async def _topics(self) -> None:
        async with Client(self._nameserver) as client:
            for topic in (TOPIC, BULK):
                await client.create_topic(topic, queues=4)

    def where(self) -> str:
        return self._nameserver

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        return self.python_client("send_kourou.py", *arguments)

    # ---- who leads

    async def _status(self, member: int) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(ASK_S):
                connection = await connect(parse_endpoint(self._planes[member]), client_id="bench", handlers={})
                try:
                    facts: dict[str, Any] = await connection.ask_json(Code.STATUS, {})
                    return facts
                finally:
                    connection.close()
        except (KourouError, OSError, TimeoutError):
            return None

    def status(self) -> list[dict[str, Any] | None]:
        async def each() -> list[dict[str, Any] | None]:
            return await asyncio.gather(*(self._status(member) for member in range(3)))

        return asyncio.run(each())

    def leader(self) -> int | None:
        leading = [n for n, facts in enumerate(self.status()) if facts is not None and facts["role"] == "master"]
        return leading[0] if len(leading) == 1 else None

    def whole(self) -> bool:
        status = self.status()
        if None in status:
            return False
        masters = [facts for facts in status if facts is not None and facts["role"] == "master"]
        return len(masters) == 1 and set(masters[0]["replication"]["set"]) == {0, 1, 2}

    def switch_over(self, to: int) -> None:
        command = [server_python(), "-m", "kourou.cli", "admin", "promote", GROUP, "--id", str(to)]
        subprocess.run(command, env=environment(KOUROU_SERVER=self._nameserver), check=True, capture_output=True, timeout=60)

    # ---- etcd

    def coordinator_leader(self) -> EtcdMember:
        found: list[EtcdMember] = []

        def leads() -> bool:
            found.extend(member for member in self.etcd if member.leads())
            return bool(found)

        until(leads, "etcd has a leader")
        return found[0]

    def coordinator_processes(self) -> list[EtcdMember]:
        return self.etcd

    def stop(self) -> None:
        for member in self.etcd:
            member.kill()
        super().stop()


class KourouShort(KourouGroup):
    """A lease of 2 s, which takes an etcd that changes its leader as quickly."""

    name = "kourou-d2"
    server = f"{KourouGroup.server.split(',')[0]}, --lease-s 2 --renew-s 0.3, etcd with --election-timeout 500"
    by_default = False
    options = ("--lease-s", "2", "--renew-s", "0.3", "--etcd-leader-change-s", "0.7")
    etcd_options = ("--heartbeat-interval", "50", "--election-timeout", "500")
