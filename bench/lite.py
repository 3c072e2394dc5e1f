#!/usr/bin/env python3
"""A million lite topics in one topic: memory of each, sending to and receiving from some, start-up, expiry.

    lite.py [--topics 1000000] [--data DIR] [--keep] [--out FILE]

`kourou standalone` as users start it, spoken to over gRPC as official clients do, with requests of many messages. Every lite
topic gets a message; a client subscribes to 1,000 of them, receives what is there, is sent one more each and receives that;
the node is killed with -9 and started three times, stopped and started three times; and at last it is started with
--lite-expire-minutes 0.1, and lets go of all that nobody subscribes to.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.append(HERE)
from node import RUN, Node, use_sources
from pauses import percentile
from report import table

use_sources()
import grpc.aio  # noqa: E402

from kourou.client import Client  # noqa: E402
from kourou.proto.rocketmq.v2 import definition_pb2 as pb  # noqa: E402
from kourou.proto.rocketmq.v2 import service_pb2 as service  # noqa: E402

TOPIC, GROUP = "lites", "readers"
REQUEST = 100  # messages
REQUESTS = 8  # under way together
SUBSCRIBED = 1_000
SERVICE = "/apache.rocketmq.v2.MessagingService/"
MIB = 1024 * 1024
Row = dict[str, Any]


def name_of(number: int) -> str:
    return f"session-{number:08d}"


class Official:
    """One client of the official API, by hand."""

    def __init__(self, node: Node) -> None:
        self._channel = grpc.aio.insecure_channel(
            node.urls["official gRPC"], options=(("grpc.max_send_message_length", -1),)
        )
        self._metadata = (("x-mq-client-id", f"bench@{uuid.uuid4().hex}"), ("x-mq-language", "PYTHON"))

    async def __aenter__(self) -> Official:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def call(self, method: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(
            SERVICE + method,
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        found = await call(request, metadata=self._metadata, timeout=60)
        assert found.status.code == pb.OK, found.status
        return found

    async def send(self, names: list[str], body: bytes) -> None:
        request = service.SendMessageRequest()
        for name in names:
            message = request.messages.add(topic=pb.Resource(name=TOPIC), body=body)
            message.system_properties.message_id = f"01{uuid.uuid4().hex.upper()}"
            message.system_properties.born_timestamp.GetCurrentTime()
            message.system_properties.lite_topic = name
        await self.call("SendMessage", request, service.SendMessageResponse)

    async def subscribe(self, names: list[str]) -> None:
        request = service.SyncLiteSubscriptionRequest(action=pb.COMPLETE_ADD, lite_topic_set=names)
        request.topic.name, request.group.name = TOPIC, GROUP
        await self.call("SyncLiteSubscription", request, service.SyncLiteSubscriptionResponse)

    async def receive(self, *, wait_ms: int) -> list[Any]:
        request = service.ReceiveMessageRequest(
            group=pb.Resource(name=GROUP), message_queue=pb.MessageQueue(topic=pb.Resource(name=TOPIC), id=-1), batch_size=32
        )
        request.invisible_duration.FromMilliseconds(60_000)
        request.long_polling_timeout.FromMilliseconds(wait_ms)
        request.filter_expression.type, request.filter_expression.expression = pb.TAG, "*"
        call = self._channel.unary_stream(
            SERVICE + "ReceiveMessage",
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=service.ReceiveMessageResponse.FromString,
        )
        answers = [each async for each in call(request, metadata=self._metadata, timeout=60)]
        return [each.message for each in answers if each.WhichOneof("content") == "message"]

    async def ack(self, messages: list[Any]) -> None:
        request = service.AckMessageRequest(group=pb.Resource(name=GROUP), topic=pb.Resource(name=TOPIC))
        for message in messages:
            properties = message.system_properties
            request.entries.add(message_id=properties.message_id, receipt_handle=properties.receipt_handle)
        await self.call("AckMessage", request, service.AckMessageResponse)

    async def drain(self, count: int) -> tuple[float, list[float]]:
        """Receive and acknowledge so many; (seconds, ms that each took since the time in its body)."""
        ages: list[float] = []
        began = time.perf_counter()
        async with asyncio.timeout(120):
            while len(ages) < count:
                messages = await self.receive(wait_ms=10_000)
                now = time.time_ns()
                ages += [(now - int(message.body)) / 1e6 for message in messages]
                if messages:
                    await self.ack(messages)
        return time.perf_counter() - began, sorted(ages)


def body() -> bytes:
    return str(time.time_ns()).encode()


async def create(node: Node, topics: int) -> Row:
    empty, _ = node.memory_mb()
    before = node.metrics()
    async with Client(node.server) as client, Official(node) as official:
        await client.create_topic(TOPIC, type="lite", queues=1)
        began = time.perf_counter()
        under_way: set[asyncio.Task[None]] = set()
        for first in range(0, topics, REQUEST):
            names = [name_of(number) for number in range(first, min(topics, first + REQUEST))]
            under_way.add(asyncio.create_task(official.send(names, body())))
            if len(under_way) >= REQUESTS:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        for task in under_way:
            await task
        took = time.perf_counter() - began
    await asyncio.sleep(3)  # a snapshot may be under way
    rss, _ = node.memory_mb()
    after = node.metrics()
    return {
        "created a second": round(topics / took),
        "server's CPU us each": round(node.cpu_s() / topics * 1e6, 1),
        "RSS empty MiB": round(empty),
        "RSS with them MiB": round(rss),
        "bytes of memory each": round((rss - empty) * MIB / topics),
        "log bytes each": round(after["rocketmq_storage_size"] / topics),
        "loop held at p99.9, at most ms": percentile(before, after, 0.999),
        "loop held at most ms": round(after["kourou_loop_lag_max_ms"], 1),
    }


async def use(node: Node, topics: int, part: int) -> Row:
    """Subscribe to some (others for each ``part``), receive what is there; then one more each."""
    count = min(topics // 2, SUBSCRIBED)
    chosen = [name_of(number) for number in random.Random(1).sample(range(topics), 2 * count)[part * count :][:count]]
    async with Official(node) as official:
        began = time.perf_counter()
        await official.subscribe(chosen)
        subscribed_ms = (time.perf_counter() - began) * 1000
        took, _ = await official.drain(len(chosen))
        waiting = asyncio.create_task(official.drain(len(chosen)))
        for name in chosen:
            await official.send([name], body())
        _, ages = await waiting
    return {
        f"subscribing to {len(chosen):,}, ms": round(subscribed_ms),
        "receiving and acknowledging one of each, a second": round(len(chosen) / took),
        "from send to receive ms, p50 and p99": f"{median(ages):.1f}, {ages[len(ages) * 99 // 100]:.1f}",
    }


def starts(data: Path, node: Node) -> tuple[Row, Node]:
    killed, stopped, stopping = [], [], []
    for _ in range(3):
        node.kill()
        node = Node(data, log="lite")
        killed.append(node.ready_s)
    for _ in range(3):
        began = time.monotonic()
        node.stop()
        stopping.append(time.monotonic() - began)
        node = Node(data, log="lite")
        stopped.append(node.ready_s)
    rss, _ = node.memory_mb()
    return {
        "ready after kill -9, s": " ".join(f"{each:.2f}" for each in killed),
        "a clean stop takes, s": " ".join(f"{each:.2f}" for each in stopping),
        "ready after it, s": " ".join(f"{each:.2f}" for each in stopped),
        "RSS after opening MiB": round(rss),
        "newest snapshot MiB": round(max((data / "snapshots").glob("*.snap")).stat().st_size / MIB, 1),
    }, node


async def expire(node: Node) -> Row:
    before = node.metrics()
    began = time.monotonic()
    async with asyncio.timeout(600):
        while (metrics := node.metrics())["kourou_lite_topics"]:
            await asyncio.sleep(0.5)
    return {
        "all expired, s after the start (they are looked at every 30 s)": round(time.monotonic() - began, 1),
        "loop held at most ms, while they do": percentile(before, metrics, 1.0),
        "RSS then MiB": round(node.memory_mb()[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, default=RUN / "lite")
    parser.add_argument("--keep", action="store_true", help="leave the data directory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shutil.rmtree(args.data, ignore_errors=True)
    node = Node(args.data, log="lite")
    try:
        facts = asyncio.run(create(node, args.topics))
        facts |= asyncio.run(use(node, args.topics, 0))
        more, node = starts(args.data, node)
        facts |= more
        again = asyncio.run(use(node, args.topics, 1))
        facts |= {f"{name}, after a restart": value for name, value in again.items()}
        node.stop()
        node = Node(args.data, "--lite-expire-minutes", "0.1", log="lite")
        facts |= asyncio.run(expire(node))
    finally:
        node.stop()
    shown = [[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in facts.items()]
    text = "\n".join(table(f"{args.topics:,} lite topics", ("what", "measured"), shown)) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
    if not args.keep:
        shutil.rmtree(args.data, ignore_errors=True)


if __name__ == "__main__":
    main()
