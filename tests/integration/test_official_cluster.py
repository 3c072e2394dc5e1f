"""The official API of brokers of a cluster: what came to the wrong one is answered all the same."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kourou.client import Client
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.integration.node import Process
from tests.integration.official import Code, Official, message
from tests.integration.test_native_cluster import address_of, broker


def official(process: Process) -> Official:
    node: Any = SimpleNamespace(urls={"official gRPC": address_of(process, "official gRPC")})
    return Official(node)


async def test_calls_are_passed_on_to_where_they_belong(tmp_path: Path) -> None:
    """Goal: clients with a hash of their own, or none, need not know whose a message group or a recall handle is.
    Method: everything is sent to one broker."""
    nameserver = Process("nameserver", "--port", "0", "--grpc-port", "0", "--http-port", "0")
    processes = [nameserver]
    try:
        nameserver.wait_for("ready", whole=True)
        grpc = address_of(nameserver, "gRPC").removeprefix("http://")
        one = broker("one", tmp_path, grpc)
        processes.append(one)
        two = broker("two", tmp_path, grpc)
        processes.append(two)
        async with Client(address_of(nameserver, "data plane")) as client:
            async with asyncio.timeout(30):
                while len((await client.cluster())["brokers"]) < 2:
                    await asyncio.sleep(0.02)
            await client.create_topic("ordered", type="fifo", queues=4)
            await client.create_topic("later", type="delay", queues=4)
            await client.create_group("g", shape="shared")
        async with official(one) as first, official(two) as second:
            for number in range(20):
                await first.sent(message("ordered", b"%d" % number, message_group=f"group-{number % 10}"))
            several = await first.send(
                *(message("ordered", b"%d" % number, message_group=f"group-{number % 10}") for number in range(20, 30))
            )
            assert several.status.code == Code.OK
            assert len(several.entries) == 10
            found = [await each.receive("ordered", "g", wait_ms=1_000) for each in (first, second)]
            assert all(got.bodies for got in found), "each holds some message groups"
            for got in found:
                by_group: dict[str, list[int]] = {}
                for each in got.messages:
                    by_group.setdefault(each.system_properties.message_group, []).append(int(each.body))
                assert all(numbers == sorted(numbers) and len(numbers) == 3 for numbers in by_group.values())
            assert sorted(int(body) for got in found for body in got.bodies) == list(range(30))

            sent = await second.sent(message("later", due_ms=time.time_ns() // 10**6 + 60_000))
            recall = service.RecallMessageRequest(topic=pb.Resource(name="later"), recall_handle=sent[0].recall_handle)
            assert (await first.call("RecallMessage", recall)).status.code == Code.OK
            assert (await second.call("RecallMessage", recall)).status.code != Code.OK
    finally:
        for process in reversed(processes):
            if process.process.poll() is None:
                process.stop()
