"""The soak's worker of our own client: a member of the same shared groups as the others, and, for normal and FIFO messages,
a reader in stream groups of its own besides. See run.py for the protocol."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from kourou.client import Client, HalfMessage, Producer, SharedMessage
from kourou.core.errors import KourouError

STREAMED = ("normal", "fifo")


def say(op: str, body: str, **more: Any) -> None:
    print(json.dumps({"op": op, "body": body, "at": time.time_ns(), **more}), flush=True)


def complain(what: str, error: BaseException) -> None:
    print(f"native {what}: {error!r}", file=sys.stderr, flush=True)


def check(half: HalfMessage) -> str:
    return "rollback" if half.body.endswith(b":r") else "commit"


class Worker:
    def __init__(self, server: str, name: str, rate: float, seed: int, topics: dict[str, list[str]]) -> None:
        self.server, self.name, self.rate, self.topics = server, name, rate, topics
        self.rng = random.Random(seed)
        self.sending = asyncio.Event()  # set: no more
        self.stopping = asyncio.Event()

    async def pause(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait; true when the event came first."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def produce(self, producer: Producer, kind: str) -> None:
        topic, number = self.topics[kind][0], 0
        while not await self.pause(self.sending, self.rng.expovariate(self.rate / len(self.topics))):
            number += 1
            lane = self.rng.randrange(5)
            fate = self.rng.choice("ccccr") if kind == "transaction" else "c"
            body = f"{self.name}:{kind}:{lane}:{number}:{fate}"
            since = time.time_ns()
            transaction = producer.transaction(topic) if kind == "transaction" else None
            try:
                if transaction is not None:
                    await transaction.send(body)
                elif kind == "delay":
                    await producer.send(topic, body, delay=self.rng.uniform(2, 8))
                else:
                    await producer.send(topic, body, message_group=f"{self.name}-{lane}" if kind == "fifo" else None)
            except KourouError as error:
                say("unsent", body, since=since)
                complain("send", error)
                continue
            say("sent", body, since=since)
            if transaction is not None:
                try:
                    await (transaction.commit() if fate == "c" else transaction.rollback())
                except KourouError as error:  # then the check-back decides
                    complain("end", error)

    async def share(self, client: Client, kind: str) -> None:
        topic, group = self.topics[kind]
        while not self.stopping.is_set():
            try:
                async with client.shared_consumer(topic, group=group, invisible_s=10) as consumer:
                    while True:
                        for message in await consumer.receive(8, wait_s=5):
                            await self.settle(message, group)
            except KourouError as error:
                complain("receive", error)
                await self.pause(self.stopping, 0.5)

    async def settle(self, message: SharedMessage, group: str) -> None:
        body = message.body.decode()
        say("got", body, group=group, attempt=message.attempt, due=message.deliver_at_ms)
        fate = self.rng.random()
        try:
            if fate < 0.03:
                return  # its time runs out
            if fate < 0.06:
                await message.nack(1)
                return
            await message.ack()
        except KourouError as error:
            say("settled", body, group=group)
            complain("ack", error)
        else:
            say("acked", body, group=group)

    async def stream(self, client: Client, kind: str) -> None:
        group = f"{self.topics[kind][1]}-native"
        while not self.stopping.is_set():
            try:
                async with client.consumer(self.topics[kind][0], group=group) as consumer:
                    async for message in consumer:
                        body = message.body.decode()
                        say("got", body, group=group)
                        say("settled", body, group=group)
            except KourouError as error:
                complain("consume", error)
                await self.pause(self.stopping, 0.5)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        async with Client(self.server) as client:
            producer = client.producer(transaction_checker=check, transaction_topics=[self.topics["transaction"][0]])
            tasks = [asyncio.create_task(self.produce(producer, kind)) for kind in self.topics]
            readers = [asyncio.create_task(self.share(client, kind)) for kind in self.topics]
            readers += [asyncio.create_task(self.stream(client, kind)) for kind in STREAMED]
            await loop.run_in_executor(None, sys.stdin.readline)
            self.sending.set()
            await asyncio.gather(*tasks)
            await loop.run_in_executor(None, sys.stdin.read)
            self.stopping.set()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


if __name__ == "__main__":
    _, server, name, rate, seed, topics = sys.argv
    asyncio.run(Worker(server, name, float(rate), int(seed), json.loads(topics)).run())
