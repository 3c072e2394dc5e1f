"""Elections under faults, one seed a run: kills, power cuts, wiped disks, pauses, cuts, lost answers, drifting clocks."""

from __future__ import annotations

import random

import pytest

from kourou.broker.machines.coordination import Put, Txn
from kourou.broker.machines.election import ElectionOptions
from kourou.broker.machines.electionstate import Operation
from tests.sim.elections import KEYS, Broken, Node, World

SEEDS = 200
FAULTS_MS = 25_000
FAULTS = (
    "kill", "kill", "power", "wipe", "pause", "pause", "cut", "oneway", "etcd cut", "etcd down", "loss", "slow", "switch",
    "stop",
)  # fmt: skip


def schedule(world: World, until: float) -> None:
    """Faults at random moments; each ends some time later."""
    rng = random.Random(world.rng.random())
    at = 1_500.0
    while at < until:
        world.at(at - world.now, lambda: fault(world, rng))
        at += rng.expovariate(1 / 1_500)


def again(world: World, node: Node) -> None:
    if not node.up:
        world.start(node, cold=node.spoiled)


def fault(world: World, rng: random.Random) -> None:
    node = rng.choice(world.nodes)
    master = next((n for n in world.nodes if n.master is not None), node)
    if rng.random() < 0.5:
        node = master
    length = rng.choice((100.0, 900.0, 2_900.0, 5_000.0))
    kind = rng.choice(FAULTS)
    world.say(node, f"fault: {kind} for {length}")
    if kind in ("kill", "power", "wipe", "stop"):
        down = sum(not n.up for n in world.nodes)
        if not node.up or (down and rng.random() < 0.7) or (kind == "wipe" and down):
            return
        if kind == "stop":
            node.stopping = True
            assert node.elector is not None
            node.elector.leave(now_ms=world.clock(node))
            world.perform(node)
            world.at(length, lambda: again(world, node))
            return
        {"kill": world.kill, "power": world.power, "wipe": world.wipe}[kind](node)
        world.at(length, lambda: again(world, node))
    elif kind == "pause":
        node.paused_until = world.now + length
    elif kind in ("cut", "oneway"):
        others = [n.replica for n in world.nodes if n is not node]
        pairs = {(node.replica, o) for o in others} | ({(o, node.replica) for o in others} if kind == "cut" else set())
        world.cut |= pairs
        world.at(length, lambda: world.cut.difference_update(pairs))
    elif kind == "etcd cut":
        world.etcd_cut.add(node.replica)
        world.at(length, lambda: world.etcd_cut.discard(node.replica))
    elif kind == "etcd down":
        world.etcd_down = True
        world.at(length, lambda: setattr(world, "etcd_down", False))
    elif kind in ("loss", "slow"):
        setattr(world, kind, 0.3)
        world.at(length, lambda: setattr(world, kind, 0.0))
    elif kind == "switch" and world.group() is not None:
        to = rng.randrange(3)
        world.truth.transact(Txn((), (Put(KEYS.op, Operation("switchover", to, "x").encode()),)))
        world.tell(world.truth.written[-1])


def run(seed: int, *, min_isr: int) -> World:
    world = World(seed, options=ElectionOptions(min_isr=min_isr))
    schedule(world, FAULTS_MS)
    try:
        world.run(FAULTS_MS + 6_000)
        world.heal()
    except AssertionError as failure:
        raise Broken(f"seed {seed}, min_isr {min_isr}: {failure}\n{world.describe()}") from failure
    return world


@pytest.mark.parametrize("block", range(10))
def test_elections(block: int) -> None:
    """Goal: one master per epoch, none that lacks what is confirmed, no takeover before its time, no two that lead at once.
    Method: seeded schedules over the real machines and a model of etcd; at the end all faults heal, and the group must."""
    takeovers = confirmed = 0
    for seed in range(block * SEEDS // 10, (block + 1) * SEEDS // 10):
        world = run(seed, min_isr=1 + seed % 2)
        takeovers += world.takeovers
        confirmed += len(world.confirmed)
    assert takeovers > 30
    assert confirmed > 1_000
