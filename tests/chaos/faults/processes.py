"""Processes are killed, frozen, stopped in good order, told to hand over."""

from __future__ import annotations

import asyncio

from tests.chaos.broker import Broker
from tests.chaos.faults.scene import Kind, NotDone, Scene
from tests.chaos.process import Process
from tests.chaos.world import Unwell
from tests.integration.node import environment


async def kill_master(scene: Scene) -> str:
    master = await scene.master()
    master.process.kill()
    return f"{master.name} killed for {await scene.hold(0, 6):.1f} s"


async def kill_follower(scene: Scene) -> str:
    follower = await scene.follower()
    follower.process.kill()
    return f"{follower.name} killed for {await scene.hold(0, 6):.1f} s"


async def kill_all(scene: Scene) -> str:
    order = scene.chance.sample(scene.members, len(scene.members))
    for broker in order:
        broker.process.kill()
    lasts = await scene.hold(0, 4)
    for broker in order:
        broker.process.start()
        await asyncio.sleep(scene.chance.uniform(0, 1))
    return f"all brokers killed for {lasts:.1f} s, started as {', '.join(broker.name for broker in order)}"


async def kill_two_masters(scene: Scene) -> str:
    """The second as soon as it leads, which is long before the first one's lease would be over."""
    first = await scene.master()
    first.process.kill()
    second = await scene.master()
    second.process.kill()
    return f"{first.name} killed, then {second.name} as it led, for {await scene.hold(0, 4):.1f} s"


async def kill_follower_then_master(scene: Scene) -> str:
    follower, master = await scene.follower(), await scene.master()
    follower.process.kill()
    await scene.hold(0, 1.5)
    master.process.kill()
    return f"{follower.name} killed, then {master.name}, for {await scene.hold(0, 3):.1f} s"


async def rolling_restart(scene: Scene) -> str:
    order = scene.chance.sample(scene.members, len(scene.members))
    for broker in order:
        status = await broker.process.stop()
        if status != 0:
            raise Unwell(f"{broker.name} did not stop in good order: {status}")
        broker.process.start()
        await scene.world.whole()
    return f"stopped and started: {', '.join(broker.name for broker in order)}"


async def _freeze(scene: Scene, broker: Broker, lasts_s: float) -> str:
    broker.process.freeze()
    await scene.hold(lasts_s, lasts_s)
    broker.process.thaw()
    return f"{broker.name} frozen for {lasts_s:.0f} s"


async def freeze_master_briefly(scene: Scene) -> str:
    return await _freeze(scene, await scene.master(), 1)


async def freeze_master(scene: Scene) -> str:
    return await _freeze(scene, await scene.master(), 5)


async def freeze_master_long(scene: Scene) -> str:
    return await _freeze(scene, await scene.master(), 20)


async def freeze_follower(scene: Scene) -> str:
    return await _freeze(scene, await scene.follower(), scene.chance.choice([1, 5, 12]))


async def switchover(scene: Scene) -> str:
    """What ``kourou admin promote`` does, by that command."""
    follower = await scene.follower()
    asked = await asyncio.create_subprocess_exec(
        *scene.world.command("admin", "promote", scene.group, "--id", str(follower.broker_id)),
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(asked.communicate(), 60)
    if asked.returncode != 0:  # as when the member is too slow to lead, which a shared machine makes it
        raise NotDone(f"{follower.name} not promoted: {output.decode().strip()}")
    if await scene.master() is not follower:
        raise Unwell(f"{follower.name} was promoted, and does not lead")
    return f"{follower.name} promoted"


async def kill_etcd_leader(scene: Scene) -> str:
    leader = await scene.world.etcd_leader()
    if leader is None:
        raise Unwell("etcd has no leader")
    leader.kill()
    return f"{leader.name}, the leader, killed for {await scene.hold(1, 6):.1f} s"


async def freeze_etcd_leader(scene: Scene) -> str:
    leader = await scene.world.etcd_leader()
    if leader is None:
        raise Unwell("etcd has no leader")
    leader.freeze()
    return f"{leader.name}, the leader, frozen for {await scene.hold(3, 8):.1f} s"


async def kill_etcd_member(scene: Scene) -> str:
    leader = await scene.world.etcd_leader()
    member = scene.chance.choice([one for one in scene.world.etcds if one is not leader])
    member.kill()
    return f"{member.name} killed for {await scene.hold(1, 6):.1f} s"


async def etcd_down(scene: Scene) -> str:
    return await _all_down(scene.world.etcds, scene, 60, "etcd")


async def etcd_down_then_follower(scene: Scene) -> str:
    """Nothing can be decided while etcd is away: what is written meanwhile has to wait, and nothing may be lost."""
    for process in scene.world.etcds:
        process.kill()
    await scene.hold(4, 6)
    follower = await scene.follower()
    follower.process.kill()
    return f"etcd killed, then {follower.name}, for {await scene.hold(2, 4):.1f} s"


async def nameservers_down(scene: Scene) -> str:
    return await _all_down(scene.world.nameservers, scene, scene.chance.uniform(3, 12), "nameservers")


async def nameservers_down_then_master(scene: Scene) -> str:
    """Clients have to find the new master without anybody who could tell them."""
    for process in scene.world.nameservers:
        process.kill()
    master = await scene.master()
    master.process.kill()
    return f"nameservers and {master.name} killed for {await scene.hold(3, 6):.1f} s"


async def kill_proxy(scene: Scene) -> str:
    scene.world.proxy.kill()
    return f"proxy killed for {await scene.hold(0, 4):.1f} s"


async def _all_down(processes: list[Process], scene: Scene, lasts_s: float, what: str) -> str:
    for process in scene.chance.sample(processes, len(processes)):
        process.kill()
    return f"all {what} killed for {await scene.hold(lasts_s, lasts_s):.0f} s"


KINDS = [
    Kind("kill-master", kill_master),
    Kind("kill-follower", kill_follower),
    Kind("kill-all", kill_all, bound_s=30, stops=True),
    Kind("kill-two-masters", kill_two_masters, bound_s=30, stops=True),
    Kind("kill-follower-then-master", kill_follower_then_master, bound_s=30, stops=True),
    Kind("rolling-restart", rolling_restart),
    Kind("freeze-master-1s", freeze_master_briefly),
    Kind("freeze-master-5s", freeze_master),
    Kind("freeze-master-20s", freeze_master_long),
    Kind("freeze-follower", freeze_follower),
    Kind("switchover", switchover),
    Kind("kill-etcd-leader", kill_etcd_leader),
    Kind("freeze-etcd-leader", freeze_etcd_leader),
    Kind("kill-etcd-member", kill_etcd_member),
    Kind("etcd-down", etcd_down),
    Kind("etcd-down-then-follower", etcd_down_then_follower, bound_s=30, stops=True),
    Kind("nameservers-down", nameservers_down),
    Kind("nameservers-down-then-master", nameservers_down_then_master, bound_s=30, stops=True),
    Kind("kill-proxy", kill_proxy),
]
