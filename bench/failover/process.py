"""A server as a process that can be killed, frozen and started again; what it says goes to a file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

STOP_S = 30.0
LIMIT_S = 120.0


class Running:
    def __init__(
        self, command: Sequence[str], log: Path, *, env: dict[str, str] | None = None, folder: Path | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.command = list(command)
        self.log = log
        self._env = env
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._from = self.log.stat().st_size if self.log.exists() else 0
        self.started = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._env, cwd=self._folder
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        """Of this start."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def wait_for(self, text: str, timeout_s: float = LIMIT_S) -> None:
        def said() -> bool:
            if text in self.output():
                return True
            if not self.alive:
                raise RuntimeError(f"it ended ({self.process.returncode}) before it said {text!r}: {self.log}")
            return False

        until(said, f"{text!r} in {self.log}", timeout_s=timeout_s, pause_s=0.01)

    def kill(self) -> None:
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(STOP_S)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self.alive:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """In good order."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()


class TimedOut(Exception):
    pass


def until(condition: Callable[[], bool], what: str, *, timeout_s: float = LIMIT_S, pause_s: float = 0.05) -> float:
    """Wait for it; how many seconds it took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > timeout_s:
            raise TimedOut(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(pause_s)
    return time.monotonic() - begun
