"""The soak's worker of our own client. It sends normal and FIFO messages to the same topics as the others, and reads those
topics in stream groups of its own: the native API has no shared groups yet. See run.py for the protocol."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from kourou.client import Client, Producer
from kourou.core.errors import KourouError

KINDS = ("normal", "fifo")


def say(op: str, body: str, **more: Any) -> None:
    print(json.dumps({"op": op, "body": body, "at": time.time_ns(), **more}), flush=True)


def complain(what: str, error: BaseException) -> None:
    print(f"native {what}: {error!r}", file=sys.stderr, flush=True)


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
        number = 0
        while not await self.pause(self.sending, self.rng.expovariate(self.rate / len(KINDS))):
            number += 1
            lane = self.rng.randrange(5)
            body = f"{self.name}:{kind}:{lane}:{number}:c"
            group = f"{self.name}-{lane}" if kind == "fifo" else None
            since = time.time_ns()
            try:
                await producer.send(self.topics[kind][0], body.encode(), message_group=group)
            except KourouError as error:
                say("unsent", body, since=since)
                complain("send", error)
            else:
                say("sent", body, since=since)

    async def consume(self, client: Client, kind: str) -> None:
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
            producer = client.producer()
            tasks = [asyncio.create_task(self.produce(producer, kind)) for kind in KINDS]
            readers = [asyncio.create_task(self.consume(client, kind)) for kind in KINDS]
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
