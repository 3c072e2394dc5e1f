"""Sends to each broker group, one message after the other, and writes down when each was acknowledged.

    python -m tests.chaos.probe --native HOST:PORT,… --groups broker-a,… --out FILE

Runs where clients run. One line per send: {"group", "begun", "ended", "ok"}, in seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kourou.client import Client
from kourou.core.errors import KourouError
from tests.chaos.world import probe_topic

EVERY_S = 0.05
DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Sent:
    group: str
    begun: float
    ended: float
    ok: bool


class Probe:
    """Reads what the process writes, as it comes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = 0
        self.sent: list[Sent] = []

    def look(self) -> None:
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                self.sent.append(Sent(**json.loads(line)))

    def ok_since(self, group: str, since: float) -> bool:
        """A send that was begun later was acknowledged."""
        return any(one.ok and one.group == group and one.begun >= since for one in reversed(self.sent))

    def gap_s(self, group: str, begin: float, end: float) -> float:
        """The longest time without an acknowledgement that touches this span."""
        times = [one.ended for one in self.sent if one.ok and one.group == group]
        before = [at for at in times if at <= begin][-1:]
        within = [at for at in times if begin < at <= end]
        after = [at for at in times if at > end][:1] or [time.monotonic()]
        line = [*(before or [begin]), *within, *after]
        return max(later - sooner for sooner, later in pairwise(line))

    def forget(self, before: float) -> None:
        self.sent = [one for one in self.sent if one.ended >= before]


async def send_to(client: Client, group: str, out: Path) -> None:
    topic = probe_topic(group)
    with out.open("a", buffering=1) as file:
        while True:
            begun = time.monotonic()
            try:
                async with client.producer(deadline_s=DEADLINE_S) as producer:
                    while True:
                        begun = time.monotonic()
                        await producer.send(topic, b"probe")
                        line = {"group": group, "begun": begun, "ended": time.monotonic(), "ok": True}
                        file.write(json.dumps(line) + "\n")
                        await asyncio.sleep(EVERY_S)
            except KourouError:
                file.write(json.dumps({"group": group, "begun": begun, "ended": time.monotonic(), "ok": False}) + "\n")
                await asyncio.sleep(EVERY_S)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--native", required=True)
    parser.add_argument("--groups", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    async with Client(options.native) as client, asyncio.TaskGroup() as tasks:
        for group in options.groups.split(","):
            tasks.create_task(send_to(client, group, options.out))


if __name__ == "__main__":
    asyncio.run(main())
