"""The ``kourou`` command as a process: run to its end, or followed while it runs."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.integration.node import environment

COMMAND = (sys.executable, "-m", "kourou.cli")
LIMIT_S = 60.0
T = TypeVar("T")
# Where the tests themselves run in the background, Ctrl-C would be ignored. A preexec_fn makes subprocess fork, and gRPC's
# threads, which it starts again in the child, abort when their files are closed there.
HEEDING_CTRL_C = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Shell:
    """Where commands run: which server they ask, in which directory."""

    def __init__(self, server: str | None, directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.env = {name: value for name, value in environment().items() if not name.startswith("KOUROU_")}
        self.env |= {"PYTHONWARNINGS": "error", **(env or {})}
        if server is not None:
            self.env["KOUROU_SERVER"] = server

    def run(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Whatever comes of it."""
        done = subprocess.run(
            [*COMMAND, *arguments], env=self.env, cwd=self.directory, input=stdin, capture_output=True, timeout=LIMIT_S
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def done(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """It must succeed, and say nothing on standard error."""
        ended = self.run(*arguments, stdin=stdin)
        assert (ended.status, ended.err) == (0, ""), ended
        return ended

    def json(self, *arguments: str, stdin: bytes = b"") -> Any:
        return self.done(*arguments, "-o", "json", stdin=stdin).json

    def fails(self, *arguments: str, status: int = 1, stdin: bytes = b"", out: str = "") -> str:
        """It must fail as a command does: a status, and one line that says why."""
        ended = self.run(*arguments, stdin=stdin)
        assert ended.status == status, ended
        assert re.fullmatch(r"error: [^\n]+\n", ended.err), ended
        assert re.fullmatch(out, ended.out), ended
        return ended.err

    def all_fail(self, expected: Iterable[tuple[str, str]], *, status: int = 1) -> None:
        """Lines, side by side, each with a text that must be in what it says."""

        def check(line: str, text: str) -> None:
            assert text in self.fails(*shlex.split(line), status=status, stdin=b"x\n"), line

        side_by_side(check, expected)

    def follow(self, *arguments: str) -> Followed:
        return Followed(self, arguments)


def side_by_side(call: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
    """The results of calls that don't mind each other, in their order; as many at a time as pay on two cores."""
    with ThreadPoolExecutor(4) as pool:
        return [called.result() for called in [pool.submit(call, *each) for each in arguments]]


class Followed:
    """A command that goes on until it is stopped; ended with the block at the latest."""

    def __init__(self, shell: Shell, arguments: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", HEEDING_CTRL_C, *COMMAND, *arguments],
            env=shell.env,
            cwd=shell.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.process.wait(LIMIT_S)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if not line:
            raise AssertionError(f"it has ended: {self.wait()}")
        return line.rstrip("\n")

    def type(self, text: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def stop_reading(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; exit status and what it said."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        status = self.process.wait(LIMIT_S)
        return status, self.process.stderr.read().decode()
