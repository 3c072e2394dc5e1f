"""Our native client, with its default settings."""

from __future__ import annotations

import asyncio
import time

from kourou.client import Client
from pace import IDLE_S, LOAD_SIZE, Pace, main, number_of, send_at_rate


async def send(where: str, topic: str, pace: Pace) -> None:
    async with Client(where) as client, client.producer() as producer:
        await send_at_rate(pace, lambda body: producer.send(topic, body))


async def read(where: str, topic: str) -> list[int]:
    found: list[int] = []
    group = f"reader-{time.time_ns()}"
    async with Client(where) as client:
        await client.create_group(group, shape="stream")
        async with client.consumer(topic, group=group, start="earliest") as consumer:
            batches = aiter(consumer.batches())
            idle = time.monotonic()
            while time.monotonic() - idle < IDLE_S:
                try:
                    batch = await asyncio.wait_for(anext(batches), IDLE_S)
                except TimeoutError:
                    break
                found += [number_of(body) for body in batch.bodies()]
                idle = time.monotonic()
    return found


async def load(where: str, topic: str, mib: int) -> None:
    piece = [bytes(LOAD_SIZE)] * 256
    async with Client(where, timeout_s=120) as client, client.producer(deadline_s=120) as producer:
        for _ in range(max(1, mib * 1024 * 1024 // (LOAD_SIZE * len(piece)))):
            await producer.send_many(topic, piece)


if __name__ == "__main__":
    main(send, read, load)
