"""Every server process tells the service manager that it is ready and when it stops; a proxy is ready before it is used."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.node import Process

LIMIT_S = 30.0
PORTS = ("--grpc-port", "0", "--http-port", "0")


class Manager:
    """The end of the service manager."""

    def __init__(self, path: Path) -> None:
        self.env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(LIMIT_S)

    def heard(self, text: str) -> str:
        """The next notice with a line; what comes before it is dropped."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            notice = self.socket.recv(4096).decode()
            if text in notice.split("\n"):
                return notice
        raise AssertionError(f"{text} did not come")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def arguments(role: str, data: Path) -> tuple[str, ...]:
    """None of them needs the others to start."""
    nowhere = ("--nameserver", "127.0.0.1:1")
    return {
        "standalone": ("standalone", "--data", str(data), "--port", "0", *PORTS),
        "broker": ("broker", "--data", str(data), "--port", "0", *PORTS, *nowhere),
        "nameserver": ("nameserver", "--port", "0", *PORTS),
        "proxy": ("proxy", *PORTS, *nowhere),
    }[role]


@pytest.mark.parametrize("role", ["standalone", "broker", "nameserver", "proxy"])
def test_a_life(role: str, manager: Manager, tmp_path: Path) -> None:
    process = Process(*arguments(role, tmp_path / "data"), env=manager.env)
    try:
        assert manager.heard("STATUS=starting") == "STATUS=starting"
        notice = manager.heard("READY=1")
        assert "WATCHDOG=1" in notice
        assert "STATUS=" in notice
        for _ in range(3):
            manager.heard("WATCHDOG=1")
        process.wait_for("ready", whole=True)
    finally:
        status = process.stop()
    assert status == 0
    assert "STATUS=stopping" in manager.heard("STOPPING=1")


def test_one_that_cannot_start_is_never_ready(manager: Manager, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = Process("nameserver", "--port", port, *PORTS, env=manager.env)
        try:
            assert manager.heard("STATUS=starting") == "STATUS=starting"
            assert "READY" not in manager.heard("STOPPING=1")
        finally:
            process.stop()
    assert process.process.returncode == 1


def ready(http: str) -> bool:
    try:
        with urllib.request.urlopen(f"{http}/readyz", timeout=5):
            return True
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return False


def address(process: Process, name: str) -> str:
    process.wait_for("ready", whole=True)
    return next(line.rsplit(None, 1)[-1] for line in process.lines if line.startswith(name))


def test_a_proxy_is_ready_without_being_used(tmp_path: Path) -> None:
    """A balancer sends nobody to a proxy that is not ready, so it can't wait for the first call to look for brokers."""
    nameserver = Process("nameserver", "--port", "0", *PORTS)
    running = [nameserver]
    try:
        data_plane = address(nameserver, "data plane")
        running.append(Process("proxy", *PORTS, "--nameserver", data_plane))
        http = address(running[-1], "http")
        assert not ready(http)
        grpc = next(line.rsplit(None, 1)[-1] for line in nameserver.lines if line.startswith("gRPC"))
        broker = ("broker", "--data", str(tmp_path / "data"), "--port", "0", *PORTS)
        running.append(Process(*broker, "--nameserver", grpc))
        deadline = time.monotonic() + LIMIT_S
        while not ready(http):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for process in reversed(running):
            process.stop()
