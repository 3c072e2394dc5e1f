"""Which faults, in which order: drawn from a seed, or read from a file."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.faults import disks, networks, processes
from tests.chaos.faults.scene import Kind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*processes.KINDS, *networks.KINDS, *disks.KINDS)}

# About three minutes: the kinds that found most, and one of each sort.
CI = (
    "kill-master", "freeze-master-5s", "cut-master", "kill-all", "kill-two-masters", "master-deaf", "kill-etcd-leader",
    "wipe-follower", "torn-write-master", "ring", "switchover", "sync-fails-follower",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    kind: str
    group: int
    seed: int  # of what the kind leaves open


def draw(seed: int, count: int, groups: int, names: Sequence[str]) -> list[Step]:
    """Every kind comes once before any comes again."""
    chance = random.Random(seed)
    bag: list[str] = []
    steps: list[Step] = []
    for _ in range(count):
        bag = bag or chance.sample(names, len(names))
        steps.append(Step(bag.pop(), chance.randrange(groups), chance.randrange(1 << 32)))
    return steps


def read(file: Path) -> list[Step]:
    """A list of steps, or the report of a run, which has one."""
    value = json.loads(file.read_text())
    return [Step(**step) for step in (value["plan"] if isinstance(value, dict) else value)]


def written(steps: Sequence[Step]) -> list[dict[str, object]]:
    return [asdict(step) for step in steps]
