"""Native members of shared groups: most messages are acknowledged, some put off, kept longer, or left to come again."""

from __future__ import annotations

import asyncio
import time
from hashlib import blake2b

from kourou.client import Client, KourouError, SharedConsumer, SharedMessage
from tests.chaos.workers.plan import INVISIBLE_S
from tests.chaos.workers.setting import Setting, came, is_unknown

STAY_S = (10.0, 40.0)
CLOCKS_AGREE_MS = 500  # a lease that is longer than was asked for, by so much, is counted by another clock than ours


class SharedMember:
    def __init__(self, setting: Setting, kind: str, number: int) -> None:
        self.setting = setting
        self.who = f"native-shared-{kind}-{number}"
        self.topic, self.group = setting.plan.topics[kind], setting.plan.group(kind, "shared")
        self.rng = setting.rng(self.who)

    async def run(self) -> None:
        setting = self.setting
        async with Client(setting.servers) as client:
            while not setting.over.is_set():
                leaves = time.monotonic() + self.rng.uniform(*STAY_S)
                async with client.shared_consumer(self.topic, group=self.group, invisible_s=INVISIBLE_S) as consumer:
                    while not setting.over.is_set() and (setting.no_more.is_set() or time.monotonic() < leaves):
                        await self.receive(consumer)

    async def receive(self, consumer: SharedConsumer) -> None:
        since = time.monotonic_ns()
        messages = await consumer.receive(8, wait_s=2)
        if not messages:
            return
        wall_ms = time.time_ns() / 1e6
        got = [self.told(message, wall_ms) for message in messages]
        facts = {"group": self.group, "topic": self.topic}
        self.setting.journal.done(self.who, "receive", since, **facts, result={"got": got})
        self.setting.succeeded(self.who)
        # Together: where a broker is away an ack takes its time, and the others' time would be over meanwhile.
        async with asyncio.TaskGroup() as tasks:
            for message in messages:
                tasks.create_task(self.settle(message))

    def told(self, message: SharedMessage, wall_ms: float) -> dict[str, object]:
        left_ms: float | None = message.due_ms - wall_ms
        if left_ms is not None and left_ms > INVISIBLE_S * 1000 + CLOCKS_AGREE_MS:
            left_ms = None
        place = [message.broker, message.queue, message.offset]
        return {
            "body": message.body.decode(),
            "place": place,
            "attempt": message.attempt,
            "handle": name_of(message),
            "left_ms": left_ms,
        }

    async def settle(self, message: SharedMessage) -> None:
        chance = 1.0 if self.setting.no_more.is_set() else self.rng.random()
        if chance < 0.02:
            return
        if chance < 0.05:
            hidden_s = self.rng.choice((0.0, 0.5, 2.0))
            await self.ask("hide", message, hidden_s)
            return
        if chance < 0.08:
            await self.ask("hide", message, 5.0, keep=True)
            await came(self.setting.over, self.rng.uniform(0, 2))
        await self.ask("ack", message)

    async def ask(self, what: str, message: SharedMessage, hidden_s: float | None = None, *, keep: bool = False) -> None:
        journal = self.setting.journal
        facts: dict[str, object] = {"group": self.group, "body": message.body.decode(), "handle": name_of(message)}
        if hidden_s is not None:
            facts["hidden_ms"] = hidden_s * 1000 if keep else 0
        number = journal.invoke(self.who, what, **facts)
        try:
            if hidden_s is None:
                await message.ack()
            elif keep:
                await message.extend(hidden_s)
            else:
                await message.nack(hidden_s)
        except KourouError as error:
            (journal.unknown if is_unknown(error) else journal.refused)(number, error)
        else:
            journal.ok(number)


def name_of(message: SharedMessage) -> str:
    """Handles themselves are long."""
    return blake2b(message.handle, digest_size=8).hexdigest()
