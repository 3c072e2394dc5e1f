"""The hosts of `make chaos`: they reach each other, are cut off, are mended; nothing of them is left in the end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.claim import Claim, CommandFailed, command, end_all
from tests.chaos.network import Host, Network, Way
from tests.chaos.process import Process
from tests.chaos.run import missing

SERVER = "import socket; s = socket.create_server(('', 7000))\nwhile True: s.accept()[0].close()"
CLIENT = "import socket, sys; socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2])).close()"


@pytest.fixture
def claim() -> Iterator[Claim]:
    why = missing()
    if why is not None:
        pytest.skip(f"NO HOSTS: {why}")
    held = Claim()
    try:
        yield held
    finally:
        held.release()
        left = (
            command("ip", "netns", "list") + command("ip", "-o", "link") + command("iptables", "-w", "10", "-S", "FORWARD")
        )
        assert held.prefix not in left
        assert f"{held.bridge}-" not in left
        assert f" {held.bridge} " not in left


def reaches(host: Host, other: Host, timeout_s: float = 0.3) -> bool:
    try:
        host.run(sys.executable, "-c", CLIENT, other.address, str(timeout_s))
    except CommandFailed:
        return False
    return True


async def test_hosts_are_cut_off_and_mended(claim: Claim, tmp_path: Path) -> None:
    network = Network(claim)
    one, two = network.add("one"), network.add("two")
    servers = [Process(host.name, host, lambda: [sys.executable, "-c", SERVER], logs=tmp_path) for host in (one, two)]
    for server in servers:
        server.start()
    async with asyncio.timeout(30):
        while not (reaches(one, two) and reaches(two, one)):
            await asyncio.sleep(0.05)
    one.cut_off_from(network.hosts)
    assert not reaches(one, two)
    assert not reaches(two, one)
    network.mend()
    assert reaches(one, two, 30)
    two.cut_off_from(network.hosts, Way.OUT)
    assert not reaches(one, two)
    network.mend()
    two.unplug()
    assert not reaches(one, two)
    network.mend()
    two.slow_down("1mbit")
    assert reaches(one, two, 30)
    network.mend()
    assert reaches(two, one, 30)
    for server in servers:
        server.kill()


async def test_a_process_is_killed_frozen_and_stopped(claim: Claim, tmp_path: Path) -> None:
    host = Network(claim).add("one")
    process = Process("sleeper", host, lambda: ["sleep", "600"], logs=tmp_path)
    process.start()
    process.freeze()
    process.thaw()
    assert process.alive
    process.kill()
    assert process.status == -9
    process.start()
    assert await process.stop() == -15
    process.start()
    async with asyncio.timeout(30):
        while not await process.ended(timeout_s=0.2):
            end_all(host.namespace)  # it takes a moment to come there


def test_two_runs_have_different_numbers(claim: Claim) -> None:
    other = Claim()
    try:
        assert other.number != claim.number
    finally:
        other.release()
