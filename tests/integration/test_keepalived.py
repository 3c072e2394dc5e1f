"""One address on two machines: the keepalived and haproxy examples that we ship, while machines and haproxies go down.

Each machine is a network namespace with a pid namespace, and runs what `docs/deployment.md` says: a nameserver, a proxy,
haproxy and keepalived. The broker and the clients have hosts of their own, and the clients know the virtual address alone.

    python -m tests.integration.test_keepalived ADDRESS     is those clients: they send and receive until they are killed
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kourou.client import Client, KourouError
from tests.chaos.claim import Claim, CommandFailed, command
from tests.chaos.network import WORLD, Host, Network
from tests.chaos.process import Process
from tests.integration import node
from tests.integration.node import ROOT, environment
from tests.integration.official import Code, Official, message
from tests.integration.test_haproxy import CONFIG, HAPROXY, KEEPALIVED, needs_haproxy, needs_keepalived

KEEPALIVED_CONFIG = ROOT / "deploy/haproxy/keepalived.conf"
VIRTUAL = WORLD - 1  # its place in the network
until = partial(node.until, limit_s=90.0)
INVISIBLE_MS = 5_000  # what was under way to a client when its connection went down comes again after this
KINDS = ("native", "official")
BACKUP = "Entering BACKUP STATE"

TOOLS = {
    "ip": "iproute2",
    "iptables": "iptables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "pgrep": "procps",
}
LACKS = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})

pytestmark = [
    pytest.mark.slow,
    needs_haproxy,
    needs_keepalived,
    pytest.mark.skipif(bool(LACKS), reason=f"tools are missing (apt install {' '.join(LACKS)})"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make network namespaces"),
]


class Machine:
    """A host whose processes see each other alone: pgrep finds this machine's haproxy, not the other's."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.host = site.network.add(name)
        # With process 1 all others of the machine go, too.
        alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "echo up; exec sleep infinity"]
        machine = site.started(name, self.host, alone)
        until(lambda: "up" in machine.tail() or not machine.alive, f"machine {name} does not start")
        if not machine.alive:
            pytest.skip(f"NO HOSTS: no pid namespaces here: {machine.tail()}")
        mine = os.readlink("/proc/self/ns/pid")
        pids = command("ip", "netns", "pids", self.host.namespace).split()
        (self.first,) = [pid for pid in pids if os.readlink(f"/proc/{pid}/ns/pid") != mine]
        self.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind")
        self.host.run("iptables", "-w", "10", "-t", "mangle", "-A", "INPUT", "-p", "112")  # only counts advertisements
        self.keepalived: Process
        self.haproxy: Process

    def inside(self, *arguments: str) -> list[str]:
        return ["nsenter", "--target", self.first, "--pid", "--mount", "--", *arguments]

    def run(self, *arguments: str) -> str:
        return self.host.run(*self.inside(*arguments))

    def start_haproxy(self) -> None:
        assert HAPROXY is not None
        config = self.site.write(f"{self.name}.cfg", self.site.haproxy_config())
        self.haproxy = self.site.started(f"{self.name}-haproxy", self.host, self.inside(HAPROXY, "-db", "-f", config))

    def kill_haproxy(self) -> None:
        self.run("sh", "-c", "kill -KILL $(pgrep -x haproxy)")
        until(lambda: not self.haproxy.alive, "haproxy was killed and is there")

    def start_keepalived(self, peer: Machine, priority: int) -> None:
        assert KEEPALIVED is not None
        config = self.site.write(f"{self.name}.conf", self.site.keepalived_config(self, peer, priority))
        pids = [f"--{kind}={self.site.directory / self.name}-{kind}" for kind in ("pid", "vrrp_pid")]
        words = [KEEPALIVED, "--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file", config, *pids]
        self.keepalived = self.site.started(f"{self.name}-keepalived", self.host, self.inside(*words))

    def said(self, words: str) -> int:
        """How many lines keepalived has logged with these words."""
        return self.keepalived.log.read_text(errors="replace").count(words)

    @property
    def heard(self) -> int:
        """Advertisements that came in."""
        rules = self.host.run("iptables", "-w", "10", "-t", "mangle", "-nvxL", "INPUT")
        found = re.search(r"^ *(\d+) +\d+ +(?:112|vrrp) ", rules, re.MULTILINE)
        assert found is not None
        return int(found[1])

    @property
    def has_address(self) -> bool:
        return f" {self.site.virtual}/" in self.host.run("ip", "-4", "-o", "addr", "show", "dev", "eth0")


class Site:
    """Two machines, a broker, clients."""

    def __init__(self, claim: Claim, directory: Path) -> None:
        self.directory = directory
        self.processes: list[Process] = []
        self.network = Network(claim)
        self.virtual = claim.address(VIRTUAL)
        self.bridge = claim.bridge
        self.machines: list[Machine] = []
        self.clients: Process

    def start(self) -> None:
        self.machines = [Machine(self, name) for name in ("a", "b")]
        self.start_servers()
        for machine in self.machines:
            machine.start_haproxy()
        first, second = self.machines
        first.start_keepalived(second, 100)
        self.wait_for_owner(first)
        second.start_keepalived(first, 90)
        until(lambda: second.said(BACKUP) == 1 and second.heard > 3, "the second keepalived hears nothing of the first")
        self.wait_for_owner(first)
        program = [sys.executable, "-m", "tests.integration.test_keepalived", self.virtual]
        path = f"{ROOT}{os.pathsep}{environment()['PYTHONPATH']}"
        self.clients = self.started("clients", self.network.add("clients"), program, {"PYTHONPATH": path})
        self.wait_for_clients()

    def start_servers(self) -> None:
        addresses = [machine.host.address for machine in self.machines]
        planes, registers = (",".join(f"{address}:{port}" for address in addresses) for port in (9876, 9877))
        for machine in self.machines:
            self.start_ours(machine.host, "nameserver", "--http-port", "8089")
        host = self.network.add("broker")
        self.start_ours(host, "broker", "--data", str(self.directory / "data"), "--auto-create", "--nameserver", registers)
        for machine in self.machines:
            self.start_ours(machine.host, "proxy", "--nameserver", planes, "--grpc-port", "8083", "--http-port", "8090")

    def start_ours(self, host: Host, role: str, *arguments: str) -> None:
        words = [sys.executable, "-m", "kourou.cli", role, "--host", host.address, *arguments]
        server = self.started(f"{host.name}-{role}", host, words)
        until(lambda: "ready" in server.tail(1000).splitlines(), f"{server.name} is not ready", self.logs)

    def started(self, name: str, host: Host, words: list[str], env: dict[str, str] | None = None) -> Process:
        process = Process(name, host, lambda: words, logs=self.directory, env=env)
        self.processes.append(process)
        process.start()
        return process

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def haproxy_config(self) -> str:
        """As docs/deployment.md says for machines that run our servers, too."""
        first, second = (machine.host.address for machine in self.machines)
        text = addressed(CONFIG.read_text(), {"10.0.0.11": first, "10.0.0.12": second})
        for port in (9876, 9877):
            text = replaced(text, f"bind :{port}\n", f"bind {self.virtual}:{port}\n")
        return replaced(text, "maxconn 40000", "maxconn 100")  # two open files each, and the limit here may be low

    def keepalived_config(self, machine: Machine, peer: Machine, priority: int) -> str:
        places = {"10.0.0.10": self.virtual, "10.0.0.11": machine.host.address, "10.0.0.12": peer.host.address}
        text = addressed(KEEPALIVED_CONFIG.read_text(), places)
        text = replaced(text, "router_id kourou-1\n", f"router_id kourou-{machine.name}\n")
        return replaced(text, "    priority 100\n", f"    priority {priority}\n")

    # ---- what is waited for

    def wait_for_owner(self, owner: Machine) -> None:
        def holds() -> bool:
            return [machine for machine in self.machines if machine.has_address] == [owner]

        until(holds, f"machine {owner.name} alone should have the address", self.logs)

    def wait_for_clients(self) -> None:
        """Messages are sent, acknowledged and received that nobody had begun to send before this."""
        for kind in KINDS:
            new = max(self.told(kind, "sent"), default=-1) + 2

            def holds(kind: str = kind, new: int = new) -> bool:
                return all(max(self.told(kind, what), default=-1) >= new for what in ("sent", "received"))

            until(holds, f"{kind} clients do not go on", self.logs)

    def wait_for_all_messages(self) -> None:
        """Nothing acknowledged is lost. What was under way to a client that was cut off comes again."""
        self.clients.signal(signal.SIGTERM)
        for kind in KINDS:
            until(partial(self.told, kind, "ended"), f"{kind} clients do not end", self.logs)
            until(partial(self.all_received, kind), f"{kind} messages are lost", self.logs)

    def all_received(self, kind: str) -> bool:
        (count,) = self.told(kind, "ended")
        sent = self.told(kind, "sent")
        assert sent == set(range(count))
        return sent <= self.told(kind, "received")

    def told(self, kind: str, what: str) -> set[int]:
        """Numbers that the clients have printed."""
        assert self.clients.alive, self.logs()
        return {int(found) for found in re.findall(rf"^{kind} {what} (\d+)\n", self.clients.log.read_text(), re.MULTILINE)}

    def logs(self) -> str:
        return "\n".join(f"---- {process.name}\n{process.tail(40)}" for process in self.processes)


def addressed(text: str, places: dict[str, str]) -> str:
    return re.sub(r"\b10\.0\.0\.\d+\b", lambda found: places[found[0]], text)


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.fixture
def claim() -> Iterator[Claim]:
    held = None
    try:
        held = Claim()
        command("ip", "netns", "add", f"{held.prefix}try")
    except (CommandFailed, OSError) as failure:
        if held is not None:
            held.release()
        pytest.skip(f"NO HOSTS: no network namespaces here: {failure}")
    try:
        yield held
    finally:
        held.release()
    left = command("ip", "netns", "list") + command("ip", "-o", "link") + command("iptables", "-w", "10", "-S", "FORWARD")
    assert held.prefix not in left
    assert f"{held.bridge}-" not in left
    assert f" {held.bridge} " not in left


@pytest.fixture
def site(claim: Claim, tmp_path: Path) -> Iterator[Site]:
    made = Site(claim, tmp_path)
    try:
        made.start()
        yield made
    finally:
        claim.release()  # ends all that runs there, too
        for process in made.processes:
            process.kill()


def test_haproxy_is_killed_and_comes_back(site: Site) -> None:
    """Goal: the address goes to where haproxy lives, and stays there. Method: the first owner has the higher priority, so
    only nopreempt keeps it from taking the address back; it would, within four advertisements of the other."""
    first, second = site.machines
    first.kill_haproxy()
    site.wait_for_owner(second)
    site.wait_for_clients()
    backups = first.said(BACKUP)
    first.start_haproxy()
    until(lambda: first.said(BACKUP) > backups, "keepalived does not see that haproxy is back", site.logs)
    heard = first.heard
    until(lambda: first.heard >= heard + 6, "the new owner is silent", site.logs)
    site.wait_for_owner(second)
    assert first.said("Entering MASTER STATE") == 1
    site.wait_for_clients()
    second.kill_haproxy()  # the one that came back is good for something
    site.wait_for_owner(first)
    site.wait_for_clients()
    site.wait_for_all_messages()


def test_a_machine_is_cut_off(site: Site) -> None:
    """Its cable is pulled, and put in again. Its nameserver and proxy are gone with it."""
    first, second = site.machines
    backups = first.said(BACKUP)
    first.host.unplug()
    site.wait_for_owner(second)
    site.wait_for_clients()
    first.host.mend()
    until(lambda: first.said(BACKUP) > backups, "keepalived does not see that the cable is back", site.logs)
    heard = first.heard
    until(lambda: first.heard >= heard + 6, "the new owner is silent", site.logs)
    site.wait_for_owner(second)
    site.wait_for_clients()
    site.wait_for_all_messages()


def test_packets_of_a_machine_are_lost(site: Site) -> None:
    """A switch loses it, and its cable stays up: it keeps the address, and the other one takes it, as neither can know of
    the other. When they hear each other again one gives it up."""
    first, second = site.machines
    command("ip", "link", "set", first.host.outer, "nomaster")
    until(lambda: second.has_address, "the other machine has no address", site.logs)
    site.wait_for_clients()
    assert first.has_address
    command("ip", "link", "set", first.host.outer, "master", site.bridge)
    site.wait_for_owner(first)  # of two the one with the higher priority
    site.wait_for_clients()
    site.wait_for_all_messages()


# ---- the clients


class Front:
    """Looks like a node to ``Official``."""

    def __init__(self, address: str) -> None:
        self.urls = {"official gRPC": f"{address}:8081"}


def say(*words: object) -> None:
    print(*words, flush=True)


class TimedOut(Exception):
    """A proxy had no answer of a server in time: official clients send again."""


def succeeded(code: int, text: str) -> None:
    if code == Code.PROXY_TIMEOUT:
        raise TimedOut(text)
    assert code in (Code.OK, Code.MESSAGE_NOT_FOUND), (code, text)


async def persistently(kind: str, work: Callable[[], Awaitable[None]]) -> None:
    """As users of our clients do: what failed for want of a connection is tried again."""
    while True:
        try:
            await work()
        except (KourouError, OSError, TimedOut) as error:
            say(kind, "failed", repr(error))
        except grpc.aio.AioRpcError as failure:
            gone = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
            if failure.code() not in gone:
                raise
            say(kind, "failed", failure.code(), failure.details())
        else:
            return
        await asyncio.sleep(0.1)


class Clients:
    def __init__(self, address: str) -> None:
        self.native = f"{address}:9876"
        front: Any = Front(address)
        self.official = Official(front)
        self.no_more = asyncio.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.no_more.set)
        await persistently("native", self.create_topics)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.send("native", self.send_native))
            tasks.create_task(self.send("official", self.send_official))
            tasks.create_task(persistently("native", self.receive_native))
            tasks.create_task(persistently("official", self.receive_official))

    async def create_topics(self) -> None:
        async with Client(self.native) as client:
            for kind in KINDS:
                await client.create_topic(kind, queues=2)

    async def send(self, kind: str, once: Callable[[bytes], Awaitable[None]]) -> None:
        for number in itertools.count():
            if self.no_more.is_set():
                say(kind, "ended", number)
                return
            await persistently(kind, partial(once, b"%d" % number))
            say(kind, "sent", number)
            await asyncio.sleep(0.05)

    async def send_native(self, body: bytes) -> None:
        """A new client each time: it asks at the virtual address where the topic is."""
        async with Client(self.native) as client:
            await client.producer().send("native", body)

    async def send_official(self, body: bytes) -> None:
        """On one channel all the time: to a proxy, by the virtual address."""
        answer = await self.official.send(message("official", body))
        succeeded(answer.status.code, answer.status.message)

    async def receive_native(self) -> None:
        async with Client(self.native) as client, client.shared_consumer("native", group="g") as consumer:
            while True:
                for received in await consumer.receive(8, wait_s=2):
                    say("native received", received.body.decode())
                    await received.ack()

    async def receive_official(self) -> None:
        while True:
            got = await self.official.receive("official", "g", wait_ms=2_000, invisible_ms=INVISIBLE_MS)
            succeeded(got.code, got.text)
            for found in got.messages:
                say("official received", found.body.decode())
                await self.official.ack("official", "g", found.system_properties.receipt_handle)


async def main() -> None:
    await Clients(sys.argv[1]).run()


if __name__ == "__main__":
    asyncio.run(main())
