"""The process groups of the suites that run, so that none outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO


class Groups:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._closed = False

    def start(self, argv: list[str], *, cwd: Path, env: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise RuntimeError("interrupted")
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process.pid)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._kill(process.pid)
            self._running.discard(process.pid)
        process.wait()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for group in self._running:
                self._kill(group)

    @staticmethod
    def _kill(group: int) -> None:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
