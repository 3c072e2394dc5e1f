"""One client as a process of its own, for pauses.py, profile.py and growth.py: produces or consumes, prints one line of JSON.

    load.py produce --server H:P --topic T --messages N [--size 1024] [--manner many|send|post] [--cprofile FILE]
    load.py consume --server H:P --topic T --messages N [--manner batches|messages] [--cprofile FILE]

Bodies are made beforehand: what it costs is the client's own. Run with `python -P`, as inside.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import os
import secrets
import time
from typing import Any

TASKS = 256


async def produce(given: argparse.Namespace) -> dict[str, Any]:
    from kourou.client import Client

    body = os.urandom(given.size)
    per_batch = max(1, min(65_536, given.batch_bytes // given.size))
    chunk = [body] * (per_batch * max(1, (2 << 20) // (per_batch * given.size)))
    async with (
        Client(given.server, timeout_s=120) as client,
        client.producer(deadline_s=120.0, batch_bytes=per_batch * given.size) as producer,
    ):
        await client.create_topic(given.topic, queues=given.queues)
        left = given.messages
        with measured(given) as figures:
            if given.manner == "many":
                under_way: set[asyncio.Task[Any]] = set()
                while left > 0:
                    part = chunk if left >= len(chunk) else chunk[:left]
                    left -= len(part)
                    under_way.add(asyncio.create_task(producer.send_many(given.topic, part)))
                    await asyncio.sleep(0)
                    if len(under_way) >= 4:
                        done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            task.result()
                await asyncio.gather(*under_way)
            elif given.manner == "send":
                numbers = iter(range(left))

                async def sender() -> None:
                    for _ in numbers:
                        await producer.send(given.topic, body)

                await asyncio.gather(*(sender() for _ in range(TASKS)))
            else:
                for number in range(left):
                    await producer.post(given.topic, body)
                    if not number & 1023:
                        await asyncio.sleep(0)
                await producer.flush()
    return figures


async def consume(given: argparse.Namespace) -> dict[str, Any]:
    from kourou.client import Client

    count = size = 0
    group = f"bench-{secrets.token_hex(4)}"
    async with Client(given.server, timeout_s=120) as client:
        with measured(given) as figures:
            async with client.consumer(given.topic, group=group, start="earliest") as consumer:
                if given.manner == "messages":
                    async for message in consumer:
                        count += 1
                        size += len(message.body)
                        if count >= given.messages:
                            consumer.done(message)
                            break
                else:
                    async for batch in consumer.batches():
                        bodies = batch.bodies()
                        count += len(bodies)
                        size += sum(map(len, bodies))
                        if count >= given.messages:
                            batch.done()
                            break
                await consumer.commit()
        await client.delete_group(group)
    if count < given.messages or size != count * given.size:
        raise RuntimeError(f"{count} messages of {size} bytes came; {given.messages} of {given.size} bytes each were wanted")
    return figures


@contextlib.contextmanager
def measured(given: argparse.Namespace) -> Any:
    figures: dict[str, Any] = {}
    profiler = cProfile.Profile() if given.cprofile else None
    started, cpu = time.perf_counter(), time.process_time()
    if profiler is not None:
        profiler.enable()
    yield figures
    if profiler is not None:
        profiler.disable()
        profiler.dump_stats(given.cprofile)
    seconds = time.perf_counter() - started
    figures |= {
        "messages": given.messages,
        "seconds": round(seconds, 4),
        "per_s": round(given.messages / seconds),
        "client_us": round((time.process_time() - cpu) / given.messages * 1e6, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("produce", "consume"))
    parser.add_argument("--server", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--queues", type=int, default=4)
    parser.add_argument("--batch-bytes", type=int, default=256 << 10)
    parser.add_argument("--manner", default="")
    parser.add_argument("--cprofile")
    given = parser.parse_args()
    work = produce if given.what == "produce" else consume
    given.manner = given.manner or ("many" if given.what == "produce" else "batches")
    try:
        import uvloop
    except ImportError:
        figures = asyncio.run(work(given))
    else:
        figures = uvloop.run(work(given))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
