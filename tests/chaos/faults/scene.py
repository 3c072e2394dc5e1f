"""Where a fault happens: one broker group of the world, and the chance that decides what was left open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.broker import Broker
from tests.chaos.world import World


class NotDone(Exception):
    """Why a fault did not happen: the cluster had the right to refuse it."""


@dataclass(slots=True)
class Scene:
    world: World
    group: str
    chance: random.Random
    quick: bool  # a short run: faults that last long last a third

    @property
    def members(self) -> list[Broker]:
        return self.world.members(self.group)

    async def master(self) -> Broker:
        return await self.world.master(self.group)

    async def follower(self) -> Broker:
        master = await self.master()
        return self.chance.choice([broker for broker in self.members if broker is not master])

    async def hold(self, least_s: float, most_s: float) -> float:
        """Let the fault last; how long it did."""
        lasts = self.chance.uniform(least_s, most_s)
        if self.quick and lasts > 8:
            lasts = max(8.0, lasts / 3)
        await asyncio.sleep(lasts)
        return lasts


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. ``happen`` does it, lets it last, and says in words what it was, or raises NotDone.
    Healing is not its business."""

    name: str
    happen: Callable[[Scene], Awaitable[str]]
    bound_s: float = (
        15.0  # the longest time without an acknowledged send; five times what is promised, as machines are shared
    )
    stops: bool = False  # nothing can be written while it lasts: the bound counts from when it was healed
    bad_host: bool = False  # needs the library of badhost.py
    may_end: bool = False  # processes may end by themselves
