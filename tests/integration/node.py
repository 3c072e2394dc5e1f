"""A real node in a process of its own, for tests on loopback."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("proto", "core", "nameserver", "broker", "client")
READY_S = 60.0


def environment() -> dict[str, str]:
    """The environment in which a bare checkout runs: the five source roots on the path."""
    path = os.pathsep.join(str(ROOT / source) for source in SOURCES)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def patched(folder: Path, program: str, **env: str) -> dict[str, str]:
    """An environment in which processes run this first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(program)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{environment()['PYTHONPATH']}", **env}


def until(
    holds: Callable[[], object], what: str, explain: Callable[[], str] = str, *, limit_s: float = 30.0, pause_s: float = 0.05
) -> None:
    """Look again and again until it holds. AssertionError, with what explains it, when it does not come to that in time."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}\n{explain()}"
        time.sleep(pause_s)


class Process:
    """A command whose output is read line by line as it comes."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.lines: list[str] = []
        self._arguments = arguments
        self._fresh: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kourou.cli", *arguments],
            env={**environment(), **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._fresh.put(line.rstrip("\n"))
        self._fresh.put(None)

    def wait_for(self, text: str, *, whole: bool = False, timeout_s: float = READY_S) -> str:
        """The first new line that holds the text (or, ``whole``, is the text).

        AssertionError with all output when it does not come.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._fresh.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} within {timeout_s} s; output:\n{self.output()}") from None
            if line is None:
                raise AssertionError(f"the process ended ({self.process.wait()}) before {text!r}; output:\n{self.output()}")
            self.lines.append(line)
            if line == text if whole else text in line:
                return line

    def output(self) -> str:
        while not self._fresh.empty():
            line = self._fresh.get_nowait()
            if line is not None:
                self.lines.append(line)
        return "\n".join(self.lines)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(30)
        self._close()

    def stop(self, *, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
            raise AssertionError(f"did not stop within {timeout_s} s; output:\n{self.output()}") from None
        finally:
            self._close()
        return status

    def _close(self) -> None:
        """What it has said is shown when a test fails."""
        self._thread.join(10)
        print(f"--- {' '.join(self._arguments)}\n{self.output()}")
        if self.process.stdout is not None:
            self.process.stdout.close()


class Node(Process):
    """`kourou standalone` on free ports."""

    def __init__(self, data: Path, *arguments: str, port: int = 0, env: dict[str, str] | None = None) -> None:
        super().__init__(
            "standalone", "--data", str(data), "--port", str(port), "--grpc-port", "0", "--http-port", "0", *arguments,
            env=env,
        )  # fmt: skip
        try:
            self.wait_for("ready", whole=True)
        except AssertionError:
            self.process.kill()
            self._close()
            raise
        self.urls: dict[str, str] = {}
        for line in self.lines:
            for name in ("data plane", "official gRPC", "http"):
                if line.startswith(name):
                    self.urls[name] = line.rsplit(None, 1)[-1]
        self.address = self.urls["data plane"]
        self.port = int(self.address.rsplit(":", 1)[1])

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.stop()
        else:
            self._close()
