"""Clients of the official API behind a proxy do not notice that the master was replaced."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.integration.etcd import needs_etcd
from tests.integration.node import Process
from tests.integration.test_failover import elected, settled, start
from tests.integration.test_replication import LIMIT_S, Group, address_of, client_of

pytestmark = [
    needs_etcd,
    pytest.mark.skipif(find_spec("rocketmq") is None, reason="rocketmq-python-client is not installed"),
]
WORKER = Path(__file__).with_name("official_worker.py")


class Worker:
    def __init__(self, *arguments: str) -> None:
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.said.append(json.loads(line))

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition(self.said):
            assert time.monotonic() < deadline, self.said[-20:]
            assert self.process.poll() is None
            await asyncio.sleep(0.02)

    def all(self, name: str) -> list[Any]:
        return [line[name] for line in self.said if name in line]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self._thread.join(10)
            assert self.process.stdout is not None
            self.process.stdout.close()


def gap(worker: Worker, began: float) -> float:
    """The longest time in which it had nothing to say, about a moment."""
    times: list[float] = [line["at"] for line in worker.said if began - 0.1 < line["at"] < began + 20]
    return max(after - before for before, after in itertools.pairwise(times))


@contextmanager
def worker(*arguments: str) -> Iterator[Worker]:
    made = Worker(*arguments)
    try:
        yield made
    finally:
        made.end()


@contextmanager
def proxy_of(made: Group) -> Iterator[str]:
    proxy = Process("proxy", "--nameserver", made.server, "--grpc-port", "0", "--http-port", "0")
    try:
        proxy.wait_for("ready", whole=True)
        yield address_of(proxy, "official gRPC")
    finally:
        proxy.kill()


@pytest.mark.parametrize(
    ("how", "through"), [("killed", "proxy"), ("asked", "proxy"), ("stopped", "proxy"), ("killed", "nameserver")]
)
async def test_sends_and_receives_go_on(tmp_path: Path, how: str, through: str) -> None:
    """Goal: no send fails, no receive fails, everything that was sent arrives. Twice: the new master is replaced, too."""
    with elected(tmp_path) as (made, _), ExitStack() as stack:
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=4)
            await client.create_group("g", shape="shared")
        point = (
            stack.enter_context(proxy_of(made))
            if through == "proxy"
            else address_of(made.nameserver, "gRPC").removeprefix("http://")
        )
        receiver = stack.enter_context(worker("receive", point, "t", "g"))
        sender = stack.enter_context(worker("send", point, "t", "0.01"))
        await receiver.until(lambda said: len(receiver.all("got")) >= 50)
        for _ in range(2):
            sent, got = len(sender.all("sent")), len(receiver.all("got"))
            began = time.monotonic()
            if how == "killed":
                made.kill(master)
            elif how == "stopped":
                assert await asyncio.to_thread(made.members[master].stop) == 0
            else:
                await made.promote(next(member for member in (0, 1, 2) if member != master))
            await sender.until(lambda said, sent=sent: len(sender.all("sent")) >= sent + 50)  # type: ignore[misc]
            await receiver.until(lambda said, got=got: len(receiver.all("got")) >= got + 50)  # type: ignore[misc]
            print(f"{how}: no send for {gap(sender, began):.3f} s, no receive for {gap(receiver, began):.3f} s")
            lost = [line for line in sender.said if "failed" in line and line["began"] < began]
            assert len(lost) <= (how == "killed")  # of that one nobody knows what came of it
            assert [line for line in sender.said if "failed" in line and line not in lost] == []
            assert [line for line in receiver.said if "error" in line] == []
            if how != "asked":
                await asyncio.to_thread(made.start, master)
            master = await settled(made, 0, 1, 2, but=master)
        await asyncio.to_thread(sender.end)
        wanted = set(sender.all("sent"))
        await receiver.until(lambda said: wanted <= set(receiver.all("got")))
