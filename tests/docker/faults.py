"""What happens to containers. Healing is not its business: who is paused, gone or cut off is brought back afterwards."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.world import Unwell
from tests.docker.member import Member
from tests.docker.stack import GROUPS, Stack


@dataclass(slots=True)
class Scene:
    """Where a fault happens, and the chance that decides what was left open."""

    stack: Stack
    group: str
    chance: random.Random

    @property
    def members(self) -> list[Member]:
        return self.stack.group(self.group)

    async def master(self) -> Member:
        return await self.stack.master(self.group)

    async def follower(self) -> Member:
        master = await self.master()
        return self.chance.choice([member for member in self.members if member.service != master.service])

    def one_of(self, role: str) -> Member:
        """ "etcd" or "nameserver"."""
        return self.chance.choice([member for member in self.stack.members if member.group == role])

    async def hold(self, least_s: float, most_s: float) -> str:
        lasts = self.chance.uniform(least_s, most_s)
        await asyncio.sleep(lasts)
        return f"for {lasts:.1f} s"


async def do(action: Callable[[], object]) -> None:
    """The engine's client blocks."""
    await asyncio.to_thread(action)


async def crash_master(scene: Scene) -> str:
    master = await scene.master()
    await do(master.crash)
    return f"the process of {master.name} killed; the engine starts it again"


async def kill_master(scene: Scene) -> str:
    master = await scene.master()
    await do(master.kill)
    return f"{master.name} gone {await scene.hold(0, 7)}"


async def kill_both_masters(scene: Scene) -> str:
    masters = [await scene.stack.master(group) for group in GROUPS]
    await asyncio.gather(*(do(master.kill) for master in masters))
    return f"{' and '.join(master.name for master in masters)} gone {await scene.hold(0, 6)}"


async def kill_master_then_next(scene: Scene) -> str:
    """The first comes back when the second one goes: two of three is what has to be there."""
    first = await scene.master()
    await do(first.kill)
    second = first
    while second.service == first.service:
        second = await scene.master()
    await do(first.start)
    await do(second.kill)
    return f"{first.name} gone, then {second.name} as it led, {await scene.hold(0, 5)}"


async def kill_group(scene: Scene) -> str:
    await asyncio.gather(*(do(member.kill) for member in scene.members))
    return f"all of {scene.group} gone {await scene.hold(0, 4)}"


async def pause_master(scene: Scene) -> str:
    master = await scene.master()
    await do(master.pause)
    return f"{master.name} paused {await scene.hold(1, 9)}"


async def pause_follower(scene: Scene) -> str:
    follower = await scene.follower()
    await do(follower.pause)
    return f"{follower.name} paused {await scene.hold(1, 7)}"


async def cut_master(scene: Scene) -> str:
    master = await scene.master()
    await do(master.disconnect)
    return f"{master.name} without a network {await scene.hold(1, 9)}"


async def cut_both_masters(scene: Scene) -> str:
    masters = [await scene.stack.master(group) for group in GROUPS]
    await asyncio.gather(*(do(master.disconnect) for master in masters))
    return f"{' and '.join(master.name for master in masters)} without a network {await scene.hold(1, 8)}"


async def cut_follower(scene: Scene) -> str:
    follower = await scene.follower()
    await do(follower.disconnect)
    return f"{follower.name} without a network {await scene.hold(1, 8)}"


async def stop_master(scene: Scene) -> str:
    """`docker stop`: it hands over."""
    master = await scene.master()
    status = await asyncio.to_thread(master.stop)
    if status != 0:
        raise Unwell(f"{master.name} did not stop in good order: {status}")
    return f"{master.name} stopped, gone {await scene.hold(0, 3)}"


async def recreate_master(scene: Scene) -> str:
    master = await scene.master()
    await do(lambda: scene.stack.recreate(master))
    return f"{master.name} replaced by a new container with its volume"


async def kill_etcd(scene: Scene) -> str:
    etcd = scene.one_of("etcd")
    await do(etcd.kill)
    return f"{etcd.name} gone {await scene.hold(1, 6)}"


async def pause_all_etcd(scene: Scene) -> str:
    """Longer than a lease: members pledge, and the masters go on."""
    all_etcd = [member for member in scene.stack.members if member.group == "etcd"]
    await asyncio.gather(*(do(etcd.pause) for etcd in all_etcd))
    return f"all etcd paused {await scene.hold(4, 10)}"


async def cut_etcd_and_master(scene: Scene) -> str:
    etcd, master = scene.one_of("etcd"), await scene.master()
    await asyncio.gather(do(etcd.disconnect), do(master.disconnect))
    return f"{etcd.name} and {master.name} without a network {await scene.hold(2, 8)}"


async def kill_nameserver(scene: Scene) -> str:
    nameserver = scene.one_of("nameserver")
    await do(nameserver.kill)
    return f"{nameserver.name} gone {await scene.hold(0, 5)}"


async def crash_proxy(scene: Scene) -> str:
    proxy = scene.stack.of("proxy")
    await do(proxy.crash)
    return "the process of the proxy killed; the engine starts it again"


@dataclass(frozen=True, slots=True)
class Kind:
    happen: Callable[[Scene], Awaitable[str]]
    # The longest time without an acknowledged send: five times what is promised, as machines are shared.
    bound_s: float = 15.0
    stops: bool = False  # nothing can be written while it lasts: the bound counts from when it was healed
    root: bool = False  # the process of a container can be killed by root alone


KINDS: dict[str, Kind] = {
    "crash-master": Kind(crash_master, root=True),
    "kill-master": Kind(kill_master),
    "kill-both-masters": Kind(kill_both_masters),
    "kill-master-then-next": Kind(kill_master_then_next, bound_s=20.0),
    "kill-group": Kind(kill_group, stops=True),
    "pause-master": Kind(pause_master),
    "pause-follower": Kind(pause_follower),
    "cut-master": Kind(cut_master),
    "cut-both-masters": Kind(cut_both_masters),
    "cut-follower": Kind(cut_follower),
    "stop-master": Kind(stop_master),
    "recreate-master": Kind(recreate_master),
    "kill-etcd": Kind(kill_etcd),
    "pause-all-etcd": Kind(pause_all_etcd),
    "cut-etcd-and-master": Kind(cut_etcd_and_master),
    "kill-nameserver": Kind(kill_nameserver),
    "crash-proxy": Kind(crash_proxy, root=True),
}

CI = ("kill-both-masters", "pause-master", "cut-master", "stop-master", "crash-master", "kill-etcd")


def possible(names: tuple[str, ...] | list[str]) -> list[str]:
    return [name for name in names if os.geteuid() == 0 or not KINDS[name].root]
