"""Long computations take turns."""

from __future__ import annotations

import asyncio

from kourou.runtime.turns import Turns


async def test_one_computation_in_each_turn_of_the_loop() -> None:
    turns, done = Turns(), []

    async def compute(name: str) -> None:
        turn = await turns.begin()
        for _ in range(20):
            done.append(name)
            await turn.pause()

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(compute(name))
        before = 0
        while len(done) < 60:
            await asyncio.sleep(0)
            assert len(done) - before <= 1
            before = len(done)
    assert {*done[10:13]} == {*done[40:43]} == {*"abc"}


async def test_whoever_begins_while_others_wait_waits_too() -> None:
    turns, done = Turns(), []

    async def compute(name: str) -> None:
        await turns.begin()
        done.append(name)

    first = asyncio.create_task(turns.wait())
    await asyncio.sleep(0)
    second = asyncio.create_task(compute("second"))
    first.add_done_callback(lambda _: done.append("first"))
    await asyncio.gather(first, second)
    assert done == ["first", "second"]


async def test_who_is_cancelled_holds_nobody_up() -> None:
    turns = Turns()
    waiting = [asyncio.create_task(turns.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await turns.wait()
    turn = await turns.begin()
    assert [portion async for portion in turn.portions(range(5), 2)] == [[0, 1], [2, 3], [4]]
