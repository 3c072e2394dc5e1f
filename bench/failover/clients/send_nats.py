"""nats-py with its default settings: JetStream's publish, whose time-out is 5 s and which does not try again."""

from __future__ import annotations

from typing import Any

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy
from pace import IDLE_S, LOAD_SIZE, Pace, main, number_of, send_at_rate

WINDOW = 1_000


async def connected(where: str) -> Any:
    async def quiet(failure: Exception) -> None:
        pass

    return await nats.connect(servers=where.split(","), error_cb=quiet)


async def send(where: str, topic: str, pace: Pace) -> None:
    connection = await connected(where)
    stream = connection.jetstream()
    await send_at_rate(pace, lambda body: stream.publish(topic, body))


async def read(where: str, topic: str) -> list[int]:
    connection = await connected(where)
    found: list[int] = []
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, max_ack_pending=100_000, ack_wait=600)
    subscription = await connection.jetstream().pull_subscribe(topic, durable=None, stream=topic, config=config)
    while True:
        try:
            messages = await subscription.fetch(1_000, timeout=IDLE_S)
        except nats.errors.TimeoutError:
            break
        for message in messages:
            found.append(number_of(message.data))
            await message.ack()
    await connection.close()
    return found


async def load(where: str, topic: str, mib: int) -> None:
    connection = await connected(where)
    stream = connection.jetstream(publish_async_max_pending=WINDOW)
    body = bytes(LOAD_SIZE)
    under_way: list[Any] = []
    for _ in range(mib * 1024 * 1024 // LOAD_SIZE):
        under_way.append(await stream.publish_async(topic, body, wait_stall=60))
        if len(under_way) >= WINDOW:
            await stream.publish_async_completed()
            for future in under_way:
                future.result()
            under_way.clear()
    await stream.publish_async_completed()
    await connection.close()


if __name__ == "__main__":
    main(send, read, load)
