"""A container of the cluster, and what the broker in it says about itself. Addresses change: each is looked up anew."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from docker.errors import APIError  # type: ignore[import-untyped]

from kourou.core.wire import Code
from tests.chaos.broker import asked_at
from tests.chaos.world import asked

STOP_S = 60
PAGES = {"etcd": ":2379/health", "nameserver": ":8088/readyz", "": ":8088/readyz"}  # group -> where it says that it is well


class Member:
    def __init__(self, container: Any, network: Any) -> None:
        self._container = container
        self._network = network
        self.service: str = container.labels["com.docker.compose.service"]

    @property
    def name(self) -> str:
        return self.service

    @property
    def group(self) -> str:
        """Of a broker: broker-a-0 is member 0 of broker-a. The proxy is in none."""
        return self.service.rpartition("-")[0]

    @property
    def broker_id(self) -> int:
        return int(self.service.rpartition("-")[2])

    # ---- looking

    def facts(self) -> dict[str, Any]:
        self._container.reload()
        found: dict[str, Any] = self._container.attrs
        return found

    def address(self) -> str:
        """In the cluster's network; empty while it has none."""
        there = self.facts()["NetworkSettings"]["Networks"].get(self._network.name)
        return str(there["IPAddress"]) if there else ""

    def trouble(self) -> str:
        """Why this container can't be well, in words; empty when it can."""
        state = self.facts()["State"]
        if not state["Running"]:
            return f"{self.name} does not run"
        return f"{self.name} is paused" if state["Paused"] else ""

    async def unready(self) -> str:
        """The same of a server that is asked, too: sooner than the engine's own checks."""
        trouble = await asyncio.to_thread(self.trouble)
        if trouble or self.group not in PAGES:
            return trouble
        page = await asked(f"http://{await asyncio.to_thread(self.address)}{PAGES[self.group]}")
        return "" if page is not None else f"{self.name} is not ready"

    async def ask(self, code: Code, value: object) -> dict[str, Any] | None:
        """A broker's answer; None when there is none."""
        try:
            address = await asyncio.to_thread(self.address)
        except OSError:  # the engine does not answer
            return None
        return await asked_at(address, code, value) if address else None

    async def status(self) -> dict[str, Any] | None:
        return await self.ask(Code.STATUS, {})

    def log(self) -> str:
        text: bytes = self._container.logs()
        return text.decode(errors="replace")

    # ---- harm, and its end

    def crash(self) -> None:
        """Its process ends without a word; the engine starts it again by itself."""
        os.kill(int(self.facts()["State"]["Pid"]), signal.SIGKILL)

    def kill(self) -> None:
        """The container is gone, and with it its address, until somebody starts it."""
        self._container.kill()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self._container.stop(timeout=STOP_S)
        return int(self.facts()["State"]["ExitCode"])

    def start(self) -> None:
        self._container.start()

    def pause(self) -> None:
        self._container.pause()

    def disconnect(self) -> None:
        self._network.disconnect(self._container, force=True)

    def heal(self) -> None:
        """It runs, and is in the network under its name."""
        state = self.facts()["State"]
        if state["Paused"]:
            self._container.unpause()
        if self._network.name not in self._container.attrs["NetworkSettings"]["Networks"]:
            self._network.connect(self._container, aliases=[self.service])
        if not state["Running"] and not state["Restarting"]:
            try:
                self._container.start()
            except APIError as failure:  # the engine was faster
                if failure.status_code != 304:
                    raise
