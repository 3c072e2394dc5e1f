"""A process on one of the hosts: started, killed, frozen, told to stop, started again; its output goes to a file."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos.network import Host
from tests.integration.node import environment

STOP_S = 40.0
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


def _die_with_the_runner() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """``arguments`` is asked at each start, as options may differ then."""

    def __init__(
        self, name: str, host: Host, arguments: Callable[[], list[str]], *, logs: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.host = host
        self.log = logs / f"{name}.log"
        self.meant_to_run = False  # a process that ends while this holds has ended by itself
        self._arguments = arguments
        self._env = {**environment(), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs, or was never started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        if self.alive:
            return
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.host.namespace, *self._arguments()],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the runner
                preexec_fn=_die_with_the_runner,
            )
        self._frozen = False
        self.meant_to_run = True

    def kill(self) -> None:
        """kill -9, and nothing of it is left afterwards."""
        self.meant_to_run = False
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.alive:
            os.kill(self._process.pid, number)

    def freeze(self) -> None:
        self._frozen = True
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self.signal(signal.SIGCONT)

    async def stop(self, *, timeout_s: float = STOP_S) -> int | None:
        """SIGTERM; the exit status, or None when it had to be killed because it did not end in time."""
        self.meant_to_run = False
        self.signal(signal.SIGTERM)
        if await self.ended(timeout_s=timeout_s):
            return self.status
        self.kill()
        return None

    async def ended(self, *, timeout_s: float) -> bool:
        """Wait until it has ended by itself; whether it did."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.alive:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    def tail(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""
