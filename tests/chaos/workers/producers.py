"""Native producers. All of them repeat under sequence numbers; "plain" gives up soon, "idempotent" nearly never.

Each has some lanes, which send one message after the other; in FIFO topics a lane is a message group.
"""

from __future__ import annotations

import asyncio
import random

from kourou.client import Client, HalfMessage, KourouError, Producer, Receipt
from tests.chaos.workers.plan import CHECKED, FATES, LANES, TOPIC_KIND, body_of, fate_of
from tests.chaos.workers.setting import Setting, came, is_unknown

DEADLINE_S = {"plain": 3.0, "idempotent": 120.0, "fifo": 30.0, "delay": 10.0, "transaction": 10.0}
DELAY_S = (0.5, 6.0)
CHECK_AFTER_S = 3.0


class Sender:
    def __init__(self, setting: Setting, kind: str) -> None:
        self.setting = setting
        self.kind = kind
        self.who = f"native-{kind}"
        self.topic = setting.plan.topics[TOPIC_KIND[kind]]
        self.numbers = [0] * LANES
        self.ended = asyncio.Event()  # it sends no more

    async def run(self) -> None:
        async with Client(self.setting.servers) as client:
            producer = client.producer(deadline_s=DEADLINE_S[self.kind])
            await self.lanes(producer)

    async def lanes(self, producer: Producer) -> None:
        async with asyncio.TaskGroup() as tasks:
            for lane in range(LANES):
                tasks.create_task(self.lane(producer, lane))

    async def lane(self, producer: Producer, lane: int) -> None:
        rng = self.setting.rng(f"{self.who}-{lane}-{self.numbers[lane]}")
        while not await came(self.setting.no_more, rng.expovariate(self.setting.rate / LANES)):
            self.numbers[lane] += 1
            await self.one(producer, lane, rng)

    async def one(self, producer: Producer, lane: int, rng: random.Random) -> None:
        delay_s = rng.uniform(*DELAY_S) if self.kind == "delay" else None
        group = f"{self.who}.{lane}" if self.kind == "fifo" else None
        body = body_of(self.setting.plan.run, self.who, lane, self.numbers[lane])
        number = self.begin(body, lane=group, delay_ms=None if delay_s is None else delay_s * 1000)
        try:
            receipt = await producer.send(self.topic, body, message_group=group, delay=delay_s)
        except KourouError as error:
            self.failed(number, error)
        else:
            self.stored(number, receipt)

    def begin(self, body: str, *, lane: str | None = None, fate: str = "", delay_ms: float | None = None) -> int:
        facts = {"topic": self.topic, "body": body, "lane": lane, "fate": fate, "delay_ms": delay_ms, "sequenced": True}
        return self.setting.journal.invoke(self.who, "send", **facts)

    def stored(self, number: int, receipt: Receipt) -> None:
        self.setting.journal.ok(number, place=[receipt.broker, receipt.queue, receipt.offset])
        self.setting.succeeded(self.who)

    def failed(self, number: int, error: KourouError) -> None:
        (self.setting.journal.unknown if is_unknown(error) else self.setting.journal.refused)(number, error)


class TransactionSender(Sender):
    """A client remembers the transactions that it began and answers for them itself. What is to be left to the check-back is
    begun by a client without a checker, of which brokers ask nothing."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, "transaction")

    async def run(self) -> None:
        deadline_s = DEADLINE_S[self.kind]
        async with Client(self.setting.servers) as client, Client(self.setting.servers) as forgetful:
            self.forgetful = forgetful.producer(deadline_s=deadline_s)
            topics = [self.topic]
            await self.lanes(
                client.producer(deadline_s=deadline_s, transaction_checker=self.check, transaction_topics=topics)
            )
            self.ended.set()
            await came(self.setting.over, 3600)  # meanwhile brokers ask

    def check(self, half: HalfMessage) -> str:
        body = half.body.decode()
        outcome = CHECKED[fate_of(body)]
        number = self.setting.journal.invoke(self.who, "check", topic=self.topic, body=body)
        self.setting.journal.ok(number, outcome=outcome)
        return outcome

    async def one(self, producer: Producer, lane: int, rng: random.Random) -> None:
        fate = rng.choice(FATES)
        body = body_of(self.setting.plan.run, self.who, lane, self.numbers[lane], fate)
        chosen = producer if fate in "cr" else self.forgetful
        transaction = chosen.transaction(self.topic, check_after_s=CHECK_AFTER_S)
        number = self.begin(body, fate=fate)
        try:
            receipt = await transaction.send(body)
        except KourouError as error:
            self.failed(number, error)
            return
        self.stored(number, receipt)
        if fate not in "cr":
            return
        await asyncio.sleep(rng.choice((0, 0, 0.05, 0.5)))
        journal, facts = self.setting.journal, {"topic": self.topic, "body": body, "outcome": CHECKED[fate]}
        number = journal.invoke(self.who, "decide", **facts)
        try:
            await (transaction.commit() if fate == "c" else transaction.rollback())
        except KourouError as error:
            journal.unknown(number, error)
        else:
            journal.ok(number)


def senders(setting: Setting) -> list[Sender]:
    kinds = [kind for kind in setting.plan.kinds if kind in TOPIC_KIND]
    return [TransactionSender(setting) if kind == "transaction" else Sender(setting, kind) for kind in kinds]
