"""Programs of tests/chaos in a container of the cluster's network."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.chaos.world import Unwell
from tests.docker import images
from tests.docker.stack import CLIENT_OF, Stack
from tests.integration.node import ROOT

TAIL = 15


class ClientProgram:
    def __init__(self, stack: Stack, name: str, command: list[str], shared: Path) -> None:
        """``shared`` has the same path in the container."""
        self.name = name
        self._container: Any = stack.engine.client.containers.create(
            images.CLIENTS,
            command,
            name=f"{stack.project}-{name}",
            labels={CLIENT_OF: stack.project},
            network=stack.network.name,
            volumes={
                str(ROOT): {"bind": "/repository", "mode": "ro"},
                str(shared): {"bind": str(shared), "mode": "rw"},
            },
            init=True,
        )

    def start(self) -> None:
        self._container.start()

    @property
    def alive(self) -> bool:
        self._container.reload()
        return bool(self._container.attrs["State"]["Running"])

    def log(self) -> str:
        text: bytes = self._container.logs()
        return text.decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(self.log().splitlines()[-TAIL:])

    async def said(self, word: str, timeout_s: float) -> None:
        """A line that is this word."""
        deadline = time.monotonic() + timeout_s
        while word not in await asyncio.to_thread(lambda: self.log().splitlines()):
            if not self.alive or time.monotonic() > deadline:
                raise Unwell(f"{self.name} does not say {word!r}:\n{self.tail()}")
            await asyncio.sleep(0.2)

    async def stop(self, timeout_s: float) -> int:
        """SIGTERM, and its own time to end; its exit status, or -9 when it had to be killed."""
        await asyncio.to_thread(lambda: self._container.kill("SIGTERM"))
        deadline = time.monotonic() + timeout_s
        while self.alive:
            if time.monotonic() > deadline:
                self._container.kill()
                return -9
            await asyncio.sleep(0.2)
        return int(self._container.attrs["State"]["ExitCode"])

    def remove(self) -> None:
        self._container.remove(force=True)
