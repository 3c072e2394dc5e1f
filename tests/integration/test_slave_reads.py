"""Native stream consumers that are far behind read at a slave of a living master, and come back at the end."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

from kourou.client import Client
from tests.integration.test_replication import ALL, LIMIT_S, Group, address_of, client_of, group, pair

FAR = (*ALL, "--slave-reads-behind-mib", "1")
QUEUES = 4
SIZE = 1_000


def number_of(made: Group, member: int, name: str) -> float:
    """A metric of a member."""
    with urllib.request.urlopen(address_of(made.members[member], "http") + "/metrics", timeout=10) as answer:
        found = re.search(rf"^{name}(?:_total)?{{.*}} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def sent_off(made: Group) -> float:
    return await asyncio.to_thread(number_of, made, 0, "kourou_readers_sent_to_slaves")


def bodies(first: int, count: int) -> list[bytes]:
    return [b"%08d" % number + bytes(SIZE) for number in range(first, first + count)]


async def store(client: Client, wanted: list[bytes]) -> None:
    async with client.producer(deadline_s=60) as producer:
        for first in range(0, len(wanted), 500):
            await producer.send_many("t", wanted[first : first + 500])


async def read(consumer: Any, found: list[bytes], count: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        async for message in consumer:
            found.append(message.body)
            if len(found) == count:
                consumer.finish_current()
                return


async def far_ahead(client: Client, made: Group) -> list[bytes]:
    """Of a group that has read nothing yet: both members have these."""
    await client.create_topic("t", queues=QUEUES)
    await client.create_group("g", shape="stream")
    wanted = bodies(0, 6_000)
    await store(client, wanted)
    await made.same(0, 1)
    return wanted


async def test_far_behind_at_a_slave_and_back_at_the_end(tmp_path: Path) -> None:
    with group(tmp_path, *FAR) as made:
        await pair(made)
        async with client_of(made) as client:
            wanted = await far_ahead(client, made)
            found: list[bytes] = []
            async with client.consumer("t", group="g", start="earliest", prefetch_bytes=64 * 1024) as consumer:
                await read(consumer, found, len(wanted))
                assert sorted(found) == wanted
                times = await sent_off(made)
                assert times >= QUEUES
                fresh = bodies(6_000, 100)
                await store(client, fresh)
                await read(consumer, found, len(wanted) + 100)  # the master delivers again
                assert sorted(found) == [*wanted, *fresh]
                assert await sent_off(made) == times
                await consumer.commit()
            facts = await client.describe_group("g")
            assert sum(queue["lag"] for queue in facts["queues"]) == 0


async def test_the_master_goes_on_when_the_slave_is_lost(tmp_path: Path) -> None:
    with group(tmp_path, "--ack", "all", "--min-isr", "1", "--lag-max-s", "1", "--slave-reads-behind-mib", "1") as made:
        await pair(made)
        async with client_of(made) as client:
            wanted = await far_ahead(client, made)
            found: list[bytes] = []
            async with client.consumer("t", group="g", start="earliest", prefetch_bytes=64 * 1024) as consumer:
                await read(consumer, found, 500)
                assert await sent_off(made) >= 1
                made.kill(1)
                await read(consumer, found, len(wanted))
            assert sorted(found) == wanted


async def test_a_seek_and_a_pause_while_away(tmp_path: Path) -> None:
    with group(tmp_path, *FAR) as made:
        await pair(made)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            await client.create_group("g", shape="stream")
            wanted = bodies(0, 5_000)
            await store(client, wanted)
            await made.same(0, 1)
            found: list[bytes] = []
            async with client.consumer("t", group="g", start="earliest", prefetch_bytes=64 * 1024) as consumer:
                await read(consumer, found, 300)
                await consumer.pause(0)
                await consumer.resume(0)
                await consumer.seek(0, "earliest")
                found.clear()
                await read(consumer, found, len(wanted))
                assert found == wanted
                assert await sent_off(made) >= 2
