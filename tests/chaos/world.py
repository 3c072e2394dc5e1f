"""A cluster of real processes, each on a host of its own: etcd, nameservers, broker groups, a proxy; a place for clients."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bench import etcd
from kourou.core.wire import Code
from tests.chaos import badhost
from tests.chaos.broker import Broker
from tests.chaos.claim import Claim
from tests.chaos.network import Host, Network
from tests.chaos.process import Process

KOUROU = (sys.executable, "-m", "kourou.cli")
REPLICAS = 3
WHOLE_S = 90.0
LOOK_EVERY_S = 0.25
HTTP_S = 2.0


class Unwell(Exception):
    """The cluster is not what it has to be, and does not become it."""


@dataclass(frozen=True, slots=True)
class Settings:
    groups: int = 1
    flush: str = "async"
    etcds: int = 3
    nameservers: int = 2


class World:
    def __init__(self, claim: Claim, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.network = Network(claim)
        self.library = badhost.build(folder)
        add = self.network.add
        self.etcds = self._etcds([add(f"e{n}") for n in range(settings.etcds)])
        self.nameservers = [self._nameserver(add(f"n{n}")) for n in range(settings.nameservers)]
        self.brokers = [
            self._broker(f"broker-{letter}", member, add(f"{letter}{member}"))
            for letter in "abcdefgh"[: settings.groups]
            for member in range(REPLICAS)
        ]
        self.proxy = self._proxy(add("p0"))
        self.clients = add("w0")

    # ---- what runs where

    @property
    def etcd_addresses(self) -> str:
        return ",".join(f"{one.host.address}:2379" for one in self.etcds)

    def nameserver_addresses(self, port: int = 9876) -> str:
        return ",".join(f"{one.host.address}:{port}" for one in self.nameservers)

    @property
    def official(self) -> str:
        return f"{self.proxy.host.address}:8081"

    def command(self, *arguments: str) -> list[str]:
        """The ``kourou`` command, run where clients are."""
        where = ["ip", "netns", "exec", self.clients.namespace]
        return [*where, *KOUROU, *arguments, "--server", self.nameserver_addresses()]

    @property
    def groups(self) -> list[str]:
        return sorted({broker.group for broker in self.brokers})

    def members(self, group: str) -> list[Broker]:
        return [broker for broker in self.brokers if broker.group == group]

    @property
    def servers(self) -> list[Process]:
        return [*self.etcds, *self.nameservers, *(broker.process for broker in self.brokers), self.proxy]

    def _etcds(self, hosts: list[Host]) -> list[Process]:
        peers = etcd.peer_list(f"{host.address}:2380" for host in hosts)

        def process(host: Host) -> Process:
            name, address = f"etcd-{host.name}", host.address
            data = self.folder / "data" / name
            command = etcd.command(host.name, data, f"{address}:2379", f"{address}:2380", peers)
            return Process(name, host, lambda: command, logs=self.logs)

        return [process(host) for host in hosts]

    def _nameserver(self, host: Host) -> Process:
        arguments = [*KOUROU, "nameserver", "--host", host.address, "--http-port", "8088"]
        return Process(f"nameserver-{host.name}", host, lambda: arguments, logs=self.logs)

    def _broker(self, group: str, member: int, host: Host) -> Broker:
        name = f"{group}-{member}"
        data = self.folder / "data" / name
        bad = None if self.library is None else badhost.BadHost(self.library, self.folder / f"{name}.faults")

        def arguments() -> list[str]:
            return [
                *KOUROU, "broker", "--name", group, "--broker-id", str(member), "--data", str(data), "--host", host.address,
                "--nameserver", self.nameserver_addresses(9877), "--failover", "etcd", "--etcd", self.etcd_addresses,
                "--ack", "all", "--min-isr", "2", "--flush", self.settings.flush, "--segment-bytes", "512KiB",
                "--transaction-check-after-s", "3", "--transaction-check-every-s", "3",
            ]  # fmt: skip

        process = Process(name, host, arguments, logs=self.logs, env=None if bad is None else bad.env)
        return Broker(group, member, process, data, bad)

    def _proxy(self, host: Host) -> Process:
        return Process(
            "proxy",
            host,
            lambda: [*KOUROU, "proxy", "--nameserver", self.nameserver_addresses(), "--host", host.address],
            logs=self.logs,
        )

    # ---- begin and heal

    async def start(self) -> None:
        """Everything, until it works."""
        (self.folder / "data").mkdir()
        for process in self.servers:
            process.start()
        await self.whole()
        for group in self.groups:
            await make_probe_topic(self.members(group), group)

    def heal(self) -> None:
        """No fault is left: networks and disks are sound, everybody runs."""
        self.network.mend()
        for broker in self.brokers:
            broker.recover()
        for process in self.servers:
            process.thaw()
            process.start()

    def ended_by_themselves(self) -> list[str]:
        """Processes that should run, and don't."""
        return [
            f"{process.name} ended by itself with status {process.status}"
            for process in self.servers
            if process.meant_to_run and not process.alive
        ]

    # ---- looking

    async def master(self, group: str) -> Broker:
        return await leader(self.members(group), group)

    async def etcd_leader(self) -> Process | None:
        for process in self.etcds:
            facts = await asked(f"http://{process.host.address}:2379/v3/maintenance/status", b"{}")
            if facts is not None and facts.get("leader") == facts.get("header", {}).get("member_id"):
                return process
        return None

    async def whole(self, *, timeout_s: float = WHOLE_S) -> None:
        """Wait until every group has one master and all members in sync, and everybody else is there."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.ended_by_themselves()
            if ended:
                raise Unwell("; ".join(ended))
            missing = [what for what in await self._missing() if what]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Unwell(f"not whole after {timeout_s:.0f} s: " + "; ".join(missing))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _missing(self) -> Iterable[str]:
        """What is not as it has to be, in words."""
        found = [await self._missing_in(group) for group in self.groups]
        found += await asyncio.gather(*(self._unready(f"{one.host.address}:2379/health", one) for one in self.etcds))
        others = [*self.nameservers, self.proxy]
        found += await asyncio.gather(*(self._unready(f"{one.host.address}:8088/readyz", one) for one in others))
        return found

    async def _unready(self, url: str, process: Process) -> str:
        return "" if await asked(f"http://{url}") is not None else f"{process.name} is not ready"

    async def _missing_in(self, group: str) -> str:
        members = self.members(group)
        found = await asyncio.gather(*(broker.status() for broker in members))
        answers = {broker.broker_id: facts for broker, facts in zip(members, found, strict=True) if facts is not None}
        silent = [broker.name for broker in members if broker.broker_id not in answers]
        if silent:
            return f"{', '.join(silent)}: no answer"
        masters = [number for number, facts in answers.items() if facts["role"] == "master"]
        if len(masters) != 1:
            return f"{group} has masters {masters}"
        replication = answers[masters[0]]["replication"]
        if set(replication["set"]) < set(answers):
            return f"{group}: in sync are {sorted(replication['set'])}"
        streaming = {one["broker_id"] for one in replication["slaves"] if one["streaming"]}
        if streaming < set(answers) - {masters[0]}:
            return f"{group}: streams to {sorted(streaming)}"
        unaware = [n for n in answers if n != masters[0] and not answers[n]["replication"].get("in_sync")]
        return f"{group}: {unaware} don't know that they are in sync" if unaware else ""


class Member(Protocol):
    """A broker that can be asked, wherever it runs; None is no answer."""

    async def ask(self, code: Code, value: object) -> dict[str, Any] | None: ...

    async def status(self) -> dict[str, Any] | None: ...


M = TypeVar("M", bound=Member)


async def leader(members: Sequence[M], group: str) -> M:
    """Who leads; waits until somebody does."""
    deadline = time.monotonic() + WHOLE_S
    while time.monotonic() < deadline:
        found = await asyncio.gather(*(member.status() for member in members))
        leading = [
            (int(facts["failover"]["epoch"]), place)
            for place, facts in enumerate(found)
            if facts is not None and facts["role"] == "master"
        ]
        if leading:
            return members[max(leading)[1]]
        await asyncio.sleep(LOOK_EVERY_S)
    raise Unwell(f"nobody leads {group}")


def probe_topic(group: str) -> str:
    return f"chaos-probe-{group}"


async def make_probe_topic(members: Sequence[Member], group: str) -> None:
    """A topic that is in this group alone, so that a send to it says something about this group."""
    master = await leader(members, group)
    topic = probe_topic(group)
    value = {"topic": topic, "type": "normal", "placement": [[group, 1]], "auto": False}
    if await master.ask(Code.TOPIC_CREATE, value) is None:
        raise Unwell(f"{topic} could not be created")


async def asked(url: str, body: bytes | None = None) -> dict[str, Any] | None:
    """The answer, if it is a good one; a page that is no JSON counts as an empty answer."""

    def ask() -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(url, data=body, timeout=HTTP_S) as answer:
                text = answer.read()
        except OSError:
            return None
        try:
            value = json.loads(text)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    return await asyncio.to_thread(ask)
