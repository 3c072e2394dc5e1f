"""A broker of the world: its process, its disk, and what it says about itself."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kourou.core.errors import KourouError
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code
from kourou.transport.connection import connect
from tests.chaos.badhost import SOUND, BadHost, Ills
from tests.chaos.network import Host
from tests.chaos.process import Process

ASK_S = 3.0
DATA_PORT = 10911


async def asked_at(address: str, code: Code, value: object) -> dict[str, Any] | None:
    """What the broker there answers; None when there is no answer."""
    try:
        async with asyncio.timeout(ASK_S):
            connection = await connect(parse_endpoint(f"{address}:{DATA_PORT}"), client_id="chaos", handlers={})
            try:
                return await connection.ask_json(code, value)
            finally:
                connection.close()
    except (KourouError, TimeoutError, OSError):
        return None


@dataclass(slots=True)
class Broker:
    group: str
    broker_id: int
    process: Process
    data: Path
    bad: BadHost | None  # None where no compiler could make the library

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def host(self) -> Host:
        return self.process.host

    async def ask(self, code: Code, value: object) -> dict[str, Any] | None:
        """Its answer; None when there is none."""
        return await asked_at(self.host.address, code, value)

    async def status(self) -> dict[str, Any] | None:
        return await self.ask(Code.STATUS, {})

    def suffer(self, ills: Ills) -> None:
        assert self.bad is not None
        self.bad.be(ills)

    def recover(self) -> None:
        if self.bad is not None and self.bad.ills != SOUND:
            self.bad.be(SOUND)

    def wipe(self) -> None:
        """A new disk."""
        assert not self.process.alive
        shutil.rmtree(self.data)

    def back_up(self, to: Path) -> None:
        assert not self.process.alive
        shutil.copytree(self.data, to)

    def put_back(self, backup: Path) -> None:
        """The disk as it was at the time of the backup."""
        self.wipe()
        shutil.move(backup, self.data)
