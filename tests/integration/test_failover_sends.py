"""Many sends under way while masters come and go: none fails, none is stored twice, what is not known is said to be so."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kourou.core.errors import DeadlineExceeded, KourouError, NotConnected, OutcomeUnknown
from tests.integration.etcd import needs_etcd
from tests.integration.test_failover import elected, settled, start
from tests.integration.test_replication import client_of, stored

pytestmark = needs_etcd

WORKERS = 32
QUEUES = 4


class Sending:
    """Workers that send one message after the other, each a number of its own, until told to stop."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._numbers = itertools.count()
        self._stop = False
        self.sent: list[int] = []
        self.times: list[float] = []
        self.failures: list[KourouError] = []
        self._tasks = [asyncio.ensure_future(self._work()) for _ in range(WORKERS)]

    async def _work(self) -> None:
        while not self._stop:
            number = next(self._numbers)
            try:
                await self._producer.send("t", b"%d" % number)
            except KourouError as failure:
                self.failures.append(failure)
            else:
                self.sent.append(number)
                self.times.append(time.monotonic())
            await asyncio.sleep(0.02)

    async def more(self, count: int) -> None:
        wanted = len(self.sent) + count
        async with asyncio.timeout(60):
            while len(self.sent) < wanted:
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    def gap_s(self) -> float:
        return max(after - before for before, after in itertools.pairwise(self.times))


@pytest.mark.parametrize("how", ["asked", "stopped", "killed"])
async def test_no_send_fails_and_none_is_stored_twice(tmp_path: Path, how: str) -> None:
    """Method: what is in the log at the end, queue by queue, is each number once."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=QUEUES)
            async with client.producer(deadline_s=60) as producer:
                sending = Sending(producer)
                await sending.more(200)
                for _ in range(2):
                    if how == "asked":
                        await made.promote(next(member for member in (0, 1, 2) if member != master))
                    elif how == "stopped":
                        assert await asyncio.to_thread(made.members[master].stop) == 0
                    else:
                        made.kill(master)
                    await sending.more(200)
                    if how != "asked":
                        await asyncio.to_thread(made.start, master)
                    master = await settled(made, 0, 1, 2, but=master)
                await sending.end()
        print(f"{how}: no answer for {sending.gap_s():.3f} s, {len(sending.sent)} sent")
        assert sending.failures == []
        assert sorted(int(body) for body in await stored(made, master, "t", QUEUES)) == sorted(sending.sent)


async def test_what_is_not_known_is_no_failure(tmp_path: Path) -> None:
    """A send whose answer was lost may be stored: OutcomeUnknown. One that nobody took is not stored: another error."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=2) as producer:
                await producer.send("t", b"before")
                for member in (0, 1):
                    os.kill(made.members[member].process.pid, signal.SIGSTOP)
                with pytest.raises(OutcomeUnknown):
                    await producer.send("t", b"unknown")
                for member in (0, 1):
                    made.kill(member)
                with contextlib.suppress(OutcomeUnknown):  # written before the end of the connection is seen
                    await producer.send("t", b"unknown")
                with pytest.raises((NotConnected, DeadlineExceeded)):
                    await producer.send("t", b"failed")
        await asyncio.gather(*(asyncio.to_thread(made.start, member) for member in (0, 1)))
        master = await settled(made, 0, 1)
        found = await stored(made, master, "t", 1)
        assert found[0] == b"before"
        assert b"failed" not in found
