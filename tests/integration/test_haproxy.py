"""One address in front of a cluster: the haproxy config that we ship, with haproxy, while what is behind it is killed."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kourou.client import Client
from tests.integration.node import ROOT, Process, until
from tests.integration.official import Code, Official, message

HAPROXY = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
KEEPALIVED = shutil.which("keepalived") or shutil.which("/usr/sbin/keepalived")
CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
LIMIT_S = 30.0
CLIENTS = 4

needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed (apt install haproxy)")
needs_keepalived = pytest.mark.skipif(KEEPALIVED is None, reason="keepalived is not installed (apt install keepalived)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(Process):
    """One of ours, with its ports."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments, "--grpc-port", "0", "--http-port", "0")
        self.wait_for("ready", whole=True)
        self.ports: dict[str, int] = {}
        for line in self.lines:
            found = re.fullmatch(r"(data plane|official gRPC|gRPC|http) +\S+:(\d+)", line)
            if found is not None:
                self.ports[found[1]] = int(found[2])

    def at(self, what: str) -> str:
        return f"127.0.0.1:{self.ports[what]}"

    def end(self) -> None:
        if self.process.poll() is None:
            self.stop()


class Front:
    """Looks like a node to ``Official``: the address of haproxy."""

    def __init__(self, port: int) -> None:
        self.urls = {"official gRPC": f"127.0.0.1:{port}"}


def ours(proxies: list[Server], nameservers: list[Server], ports: dict[str, int]) -> str:
    """The config as it is shipped, with the addresses of this test."""
    text = CONFIG.read_text()
    places = {
        "proxy": [(one.ports["official gRPC"], one.ports["http"]) for one in proxies],
        "9876": [(one.ports["data plane"], one.ports["http"]) for one in nameservers],
        "9877": [(one.ports["gRPC"], one.ports["http"]) for one in nameservers],
    }

    def server(found: re.Match[str]) -> str:
        kind = "proxy" if found["name"] == "proxy" else found["port"]
        serves, checked = places[kind][int(found["number"]) - 1]
        return f"server {found['name']}-{found['number']} 127.0.0.1:{serves} port {checked}"

    text, count = re.subn(
        r"server (?P<name>proxy|nameserver)-(?P<number>\d) 10\.0\.0\.\d+:(?P<port>\d+) port \d+", server, text
    )
    assert count == 6
    text, count = re.subn(r"maxconn \d+", "maxconn 100", text)  # two open files each, and the limit here may be low
    assert count == 1
    for bind, port in ports.items():
        text, count = re.subn(rf"bind {re.escape(bind)}\n", f"bind 127.0.0.1:{port}\n", text)
        assert count == 1, bind
    return text


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return False
    except OSError:
        return False


class Site:
    """Two nameservers, a broker, two proxies, haproxy."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        def started(*arguments: str) -> Server:
            server = Server(*arguments)
            stack.callback(server.end)
            return server

        self.nameservers = [started("nameserver", "--port", "0") for _ in range(2)]
        broker = ("broker", "--port", "0", "--data", str(directory / "broker"), "--auto-create")
        started(*broker, "--nameserver", ",".join(one.at("gRPC") for one in self.nameservers))
        planes = ",".join(one.at("data plane") for one in self.nameservers)
        self.proxies = [started("proxy", "--nameserver", planes) for _ in range(2)]
        for server in self.proxies:
            until(partial(is_ready, server.ports["http"]), "the proxies reach no broker")
        self.ports = {name: free_port() for name in (":8081", ":9876", ":9877", "127.0.0.1:8404")}
        path = directory / "haproxy.cfg"
        path.write_text(ours(self.proxies, self.nameservers, self.ports))
        assert HAPROXY is not None
        log = stack.enter_context((directory / "haproxy.log").open("w"))
        self.haproxy = subprocess.Popen([HAPROXY, "-db", "-f", str(path)], stdout=log, stderr=log)
        stack.callback(self.haproxy.wait, 30)
        stack.callback(self.haproxy.terminate)
        until(lambda: self.servers("proxies") == {"UP"}, f"haproxy does not serve; see {log.name}")

    def servers(self, backend: str) -> set[str]:
        """States of the servers of a backend, as haproxy says."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['127.0.0.1:8404']}/;csv", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return set()
        names = lines[0].removeprefix("# ").split(",")
        rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:]]
        return {row["status"] for row in rows if row["pxname"] == backend and row["svname"] not in ("FRONTEND", "BACKEND")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("site"), stack)


async def send(client: Official, topic: str, body: bytes) -> None:
    """As official clients do: again, when the connection went down under the call."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            answer = await client.send(message(topic, body))
        except grpc.aio.AioRpcError as failure:
            gone = failure.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            if not gone or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
            continue
        assert answer.status.code == Code.OK, answer
        return


@needs_haproxy
async def test_a_proxy_is_killed(site: Site) -> None:
    """Goal: clients of one address go on when a proxy dies. Method: more clients than proxies, so that each has some."""
    async with Client(f"127.0.0.1:{site.ports[':9876']}") as native:
        await native.create_topic("proxied", queues=4)
    front: Any = Front(site.ports[":8081"])
    clients = [Official(front) for _ in range(CLIENTS)]
    try:
        for number, client in enumerate(clients):
            await send(client, "proxied", b"before %d" % number)
        got = await clients[0].received("proxied", "g", CLIENTS)
        assert {found.body for found in got} == {b"before %d" % number for number in range(CLIENTS)}
        for found in got:
            answer = await clients[0].ack("proxied", "g", found.system_properties.receipt_handle)
            assert answer.status.code == Code.OK
        site.proxies[0].kill()
        for number, client in enumerate(clients):
            await send(client, "proxied", b"after %d" % number)
        bodies: set[bytes] = set()
        deadline = time.monotonic() + LIMIT_S
        while len(bodies) < CLIENTS:  # a send whose answer was lost may be there twice
            assert time.monotonic() < deadline
            received = await clients[0].receive("proxied", "g", wait_ms=5_000)
            bodies |= {found.body for found in received.messages}
        assert bodies == {b"after %d" % number for number in range(CLIENTS)}
        until(lambda: site.servers("proxies") == {"UP", "DOWN"}, "haproxy did not see that a proxy is gone")
    finally:
        for client in clients:
            await client.channel.close()


@needs_haproxy
async def test_a_nameserver_is_killed(site: Site) -> None:
    """Native clients and official ones find the cluster by one address, with one nameserver as with two."""
    address = f"127.0.0.1:{site.ports[':9876']}"
    async with Client(address) as client:
        await client.create_topic("named", queues=2)
        await client.producer().send("named", b"native")
    access_point: Any = Front(site.ports[":9877"])
    async with Official(access_point) as official:
        await send(official, "named", b"official")
    site.nameservers[0].kill()
    until(lambda: site.servers("nameservers") == {"UP", "DOWN"}, "haproxy did not see that a nameserver is gone")
    async with Client(address) as client:
        await client.producer().send("named", b"native")
    async with Official(access_point) as official:
        await send(official, "named", b"official")
        assert len(await official.received("named", "g", 4)) == 4


@needs_haproxy
def test_the_config_is_valid() -> None:
    assert HAPROXY is not None
    done = subprocess.run([HAPROXY, "-c", "-f", str(CONFIG)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@needs_keepalived
def test_the_keepalived_config_is_valid() -> None:
    """As far as keepalived can say without the network card of the example: it knows all words. The check of one with
    a script ends with SIGTERM to its whole process group (keepalived 2.2.7), so it gets one of its own."""
    assert KEEPALIVED is not None
    path = ROOT / "deploy/haproxy/keepalived.conf"
    done = subprocess.run(
        [KEEPALIVED, "-t", "-f", str(path)], capture_output=True, text=True, timeout=30, start_new_session=True
    )
    assert "Unknown" not in (done.stdout + done.stderr).replace("Unknown interface", "")
