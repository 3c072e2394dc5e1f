"""Members of a group whose wall clocks are an hour apart: failover works, nothing is early by its master's clock, nothing is
deleted too soon. Wall clocks alone are wrong: what decides about leases is monotonic."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.etcd import needs_etcd
from tests.integration.test_failover import elected, settled
from tests.integration.test_replication import Group, client_of, everything, stored

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), Path("/usr/lib/faketime/libfaketime.so.1"))
needs_faketime = pytest.mark.skipif(
    not LIBRARY.exists(), reason="NO FAKETIME: wrong clocks were not tested; apt install faketime"
)
HOUR_S = 3_600


def start_at(made: Group, member: int, offset_s: int) -> None:
    """Start a member whose wall clock is wrong."""
    made.env = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{offset_s:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    try:
        made.start(member)
    finally:
        made.env = {}


@needs_etcd
@needs_faketime
async def test_clocks_an_hour_apart(tmp_path: Path) -> None:
    """Each member is an hour ahead of the next. Every one of them is master once, by kill -9 of the one before: sends go on,
    all is there, and a retention of an hour deletes nothing."""
    offsets = {0: HOUR_S, 1: 0, 2: -HOUR_S}
    with elected(tmp_path, "--retention-hours", "1", "--segment-bytes", "64KiB", "--snapshot-bytes", "64KiB") as (made, _):
        for member, offset in offsets.items():
            await asyncio.to_thread(start_at, made, member, offset)
        master = await settled(made, 0, 1, 2)
        led = {master}
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                at = 0
                while True:
                    await send_large(producer, at, at + 100)
                    at += 100
                    if led == set(offsets):
                        break
                    made.kill(master)
                    await send_large(producer, at, at + 10)
                    at += 10
                    await asyncio.to_thread(start_at, made, master, offsets[master])
                    master = await settled(made, 0, 1, 2)
                    if master in led:
                        (to,) = list(set(offsets) - led)[:1]
                        await made.promote(to)
                        master = await settled(made, 0, 1, 2)
                    led.add(master)
            bodies = await everything(client, "t", at, group="g")
            assert [body[:8] for body in bodies] == [b"%08d" % number for number in range(at)]
        found = await made.same(0, 1, 2)
        assert found["offset"] > 4 * 64 * 1024
        for member in offsets:
            facts = await made.status(member)
            assert facts["log"]["start"] == 0
            assert facts["log"]["damaged"] == []


async def send_large(producer: Any, first: int, end: int) -> None:
    for number in range(first, end):
        await producer.send("t", b"%08d" % number + os.urandom(1_000))


@needs_etcd
@needs_faketime
@pytest.mark.parametrize("second", [HOUR_S, -HOUR_S])
async def test_timers_go_by_the_master_s_clock(tmp_path: Path, second: int) -> None:
    """A message is due half a minute from now; its master dies, and the successor's clock is an hour off. Ahead: it comes at
    once. Behind: it waits, as by that clock it is not due, while other messages come and go."""
    with elected(tmp_path) as (made, _):
        await asyncio.to_thread(start_at, made, 0, 0)
        await asyncio.to_thread(start_at, made, 1, second)
        await asyncio.to_thread(start_at, made, 2, second)
        if await settled(made, 0, 1, 2) != 0:
            await made.promote(0)
            assert await settled(made, 0, 1, 2) == 0
        async with client_of(made) as client:
            await client.create_topic("later", type="delay", queues=1)
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await producer.send("later", b"due", delay=30)
                assert (await client.scheduled("later"))[0] == 1
                await made.same(0, 1, 2)
                made.kill(0)
                await settled(made, 1, 2)
                await producer.send("t", b"now")
                assert await everything(client, "t", 1, group="g") == [b"now"]
                if second > 0:
                    assert await everything(client, "later", 1, group="h") == [b"due"]
            assert (await client.scheduled("later"))[0] == (0 if second > 0 else 1)
        for member in (1, 2):
            assert len(await stored(made, member, "later", 1)) == (1 if second > 0 else 0)
