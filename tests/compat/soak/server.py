"""What is killed in a soak: one standalone node, or the brokers of a cluster, which come back on their ports and data.

Of a cluster the nameserver lives on, and so does the proxy, when clients go through one.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.compat.programs import Program, cluster, wait_for_brokers

FLAGS = ("--no-auto-create", "--transaction-check-after-s", "9", "--transaction-check-every-s", "5")
OUTAGE_TAIL_S = 5.0  # clients may still repeat what they sent when the server had come back


@dataclass(slots=True)
class Server:
    """``killed`` come and go, ``kept`` live on."""

    killed: list[Program]
    kept: list[Program] = field(default_factory=list)
    outages: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def standalone(cls, data: Path, logs: Path) -> Server:
        return cls([Program("node", ("standalone", "--data", str(data / "node"), *FLAGS), logs)])

    @classmethod
    def cluster(cls, data: Path, logs: Path, *, brokers: int, proxy: bool) -> Server:
        """Started already, but for the brokers."""
        kept, started = cluster(data, logs, *FLAGS, brokers=brokers, proxy=proxy)
        return cls(started, kept)

    @property
    def native(self) -> str:
        return (self.kept or self.killed)[0].urls["data plane"]

    @property
    def official(self) -> str:
        """The access point: the proxy, the nameserver, or the node itself."""
        return (self.kept or self.killed)[-1].official

    @property
    def lives(self) -> int:
        return sum(program.lives for program in self.killed) - len(self.killed) + 1

    def start(self) -> None:
        for program in self.killed:
            program.start()
        if self.kept:
            wait_for_brokers(self.native, len(self.killed))

    def bounce(self, rng: random.Random) -> str:
        """Kill one (SIGTERM every third time), and start it again; its name."""
        program = rng.choice(self.killed)
        since = time.time_ns()
        program.end(hard=self.lives % 3 != 0)
        time.sleep(rng.uniform(0, 3))  # the outage itself
        program.start()
        self.outages.append((since, time.time_ns() + int(OUTAGE_TAIL_S * 1e9)))
        return program.name

    def fell(self) -> list[str]:
        """Those that ended by themselves."""
        return [program.name for program in [*self.kept, *self.killed] if program.fell()]

    def stop(self) -> None:
        for program in [*self.killed, *reversed(self.kept)]:
            program.end()

    def rss_mb(self) -> dict[str, float]:
        return {program.name: program.rss_mb() for program in [*self.kept, *self.killed]}
