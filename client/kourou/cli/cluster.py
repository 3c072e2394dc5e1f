"""``kourou cluster up``: one nameserver and some brokers, each a process of its own, for trying things out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kourou.cli.failures import FAILED, CommandFailed
from kourou.cli.output import note
from kourou.cli.servers import warn_if_open

READY_S = 30.0
STOP_S = 20.0
_URL_LINE = re.compile(r"(data plane|(?:official )?gRPC|http)\s+(\S+)")
NAMES = "abcdefghijklmnopqrstuvwxyz"


def up(
    *,
    groups: Annotated[int, Parameter(help="Broker groups, of one master each.")] = 2,
    data: Annotated[Path, Parameter(help="Below it each broker gets a directory.")] = Path("kourou-data/cluster"),
    host: Annotated[str, Parameter(help="Address that all listen on. There is no authentication yet.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The nameserver's data plane; 0: every port is a free one.")] = 9876,
    grpc_port: Annotated[int, Parameter(help="The nameserver's gRPC port.")] = 9877,
    broker_port: Annotated[
        int, Parameter(help="First of the brokers' ports: three each, for data plane, gRPC and HTTP.")
    ] = 10911,
    demo: Annotated[bool, Parameter(negative=(), help="When ready, run the demo; then stay up.")] = False,
) -> int:
    """Run a nameserver and brokers as processes of their own, until Ctrl-C or SIGTERM."""
    if not 1 <= groups <= len(NAMES):
        raise CommandFailed(f"--groups must be from 1 to {len(NAMES)}", status=2)
    warn_if_open(host)
    return asyncio.run(LocalCluster(host, data).run(groups, (port, grpc_port), broker_port if port else 0, demo=demo))


class Child:
    """A ``kourou`` process whose output is passed on with its name before each line."""

    def __init__(self, name: str, width: int, unheard: Callable[[], None]) -> None:
        """``unheard`` is called when nobody reads our output any more."""
        self.name = name
        self.urls: dict[str, str] = {}
        self.ready = asyncio.Event()
        self._width = width
        self._unheard = unheard
        self._process: asyncio.subprocess.Process | None = None
        self._signalled: int | None = None
        self._tail: list[str] = []

    async def run(self, *arguments: str) -> int:
        """Start it, pass its output on until it ends; its exit status."""
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kourou.cli",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on, in order
        )
        if self._signalled is not None:
            self.signal(self._signalled)  # it was told to end before it was there
        assert process.stdout is not None
        async for raw in process.stdout:
            self.line(raw.decode(errors="replace").rstrip())
        return await process.wait()

    def line(self, line: str) -> None:
        """One more line of its output."""
        try:
            print(f"{self.name:<{self._width}} | {line}", flush=True)
        except BrokenPipeError:
            self._unheard()
        self._tail = [*self._tail[-4:], line]
        if self.ready.is_set() or line.startswith("{"):  # its log
            return
        if line == "ready":
            self.ready.set()
        elif (found := _URL_LINE.fullmatch(line)) is not None:
            self.urls[found[1]] = found[2]

    def why(self) -> str:
        """The last words of one that ended."""
        for line in reversed(self._tail):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
        return self._tail[-1] if self._tail else "it said nothing"

    def signal(self, number: int) -> None:
        self._signalled = number
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


class LocalCluster:
    """The nameserver and its brokers, from start to stop."""

    _width = len("nameserver")

    def __init__(self, host: str, data: Path) -> None:
        self._host = host
        self._data = data
        self._children: list[Child] = []  # in the order they were started
        self._tasks: dict[Child, asyncio.Task[int]] = {}
        self._stop = asyncio.Event()
        self._stopping = False
        self._failed = False

    async def run(self, groups: int, nameserver_ports: tuple[int, int], broker_port: int, *, demo: bool) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._until_stopped(self._start(groups, nameserver_ports, broker_port))
            if not self._stop.is_set():
                print("ready", flush=True)
            if demo and not self._stop.is_set():
                await self._demo()
            await self._stop.wait()
        finally:
            await self._end()
        return FAILED if self._failed else 0

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it; a signal that comes meanwhile cuts it short."""
        working, stopped = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if working.done():
            working.result()
            return
        working.cancel()
        await asyncio.wait({working})

    async def _start(self, groups: int, nameserver_ports: tuple[int, int], broker_port: int) -> None:
        port, grpc_port = nameserver_ports
        grpc_port = grpc_port if port else 0
        nameserver = await self._launch(
            "nameserver", "nameserver", "--host", self._host, "--port", str(port), "--grpc-port", str(grpc_port),
            "--http-port", "0",
        )  # fmt: skip
        launches = []
        for number in range(groups):
            name = f"broker-{NAMES[number]}"
            ports = [str(broker_port + 3 * number + step if broker_port else 0) for step in range(3)]
            arguments = ["broker", "--name", name, "--nameserver", nameserver.urls["gRPC"], "--data", str(self._data / name)]
            arguments += ["--host", self._host, "--port", ports[0], "--grpc-port", ports[1], "--http-port", ports[2]]
            launches.append(self._launch(name, *arguments))
        await asyncio.gather(*launches)
        self._server = nameserver.urls["data plane"]
        await self._until_registered(groups)
        for child in self._children:
            for name, url in child.urls.items():
                print(f"{child.name:<{self._width}}   {name:<14} {url}")
        print(f"clients use: --server {self._server}, or KOUROU_SERVER={self._server}")

    async def _launch(self, name: str, *arguments: str) -> Child:
        """Start a process and wait until it is ready. Raises CommandFailed, with its last words."""
        child = Child(name, self._width, self._unheard)
        self._children.append(child)
        task = self._tasks[child] = asyncio.create_task(child.run(*arguments))
        ready = asyncio.create_task(child.ready.wait())
        await asyncio.wait({task, ready}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if task.done():
            raise CommandFailed(f"{name} did not start: {task.exception() or child.why()}")
        if not child.ready.is_set():
            raise CommandFailed(f"{name} was not ready within {READY_S:.0f} s")
        task.add_done_callback(lambda done: self._ended(child, done))
        return child

    def _ended(self, child: Child, task: asyncio.Task[int]) -> None:
        if task.cancelled() or self._stopping:
            return
        failure = task.exception()
        self._failed = True
        note(f"{child.name} ended: {failure or f'exit status {task.result()}'}; the others go on")
        if all(task.done() for task in self._tasks.values()):
            self._stop.set()

    def _unheard(self) -> None:
        """Nobody reads our output (``| head``): stop, quietly."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self._stop.set()

    async def _until_registered(self, groups: int) -> None:
        from kourou.client import Client

        deadline = time.monotonic() + READY_S
        async with Client(self._server) as client:
            while True:
                brokers = (await client.cluster())["brokers"]
                if sum(bool(broker["master"]) for broker in brokers) >= groups:
                    return
                if self._failed or time.monotonic() > deadline:
                    raise CommandFailed(f"only {len(brokers)} of {groups} brokers have registered")
                await asyncio.sleep(0.05)

    async def _demo(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kourou.cli", "demo", "--server", self._server, stdin=asyncio.subprocess.DEVNULL
        )
        waiting = {asyncio.create_task(process.wait()), asyncio.create_task(self._stop.wait())}
        _, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        if process.returncode is None:
            process.terminate()
            await process.wait()
        elif process.returncode:
            self._failed = True

    async def _end(self) -> None:
        """Brokers first, so that they can say good-bye to the nameserver."""
        self._stopping = True
        for child in reversed(self._children):
            child.signal(signal.SIGTERM)
            task = self._tasks[child]
            _, pending = await asyncio.wait({task}, timeout=STOP_S)
            if pending:
                note(f"{child.name} did not stop within {STOP_S:.0f} s and is killed")
                child.signal(signal.SIGKILL)
                self._failed = True
                await asyncio.wait({task}, timeout=STOP_S)
            elif not task.cancelled() and task.exception() is None and task.result() not in (0, -signal.SIGTERM):
                self._failed = True  # by SIGTERM it ends where it was not yet ready to listen to it
