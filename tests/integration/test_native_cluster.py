"""Shared consumers over two brokers, one of which comes and goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kourou.client import Client
from tests.integration.node import Process


def address_of(process: Process, name: str) -> str:
    return next(line for line in process.lines if line.startswith(name)).rsplit(None, 1)[-1]


def broker(name: str, data: Path, nameserver: str, port: int = 0) -> Process:
    started = Process(
        "broker", "--name", name, "--data", str(data / name), "--nameserver", nameserver, "--port", str(port),
        "--grpc-port", "0", "--http-port", "0",
    )  # fmt: skip
    started.wait_for("ready", whole=True)
    return started


async def test_brokers_come_and_go(tmp_path: Path) -> None:
    """What both hold comes; while one is away what the other holds; then the rest, by itself."""
    nameserver = Process("nameserver", "--port", "0", "--grpc-port", "0", "--http-port", "0")
    processes = [nameserver]
    try:
        nameserver.wait_for("ready", whole=True)
        grpc = address_of(nameserver, "gRPC").removeprefix("http://")
        one = broker("one", tmp_path, grpc)
        two = broker("two", tmp_path, grpc)
        processes += [one, two]
        async with Client(address_of(nameserver, "data plane")) as client:
            async with asyncio.timeout(30):
                while len((await client.cluster())["brokers"]) < 2:
                    await asyncio.sleep(0.02)
            await client.create_topic("both", queues=4)
            await client.create_group("g", shape="shared")
            producer = client.producer(deadline_s=60)
            receipts = await producer.send_many("both", [b"%d" % i for i in range(40)])
            more = [await producer.send("both", b"%d" % i) for i in range(40, 60)]
            assert {receipt.broker for receipt in [*receipts, *more]} == {"one", "two"}
            seen: list[bytes] = []
            brokers: list[str] = []
            async with client.shared_consumer("both", group="g", invisible_s=2, prefetch=8) as consumer:
                async with asyncio.timeout(60):
                    async for message in consumer:
                        seen.append(message.body)
                        brokers.append(message.broker)
                        if len(seen) == 60:
                            break
                    port = int(address_of(two, "data plane").rsplit(":", 1)[1])
                    await asyncio.to_thread(two.kill)
                    for i in range(60, 80):
                        await producer.send("both", b"%d" % i)
                    async for message in consumer:
                        if message.body not in seen:
                            seen.append(message.body)
                        if len(seen) == 80:
                            break
                    processes.append(await asyncio.to_thread(broker, "two", tmp_path, grpc, port))
                    while "two" not in {receipt.broker for receipt in more[20:]}:
                        more.append(await producer.send("both", b"%d" % (60 + len(more))))
                    async for message in consumer:
                        if message.body not in seen:
                            seen.append(message.body)
                        if len(seen) == 60 + len(more):
                            break
            assert set(brokers) == {"one", "two"}
            assert sorted(seen, key=int) == [b"%d" % i for i in range(60 + len(more))]
    finally:
        for process in reversed(processes):
            if process.process.poll() is None:
                process.stop()
