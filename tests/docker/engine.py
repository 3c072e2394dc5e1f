"""A Docker engine: the one that answers, or a private one that ends with us and leaves the host's firewall alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import docker  # type: ignore[import-untyped]
from docker.errors import DockerException  # type: ignore[import-untyped]

START_S = 60.0
STOP_S = 60.0
CALL_S = 120  # of one call to the engine


class NoEngine(Exception):
    """Why there is none."""


class Engine:
    """``with Engine(folder) as engine: engine.client``. ``folder`` keeps a private engine's images from run to run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self.client: Any = None
        self.url = ""

    @property
    def private(self) -> bool:
        return self._process is not None

    @property
    def environment(self) -> dict[str, str]:
        """For programs that talk to it."""
        return {**os.environ, "DOCKER_HOST": self.url}

    def __enter__(self) -> Engine:
        if shutil.which("docker") is None:
            raise NoEngine("there is no docker client (apt install docker.io)")
        given = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if not given.startswith("unix://"):
            raise NoEngine(f"the engine at {given} is not on this machine: the repository can't be mounted there")
        if not self._answers(given):
            try:
                self._start()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.client is not None:
            self.client.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._sockets is not None:
            self._unmount(self._sockets)
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _unmount(self, folder: Path) -> None:
        """An engine that has ended leaves its hold on the host's network namespace there."""
        for line in Path("/proc/mounts").read_text().splitlines():
            where = line.split()[1]
            if where.startswith(f"{folder}/"):
                subprocess.run(["umount", where], capture_output=True, timeout=STOP_S)

    def _answers(self, url: str) -> bool:
        client: Any = None
        try:
            client = docker.DockerClient(base_url=url, timeout=CALL_S)
            client.ping()
        except DockerException:
            if client is not None:
                client.close()
            return False
        self.client, self.url = client, url
        return True

    def _start(self) -> None:
        """No bridge and no rules of its own: builds use the host's network, and a project's containers share a bridge."""
        binary = shutil.which("dockerd")
        if os.geteuid() != 0:
            raise NoEngine("no Docker engine answers, and only root can start one")
        if binary is None:
            raise NoEngine("no Docker engine answers, and there is no dockerd to start (apt install docker.io)")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="kourou-docker-"))  # paths of sockets must be short
        log = self._folder / "dockerd.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    binary, "--data-root", str(self._folder / "data"), "--exec-root", str(self._sockets / "exec"),
                    "--host", f"unix://{self._sockets}/s", "--pidfile", str(self._sockets / "pid"),
                    "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none",
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,  # Ctrl-C is for us: the engine is needed to clean up
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not self._answers(f"unix://{self._sockets}/s"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoEngine(f"dockerd did not start:\n{log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.2)
