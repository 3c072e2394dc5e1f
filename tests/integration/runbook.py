"""Commands of docs/runbooks.md, carried out: machines are processes of this one, everything else is as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import time

from tests.integration.command import Ended
from tests.integration.etcd import EtcdCluster
from tests.integration.node import ROOT, Process
from tests.integration.test_replication import LIMIT_S, Group

FENCE = re.compile(r"^```sh ([\w-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {found[1]: found[2].splitlines() for found in FENCE.finditer((ROOT / "docs" / "runbooks.md").read_text())}
UNIT = "kourou-broker@orders"
DATA = "/var/lib/kourou/orders"
CONFIG = "/etc/kourou/broker-orders.toml"
DEFAULTS = "/etc/default/kourou"
STATUS_PAUSE_S = 0.1


class Runbook:
    """``ssh mN`` is member N, unless ``names`` says otherwise. ``failover`` is what failover.toml has, as options."""

    def __init__(self, made: Group, etcd: EtcdCluster | None = None, *, failover: tuple[str, ...] = ()) -> None:
        self.made = made
        self.names: dict[str, int] = {}
        self._etcd = etcd
        self._failover = failover
        self._options: dict[int, tuple[str, ...]] = {}
        self._defaults: dict[int, dict[str, str]] = {}

    async def follow(self, block: str) -> list[Ended]:
        """Carry out a block, line by line; what each line that prints something has printed."""
        found = []
        for line in BLOCKS[block]:
            print(f"$ {line}")
            ended = await asyncio.to_thread(self.perform, line)
            if ended is not None:
                print(ended.out + ended.err)
                found.append(ended)
        return found

    def perform(self, line: str) -> Ended | None:
        words = shlex.split(line)
        match words:
            case ["ssh", machine, "sudo", *rest]:
                return self._on(self._member(machine), rest)
            case ["ssh", machine, text]:
                self._write(self._member(machine), text)
                return None
            case ["kourou", "status"]:
                return self._well()
            case ["kourou", *rest]:
                ended = self.made.shell.run(*("group-a" if word == "orders" else word for word in rest))
                assert ended.status == 0, ended
                return ended
            case ["etcdctl", *rest]:
                return self._etcdctl(rest)
        raise AssertionError(f"docs/runbooks.md: {line!r} can't be carried out here")

    def _member(self, machine: str) -> int:
        return self.names.get(machine, int(machine.removeprefix("m")))

    def _on(self, member: int, words: list[str]) -> Ended | None:
        match words:
            case ["systemctl", "start", unit] if unit == UNIT:
                self._start(member)
            case ["systemctl", "stop", unit] if unit == UNIT:
                self._stop(member)
            case ["systemctl", "disable", "--now", unit] if unit == UNIT:
                self._stop(member)
            case ["systemctl", "restart", unit] if unit == UNIT:
                self._stop(member)
                self._start(member)
            case ["mv", directory, lost] if (directory, lost) == (DATA, f"{DATA}.lost"):
                shutil.move(self.made.data(member), f"{self.made.data(member)}.lost")
            case ["sed", "-i", pattern, file] if file == DEFAULTS:
                del self._defaults[member][pattern.strip("/d")]
            case ["kourou", "log", *rest]:
                ended = self.made.shell.run("log", *(str(self.made.data(member)) if word == DATA else word for word in rest))
                assert ended.status == 0, ended
                return ended
            case ["df", _]:
                pass
            case _:
                raise AssertionError(f"docs/runbooks.md: {words} can't be carried out here")
        return None

    def _write(self, member: int, text: str) -> None:
        found = re.fullmatch(rf"echo (KOUROU_\w+)=(\w+) \| sudo tee -a {DEFAULTS}", text)
        if found is not None:
            self._defaults.setdefault(member, {})[found[1]] = found[2]
        else:
            assert text == f"cat failover.toml | sudo tee -a {CONFIG}", text
            self._options[member] = self._failover

    def _start(self, member: int) -> None:
        process = self.made.members.get(member)
        if process is not None:
            if process.process.poll() is None:
                return
            process.kill()  # its output is closed
        self.made.env = self._defaults.get(member, {})
        try:
            self.made.start(member, *self._options.get(member, ()))
        finally:
            self.made.env = {}

    def _stop(self, member: int) -> None:
        process: Process = self.made.members[member]
        if process.process.poll() is None:
            process.process.send_signal(signal.SIGTERM)
            status = process.process.wait(LIMIT_S)
            assert status == 0 or "election_halted" in process.output(), process.output()  # it may have been about to stop

    def _well(self) -> Ended:
        """What follows "done when": asked until all is well."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            ended = self.made.shell.run("status")
            if ended.status == 0:
                return ended
            assert time.monotonic() < deadline, ended
            time.sleep(STATUS_PAUSE_S)

    def _etcdctl(self, words: list[str]) -> Ended:
        assert self._etcd is not None
        done = subprocess.run(
            ["etcdctl", *(word.replace("/orders/", "/group-a/") for word in words)],
            env={**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self._etcd.addresses},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done
        return Ended(done.returncode, done.stdout, done.stderr)
