"""Are the members of a group the same? Their state by hash, their logs byte for byte, every checksum of their files."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from pathlib import Path

from kourou.core.wire import Code
from tests.chaos.broker import Broker
from tests.chaos.world import KOUROU, World
from tests.integration.node import environment

EQUAL_S = 60.0
PIECE = 1 << 20
SEGMENT = re.compile(r"(\d+)\.seg")


async def same_state(world: World, group: str) -> list[str]:
    """Wait until all members are at one log offset; their states must be the same. What is wrong, in words."""
    members = world.members(group)
    deadline = time.monotonic() + EQUAL_S
    while True:
        found = [await broker.ask(Code.DIGEST, {}) for broker in members]
        answers = [one for one in found if one is not None]
        if len(answers) == len(members) and len({one["offset"] for one in answers}) == 1:
            digests = [one["digest"] for one in answers]
            if all(digest == digests[0] for digest in digests):
                return []
            return [f"{group}: states differ at log offset {answers[0]['offset']}: {digests}"]
        if time.monotonic() > deadline:
            return [f"{group}: members don't come to one log offset: {[one and one['offset'] for one in found]}"]
        await asyncio.sleep(0.2)


def segments(data: Path) -> dict[int, Path]:
    """By the log offset at which they begin."""
    named = ((SEGMENT.fullmatch(path.name), path) for path in (data / "log").iterdir())
    return dict(sorted((int(match[1]), path) for match, path in named if match))


class Log:
    """The bytes of a broker's log, as its files have them."""

    def __init__(self, broker: Broker) -> None:
        self.name = broker.name
        self._segments = segments(broker.data)

    @property
    def begin(self) -> int:
        return min(self._segments, default=0)

    @property
    def end(self) -> int:
        return max((base + path.stat().st_size for base, path in self._segments.items()), default=0)

    def read(self, offset: int) -> bytes:
        """Some bytes from there on, up to the end of a segment at most."""
        base = max(base for base in self._segments if base <= offset)
        with self._segments[base].open("rb") as file:
            file.seek(offset - base)
            return file.read(PIECE)


def same_log(brokers: list[Broker]) -> tuple[int, list[str]]:
    """Compare where all have something; how many bytes were compared, and what is wrong, in words."""
    logs = [Log(broker) for broker in brokers]
    begin = at = max(log.begin for log in logs)
    end = min(log.end for log in logs)
    while at < end:
        pieces = [log.read(at) for log in logs]
        size = min(end - at, *(len(piece) for piece in pieces))
        if size == 0:
            return at - begin, [
                f"a log has a hole at {at}: {[(log.name, len(p)) for log, p in zip(logs, pieces, strict=True)]}"
            ]
        if len({piece[:size] for piece in pieces}) > 1:
            where = next(i for i in range(size) if len({piece[i] for piece in pieces}) > 1)
            return at - begin, [f"logs of {[log.name for log in logs]} differ at {at + where}"]
        at += size
    return end - begin, []


def verified(broker: Broker) -> list[str]:
    """``kourou log verify`` on the directory of a stopped broker."""
    assert not broker.process.alive
    done = subprocess.run(
        [*KOUROU, "log", "verify", str(broker.data)], env=environment(), capture_output=True, text=True, timeout=120
    )
    return [] if done.returncode == 0 else [f"{broker.name}: log verify: {done.stdout.strip()} {done.stderr.strip()}"]
