"""Native stream consumers that commit by themselves, come and go; and somebody who looks at what is committed."""

from __future__ import annotations

import asyncio
import time

from kourou.client import Batch, Client, Consumer, KourouError
from tests.chaos.workers.setting import Setting, came, complain

COMMIT_EVERY_S = 0.5
LOOK_EVERY_S = 1.0
STAY_S = (10.0, 40.0)


class StreamMember:
    def __init__(self, setting: Setting, kind: str, number: int) -> None:
        self.setting = setting
        self.who = f"native-stream-{kind}-{number}"
        self.topic, self.group = setting.plan.topics[kind], setting.plan.group(kind, "stream")
        self.rng = setting.rng(self.who)

    async def run(self) -> None:
        async with Client(self.setting.servers) as client:
            while not self.setting.over.is_set():
                async with client.consumer(self.topic, group=self.group, auto_commit=False) as consumer:
                    await self.read(consumer)

    async def read(self, consumer: Consumer) -> None:
        """For a while; while the workload drains, to its end."""
        reading = Reading(self, consumer)
        tasks = [asyncio.create_task(reading.read()), asyncio.create_task(reading.commit())]
        stay_s = self.rng.uniform(*STAY_S)
        tasks.append(asyncio.create_task(self.stay(stay_s)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def stay(self, seconds: float) -> None:
        if await came(self.setting.no_more, seconds):
            await self.setting.over.wait()


class Reading:
    """One life of a consumer."""

    def __init__(self, member: StreamMember, consumer: Consumer) -> None:
        self.member = member
        self.consumer = consumer
        self.journal = member.setting.journal
        self.latest: dict[tuple[str, int], Batch] = {}  # by queue: what was handed out last
        self.committed: dict[tuple[str, int], int] = {}
        self.fresh = False

    async def read(self) -> None:
        member = self.member
        since = time.monotonic_ns()
        async for batch in self.consumer.batches():
            got = []
            for message in batch.messages():
                place = (message.broker, message.queue)
                got.append({"body": message.body.decode(), "place": [*place, message.offset]})
                self.latest[place] = batch
            self.fresh = True
            self.journal.done(member.who, "receive", since, group=member.group, topic=member.topic, result={"got": got})
            member.setting.succeeded(member.who)
            since = time.monotonic_ns()

    async def commit(self) -> None:
        """What counts is what each position says afterwards: queues that have gone elsewhere are left out silently."""
        member = self.member
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            if not self.fresh:
                continue
            self.fresh = False
            number = self.journal.invoke(member.who, "commit", group=member.group, topic=member.topic)
            try:
                await self.consumer.commit()
            except KourouError as error:
                self.journal.unknown(number, error)
                self.fresh = True
                continue
            places = []
            for place, batch in self.latest.items():
                offset = batch.position.committed
                if offset > self.committed.get(place, 0):
                    self.committed[place] = offset
                    places.append([*place, offset])
            self.journal.ok(number, places=places)


async def look(setting: Setting, kind: str) -> None:
    """Ask what is committed, again and again."""
    who, topic, group = f"native-look-{kind}", setting.plan.topics[kind], setting.plan.group(kind, "stream")
    async with Client(setting.servers) as client:
        while not await came(setting.over, LOOK_EVERY_S):
            since = time.monotonic_ns()
            try:
                queues = await client.offsets(topic, group=group)
            except KourouError as error:
                complain(who, error)
                continue
            if not all(one["confirmed"] for one in queues):
                continue  # nothing is promised; and a queue that a look leaves out counts as 0
            places = [[one["broker"], one["queue"], one["committed"]] for one in queues if one["committed"] is not None]
            setting.journal.done(who, "look", since, group=group, topic=topic, result={"places": places})
            setting.succeeded(who)
