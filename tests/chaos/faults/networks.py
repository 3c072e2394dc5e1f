"""Hosts are cut off, cables unplugged, packets lost, links slow."""

from __future__ import annotations

from tests.chaos.broker import Broker
from tests.chaos.faults.scene import Kind, Scene
from tests.chaos.network import Way


async def cut_master(scene: Scene) -> str:
    master = await scene.master()
    master.host.cut_off_from(scene.world.network.hosts)
    return f"{master.name} cut off from all for {await scene.hold(2, 10):.1f} s"


async def cut_follower(scene: Scene) -> str:
    follower = await scene.follower()
    follower.host.cut_off_from(scene.world.network.hosts)
    return f"{follower.name} cut off from all for {await scene.hold(2, 10):.1f} s"


async def cut_master_with_one_etcd(scene: Scene) -> str:
    """A minority that has a master and a member of etcd. Clients are with the rest."""
    world, master = scene.world, await scene.master()
    etcd = scene.chance.choice(world.etcds).host
    rest = [host for host in world.network.hosts if host not in (master.host, etcd)]
    for host in (master.host, etcd):
        host.cut_off_from(rest)
    return f"{master.name} with {etcd.name} cut off from the rest for {await scene.hold(3, 10):.1f} s"


async def cut_machine(scene: Scene) -> str:
    """A whole machine: a master, a member of etcd and a nameserver. It says nothing any more for longer than connections
    are believed in; clients that asked this nameserver have to ask the other one by themselves."""
    world, master = scene.world, await scene.master()
    hosts = [master.host, scene.chance.choice(world.etcds).host, scene.chance.choice(world.nameservers).host]
    rest = [host for host in world.network.hosts if host not in hosts]
    for host in hosts:
        host.cut_off_from(rest)
    names = " and ".join(host.name for host in hosts[1:])
    return f"{master.name} with {names} cut off from the rest for {await scene.hold(17, 20):.1f} s"


async def cut_master_from_brokers(scene: Scene) -> str:
    """It reaches etcd, and clients reach it; yet it can't confirm anything."""
    master = await scene.master()
    master.host.cut_off_from([broker.host for broker in scene.members])
    return f"{master.name} cut off from its group for {await scene.hold(2, 8):.1f} s"


async def cut_master_from_etcd(scene: Scene) -> str:
    master = await scene.master()
    master.host.cut_off_from([etcd.host for etcd in scene.world.etcds])
    return f"{master.name} cut off from etcd for {await scene.hold(4, 12):.1f} s"


async def cut_group_from_etcd(scene: Scene) -> str:
    for broker in scene.members:
        broker.host.cut_off_from([etcd.host for etcd in scene.world.etcds])
    return f"{scene.group} cut off from etcd for {await scene.hold(4, 12):.1f} s"


async def _one_way(scene: Scene, broker: Broker, way: Way) -> str:
    broker.host.cut_off_from(scene.world.network.hosts, way)
    return f"{broker.name}: nothing goes {way.value} for {await scene.hold(2, 8):.1f} s"


async def master_is_deaf(scene: Scene) -> str:
    return await _one_way(scene, await scene.master(), Way.IN)


async def master_is_mute(scene: Scene) -> str:
    return await _one_way(scene, await scene.master(), Way.OUT)


async def follower_one_way(scene: Scene) -> str:
    return await _one_way(scene, await scene.follower(), scene.chance.choice([Way.IN, Way.OUT]))


async def ring(scene: Scene) -> str:
    """One pair of brokers does not see each other; everybody else sees both."""
    master, follower = await scene.master(), await scene.follower()
    master.host.cut_off_from([follower.host])
    return f"{master.name} and {follower.name} don't see each other for {await scene.hold(2, 8):.1f} s"


async def etcd_parted(scene: Scene) -> str:
    """The leader of etcd alone on one side."""
    etcds = scene.world.etcds
    alone = await scene.world.etcd_leader() or scene.chance.choice(etcds)
    alone.host.cut_off_from([etcd.host for etcd in etcds])
    return f"{alone.name} cut off from the other etcds for {await scene.hold(3, 8):.1f} s"


async def unplug_master(scene: Scene) -> str:
    master = await scene.master()
    master.host.unplug()
    return f"{master.name} unplugged for {await scene.hold(1, 8):.1f} s"


async def flapping_link(scene: Scene) -> str:
    broker = scene.chance.choice(scene.members)
    times = scene.chance.randint(3, 6)
    for _ in range(times):
        broker.host.unplug()
        await scene.hold(0.2, 1.5)
        broker.host.mend()
        await scene.hold(0.2, 1.5)
    return f"{broker.name} unplugged {times} times for a moment"


async def loss(scene: Scene) -> str:
    broker = scene.chance.choice(scene.members)
    broker.host.lose(0.2)
    return f"{broker.name} loses 20 % of what comes in for {await scene.hold(4, 10):.1f} s"


async def slow_link(scene: Scene) -> str:
    broker = scene.chance.choice(scene.members)
    broker.host.slow_down("1mbit")
    return f"{broker.name} has 1 Mbit/s for {await scene.hold(4, 10):.1f} s"


KINDS = [
    Kind("cut-master", cut_master),
    Kind("cut-follower", cut_follower),
    Kind("cut-master-with-one-etcd", cut_master_with_one_etcd),
    Kind("cut-machine", cut_machine),
    Kind("cut-master-from-group", cut_master_from_brokers, bound_s=30, stops=True),
    Kind("cut-master-from-etcd", cut_master_from_etcd),
    Kind("cut-group-from-etcd", cut_group_from_etcd),
    Kind("master-deaf", master_is_deaf),
    Kind("master-mute", master_is_mute),
    Kind("follower-one-way", follower_one_way),
    Kind("ring", ring),
    Kind("etcd-parted", etcd_parted),
    Kind("unplug-master", unplug_master),
    Kind("flapping-link", flapping_link, bound_s=30),
    Kind("loss", loss, bound_s=30, stops=True),
    Kind("slow-link", slow_link, bound_s=30, stops=True),
]
