"""A crash at every step of storing, moving, merging, recalling and delivering timers: nothing is lost, nothing comes twice.

One run is a script of what users do, on a disk that stops at its n-th change. After each crash the broker is opened again
and the script goes on. What was acknowledged must be delivered exactly once, unless its recall was acknowledged; then
never. What was under way may go either way, but at most once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from kourou.broker.machines import timerbuckets
from kourou.broker.services import timerkeeper
from kourou.broker.store.files import File
from kourou.core.clock import ManualClock
from kourou.core.errors import InvalidRecallHandle, KourouError
from kourou.core.frame import Buffer
from kourou.core.handles import Recall
from tests.sim.disk import Node, SimDisk, SimFile, SimFiles
from tests.sim.timers import TimerNode

DAY_MS = 86_400_000


class Crash(Exception):
    """The process ends here."""


class StepDisk(SimDisk):
    """Stops at the n-th change."""

    def __init__(self) -> None:
        super().__init__()
        self.steps_left = -1  # negative: no limit
        self.steps = 0
        self.dead = False
        self.died = asyncio.Event()

    def step(self) -> None:
        if self.dead:
            raise Crash
        self.steps += 1
        self.steps_left -= 1
        if self.steps_left == 0:
            self.dead = True
            self.died.set()
            raise Crash

    def files(self) -> SimFiles:
        return StepFiles(self)

    def revive(self, *, steps: int = -1) -> None:
        self.dead, self.steps_left = False, steps
        self.died.clear()

    def room(self, wanted: int, what: str) -> None:
        self.step()
        super().room(wanted, what)

    def change(self, name: str, change: dict[str, Node | None]) -> None:
        self.step()
        super().change(name, change)

    def sync_folder(self, folder: str) -> None:
        self.step()
        super().sync_folder(folder)


class StepFile(SimFile):
    def append(self, parts: Sequence[Buffer]) -> None:
        super().append(parts)

    def sync(self) -> None:
        assert isinstance(self._disk, StepDisk)
        self._disk.step()
        super().sync()


class StepFiles(SimFiles):
    def open(self, name: str) -> File:
        node = self.disk.names.get(name)
        if node is None:
            node = Node()
            self.disk.change(name, {name: node})
        return StepFile(self.disk, name, node)


class Script:
    """What users do; goes on where it was after a crash."""

    def __init__(self, disk: StepDisk) -> None:
        self.disk = disk
        self.clock = ManualClock()
        self.number = 0  # of the next step
        self.stored: dict[str, Recall] = {}  # acknowledged
        self.recalled: set[str] = set()
        self.unsure: set[str] = set()  # recall under way at a crash
        self.node: TimerNode | None = None

    async def open(self) -> None:
        self.node = TimerNode(self.disk.files(), self.clock)
        await self.node.create()

    async def store(self, node: TimerNode, names: list[str], ahead_ms: list[int]) -> None:
        placed = await node.store_timers(names, ahead_ms)
        for record, (name, ahead) in enumerate(zip(names, ahead_ms, strict=True)):
            self.stored[name] = Recall(placed.log_offset, record, self.clock.wall_ms() + ahead)

    async def recall(self, node: TimerNode, name: str) -> None:
        if name not in self.stored or name in self.recalled:
            return
        self.unsure.add(name)
        try:
            await node.timers.recall(self.stored[name])
        except InvalidRecallHandle:
            return
        self.unsure.discard(name)
        self.recalled.add(name)

    async def step(self, number: int) -> None:
        """Steps may be repeated after a crash: names say how often."""
        node = self.node
        assert node is not None
        again = self.disk.steps
        match number:
            case 0 | 1 | 5:
                for frame in range(3):
                    names = [f"{number}.{frame}.{each}.{again}" for each in range(4)]
                    await self.store(node, names, [DAY_MS + (each * 7 + frame * 3) % 11 * 1_000 for each in range(4)])
            case 2 | 6:
                await node.timers.keeper.keep()
            case 3 | 7:
                for name in sorted(self.stored)[::5]:
                    await self.recall(node, name)
            case 4:
                await node.snapshot()
            case 8:
                await node.pass_ms(DAY_MS - self.clock.monotonic_ms() + 4_000)
            case 9:
                await node.timers.keeper.keep()
            case 10:
                await self.recall(node, max(self.stored))
                await node.pass_ms(3_000)
            case _:
                await node.pass_ms(DAY_MS)
                await node.timers.keeper.keep()

    async def run(self) -> None:
        """Until the end, or Crash."""
        if self.node is None:
            await self.open()
        while self.number < 12:
            await self.step(self.number)
            self.number += 1

    def crashed(self) -> None:
        if self.node is not None:
            self.node.stop()
        self.node = None

    def check(self) -> None:
        node = self.node
        assert node is not None
        copies = node.copies()
        times = Counter(copy.text for copy in copies)
        assert max(times.values(), default=1) == 1, f"delivered twice: {times.most_common(3)}"
        assert all(copy.store_ms >= copy.due_ms for copy in copies)
        expected = self.stored.keys() - self.recalled - self.unsure
        assert not expected - times.keys(), f"lost: {sorted(expected - times.keys())}"
        assert not self.recalled & times.keys(), f"recalled, but delivered: {self.recalled & times.keys()}"
        assert (len(node.state.timers), node.state.timers.buckets) == (0, {})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timerkeeper, "ROWS_MIN", 1)
    monkeypatch.setattr(timerbuckets, "MERGE_COUNT", 2)


async def run(script: Script, disk: StepDisk, *, power: Random | None) -> None:
    running = asyncio.create_task(script.run())
    died = asyncio.create_task(disk.died.wait())
    await asyncio.wait({running, died}, return_when=asyncio.FIRST_COMPLETED)
    died.cancel()
    if not disk.dead:
        await running
        return
    script.crashed()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    disk.revive()
    if power is not None:
        disk.power_loss(power)
    else:
        disk.kill()
    await script.run()


async def steps_of_a_run() -> int:
    disk = StepDisk()
    script = Script(disk)
    await script.run()
    script.check()
    assert script.recalled
    assert script.node is not None
    assert script.node.timers.keeper.buckets_written >= 3
    return disk.steps


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power-loss"])
async def test_a_crash_at_any_step(part: int, power: bool) -> None:
    total = await steps_of_a_run()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # what the crash cut off
    for at in range(part + 1, total + 1, 4):
        disk = StepDisk()
        disk.revive(steps=at)
        script = Script(disk)
        await run(script, disk, power=Random(at) if power else None)
        try:
            script.check()
        except AssertionError as failure:
            raise AssertionError(f"after a crash at step {at} of {total}: {failure}") from failure


async def test_a_full_disk_loses_nothing() -> None:
    """Goal: buckets that can't be written are tried again. Method: no room while they are due, room later."""
    disk = StepDisk()
    script = Script(disk)
    await script.open()
    node = script.node
    assert node is not None
    await script.step(0)
    await script.step(1)
    for allowed in range(0, 4_000, 400):
        disk.write_limit = allowed
        try:
            await node.timers.keeper.keep()
        except KourouError:
            pass
    assert node.notes.of("timers_not_moved")
    disk.write_limit = None
    node.store.space.refresh()
    script.number = 2
    await script.run()
    script.check()
    assert [name for name in node.files.list("timers") if name.endswith(".tmp")] == []
