"""Disks are slow, full, broken, new, or old; wall clocks are wrong."""

from __future__ import annotations

import asyncio
import time

from tests.chaos.badhost import Ills
from tests.chaos.broker import Broker
from tests.chaos.faults.scene import Kind, NotDone, Scene
from tests.chaos.world import Unwell

HOUR_S = 3600
END_S = 20.0
NEAR = 8  # segments, from the log's beginning on, that are read within a minute also on a busy machine
MENDED_S = 180.0


async def slow_disk_master(scene: Scene) -> str:
    master = await scene.master()
    master.suffer(Ills(slow_ms=500))
    return f"{master.name}: each write takes 500 ms for {await scene.hold(4, 8):.1f} s"


async def slow_disk_follower(scene: Scene) -> str:
    follower = await scene.follower()
    follower.suffer(Ills(slow_ms=500))
    return f"{follower.name}: each write takes 500 ms for {await scene.hold(4, 8):.1f} s"


async def _sync_fails(broker: Broker, scene: Scene) -> str:
    """A disk that failed a sync is never believed again: the broker has to end, within a flush or two."""
    broker.suffer(Ills(sync_fails=True))
    broker.process.meant_to_run = False
    if not await broker.process.ended(timeout_s=END_S):
        raise Unwell(f"{broker.name} goes on although its disk fails")
    if broker.process.status == 0:
        raise Unwell(f"{broker.name} ended with status 0 although its disk failed")
    return f"{broker.name}: sync fails; gone for {await scene.hold(0, 3):.1f} s"


async def sync_fails_master(scene: Scene) -> str:
    return await _sync_fails(await scene.master(), scene)


async def sync_fails_follower(scene: Scene) -> str:
    return await _sync_fails(await scene.follower(), scene)


async def full_disk_master(scene: Scene) -> str:
    master = await scene.master()
    master.suffer(Ills(no_room=True))
    return f"{master.name}: no room for {await scene.hold(3, 12):.1f} s"


async def full_disk_follower(scene: Scene) -> str:
    follower = await scene.follower()
    follower.suffer(Ills(no_room=True))
    return f"{follower.name}: no room for {await scene.hold(3, 12):.1f} s"


async def _torn(broker: Broker, scene: Scene) -> str:
    broker.suffer(Ills(torn=True))
    broker.process.meant_to_run = False
    if not await broker.process.ended(timeout_s=END_S):
        raise Unwell(f"{broker.name} has written nothing for {END_S} s")
    return f"{broker.name} died in the middle of a write, for {await scene.hold(0, 3):.1f} s"


async def torn_write_master(scene: Scene) -> str:
    return await _torn(await scene.master(), scene)


async def torn_write_follower(scene: Scene) -> str:
    return await _torn(await scene.follower(), scene)


async def _wipe(broker: Broker, scene: Scene) -> str:
    broker.process.kill()
    broker.wipe()
    await scene.hold(0, 3)
    return f"{broker.name} has a new disk"


async def wipe_master(scene: Scene) -> str:
    return await _wipe(await scene.master(), scene)


async def wipe_follower(scene: Scene) -> str:
    return await _wipe(await scene.follower(), scene)


async def old_disk(scene: Scene) -> str:
    """A backup is made, the group goes on, and the backup is put back: it must not count for what it lacks."""
    broker = scene.chance.choice(scene.members)
    backup = scene.world.folder / "backup"
    broker.process.kill()
    broker.back_up(backup)
    broker.process.start()
    await scene.world.whole()
    lasts = await scene.hold(1, 4)
    broker.process.kill()
    broker.put_back(backup)
    await scene.hold(0, 2)
    return f"{broker.name} has its disk of {lasts:.1f} s before"


async def rot_follower(scene: Scene) -> str:
    """A byte of its log changes. It finds that out as it reads its log again, and has it from its master."""
    follower = await scene.follower()
    sealed = [path for path in sorted((follower.data / "log").glob("*.seg"))[:-1] if path.with_suffix(".idx").exists()]
    if not sealed:
        raise NotDone(f"{follower.name} has no sealed segment yet")
    follower.process.kill()
    path = scene.chance.choice(sealed[:NEAR])
    at = scene.chance.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        right = file.read(1)
        file.seek(at)
        file.write(bytes([right[0] ^ 1 << scene.chance.randrange(8)]))
    await scene.hold(0, 3)
    follower.process.start()
    deadline = time.monotonic() + MENDED_S
    while path.exists() and path.read_bytes()[at : at + 1] != right:
        if time.monotonic() > deadline:
            raise Unwell(f"{follower.name} has not mended {path.name} at {at} within {MENDED_S:.0f} s")
        await asyncio.sleep(0.2)
    return f"{follower.name}: a bit of {path.name} changed at {at}"


async def _clock(broker: Broker, scene: Scene, ahead_s: int) -> str:
    broker.suffer(Ills(clock_s=ahead_s))
    return f"{broker.name}: the wall clock is {ahead_s:+} s off for {await scene.hold(3, 8):.1f} s"


async def clock_of_follower(scene: Scene) -> str:
    return await _clock(await scene.follower(), scene, scene.chance.choice([-HOUR_S, HOUR_S]))


async def clock_of_master(scene: Scene) -> str:
    """Back only: with a clock that is ahead a master delivers early what is due by the clock, and is right to."""
    return await _clock(await scene.master(), scene, -HOUR_S)


KINDS = [
    Kind("slow-disk-master", slow_disk_master, bound_s=30, stops=True, bad_host=True),
    Kind("slow-disk-follower", slow_disk_follower, bad_host=True),
    Kind("sync-fails-master", sync_fails_master, bad_host=True),
    Kind("sync-fails-follower", sync_fails_follower, bad_host=True),
    Kind("full-disk-master", full_disk_master, bound_s=30, stops=True, bad_host=True, may_end=True),
    Kind("full-disk-follower", full_disk_follower, bad_host=True, may_end=True),
    Kind("torn-write-master", torn_write_master, bad_host=True),
    Kind("torn-write-follower", torn_write_follower, bad_host=True),
    Kind("wipe-master", wipe_master),
    Kind("wipe-follower", wipe_follower),
    Kind("old-disk", old_disk),
    Kind("rot-follower", rot_follower),
    Kind("clock-follower", clock_of_follower, bad_host=True),
    Kind("clock-master-back", clock_of_master, bad_host=True),
]
