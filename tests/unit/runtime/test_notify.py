"""What the service manager is told, over a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kourou.core.errors import KourouError
from kourou.runtime.notify import STATUS_BYTES_MAX, STATUS_S, Notifier
from kourou.runtime.process import serve


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **fields: object) -> None:
        self.events.append(event)


class Manager:
    """The end of the service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(20)

    def heard(self) -> dict[str, str]:
        """The next notice."""
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def heard_nothing(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(20)
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@kourou-{uuid.uuid4().hex}" if request.param == "abstract" else str(tmp_path / "notify")
    made = Manager(name)
    yield made
    made.socket.close()


def notifier(environment: dict[str, str], log: Log | None = None) -> Notifier:
    return Notifier.from_environment(environment, log=log or Log())


def test_a_life(manager: Manager) -> None:
    told = notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())})
    assert told.interval_s == 2.0
    told.starting("reads the log")
    assert manager.heard() == {"STATUS": "reads the log"}
    told.beat("serves")
    assert manager.heard() == {"READY": "1", "WATCHDOG": "1", "STATUS": "serves"}
    told.beat("serves")
    assert manager.heard() == {"WATCHDOG": "1"}
    told.beat("serves\n more")
    assert manager.heard() == {"WATCHDOG": "1", "STATUS": "serves more"}
    told.stopping("ends")
    assert manager.heard() == {"STOPPING": "1", "STATUS": "ends"}


def test_without_a_watchdog_only_the_status_is_said(manager: Manager) -> None:
    for period in ({}, {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}):  # the second: not meant for us
        told = notifier({"NOTIFY_SOCKET": manager.address, **period})
        assert told.interval_s == STATUS_S
        told.beat("serves")
        assert manager.heard() == {"READY": "1", "STATUS": "serves"}
        told.beat("serves")
        assert manager.heard_nothing()


def test_without_a_manager() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}):
        log = Log()
        told = notifier(environment, log)
        assert told.interval_s is None
        told.starting("a")
        told.beat("b")
        told.stopping("c")
        assert log.events == []


def test_the_environment_is_not_handed_on(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    notifier(environment)
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    ("environment", "event"),
    [
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, "notify_socket_unknown"),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, "watchdog_period_unknown"),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, "watchdog_period_unknown"),
    ],
)
def test_what_is_not_understood_is_logged(environment: dict[str, str], event: str) -> None:
    log = Log()
    notifier(environment, log)
    assert log.events == [event]


def test_ready_is_said_until_it_is_taken(tmp_path: Path) -> None:
    """A manager that is away (or does not read) is not waited for, and hears of it later. Complained of once."""
    log, address = Log(), str(tmp_path / "notify")
    told = notifier({"NOTIFY_SOCKET": address}, log)
    told.beat("serves")
    told.beat("serves")
    assert log.events == ["not_notified"]
    manager = Manager(address)
    try:
        told.beat("serves")
        assert manager.heard() == {"READY": "1", "STATUS": "serves"}
    finally:
        manager.socket.close()


def test_a_manager_that_does_not_read_blocks_nobody(manager: Manager) -> None:
    log = Log()
    told = notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}, log)
    for number in range(100_000):
        told.beat(f"number {number}")
        if log.events:
            break
    assert log.events == ["not_notified"]


def test_the_status_is_one_line_of_bounded_length(manager: Manager) -> None:
    told = notifier({"NOTIFY_SOCKET": manager.address})
    told.beat("é" * 2 * STATUS_BYTES_MAX + "\nREADY=1")
    status = manager.heard()["STATUS"]
    assert status == "é" * (STATUS_BYTES_MAX // 2)


class Dull:
    """A service that does nothing."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.failure: KourouError | None = None

    async def start(self) -> dict[str, str]:
        return {}

    async def stop(self) -> None:
        pass

    def status_line(self) -> str:
        return "serves"


@pytest.fixture
def environment(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    yield
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


async def test_a_process_beats_until_it_fails(manager: Manager, environment: None) -> None:
    service, seen = Dull(), list[dict[str, str]]()

    def read() -> None:
        while "STOPPING" not in (seen[-1] if seen else {}):
            seen.append(manager.heard())
            if len(seen) == 5:
                loop.call_soon_threadsafe(fail)

    def fail() -> None:
        service.failure = KourouError("the disk is gone")
        service.stopped.set()

    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, read)
    with pytest.raises(KourouError, match="the disk is gone"):
        await serve(service, ready=lambda urls: None, connections=1)
    await reading
    assert seen[0] == {"STATUS": "starting"}
    assert seen[1] == {"READY": "1", "WATCHDOG": "1", "STATUS": "serves"}
    assert seen[2:5] == [{"WATCHDOG": "1"}] * 3
    assert seen[-1] == {"STOPPING": "1", "STATUS": "stopping: the disk is gone"}


async def test_a_process_that_cannot_start_is_never_ready(manager: Manager, environment: None) -> None:
    class Broken(Dull):
        async def start(self) -> Any:
            raise KourouError("no")

    with pytest.raises(KourouError, match="no"):
        await serve(Broken(), ready=lambda urls: None, connections=1)
    assert manager.heard() == {"STATUS": "starting"}
    assert manager.heard() == {"STOPPING": "1", "STATUS": "stopping"}
    assert manager.heard_nothing()


async def test_a_loop_that_is_held_is_silent(manager: Manager, environment: None) -> None:
    """Goal: the watchdog sees a stuck loop. Method: nothing comes while a callback holds the loop, however long."""
    service, held = Dull(), list[bool]()

    def hold() -> None:
        while not manager.heard_nothing():  # what was said before
            pass
        with pytest.raises(TimeoutError):
            manager.socket.settimeout(0.1)  # five periods
            manager.socket.recv(1)
        held.append(True)
        service.stopped.set()

    asyncio.get_running_loop().call_later(0.05, hold)
    await serve(service, ready=lambda urls: None, connections=1)
    assert held
