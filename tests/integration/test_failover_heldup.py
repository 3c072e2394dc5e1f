"""Masters that are held up: one whose event loop stands past its lease is cut off from everybody; a slow one hands over."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kourou.core import wire
from kourou.core.errors import NotMaster, OutcomeUnknown
from kourou.core.route import parse_endpoint
from kourou.core.wire import Code
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from kourou.proto.rocketmq.v2 import service_pb2 as service
from tests.integration.etcd import needs_etcd
from tests.integration.node import patched
from tests.integration.official import Stub
from tests.integration.test_failover import elected, send, settled, start
from tests.integration.test_replication import LIMIT_S, client_of, everything

pytestmark = needs_etcd

HOLD = """
import os, signal, time

def hold(number, frame):
    deadline = time.monotonic() + 100
    while not os.path.exists(os.environ["GO_ON"]) and time.monotonic() < deadline:
        time.sleep(0.01)

signal.signal(signal.SIGUSR1, hold)
"""

SLOW = """
import os, time
real = os.fdatasync

def fdatasync(fd):
    if os.path.exists(f"{os.environ['SLOW']}-{os.getpid()}"):
        time.sleep(2.2)
    real(fd)

os.fdatasync = fdatasync
"""

LATE = """
from kourou.runtime import cutoff
cutoff.GRACE_MS = 60_000
"""


def is_refused(address: str) -> bool:
    endpoint = parse_endpoint(address)
    try:
        socket.create_connection((endpoint.host, endpoint.port), LIMIT_S).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_held_up_master_serves_nobody(tmp_path: Path) -> None:
    """Goal: while its loop stands, its clients are cut off and nobody gets in; another leads; then it is a slave of it.
    Method: a signal handler, which runs in the loop's thread, that waits for a file."""
    go_on = tmp_path / "go-on"
    with elected(tmp_path) as (made, _):
        made.env = patched(tmp_path / "extra", HOLD, GO_ON=str(go_on))
        master = await start(made, 0, 1, 2)
        others = [member for member in (0, 1, 2) if member != master]
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 20)
                endpoint = parse_endpoint(made.address(master))
                idle = await asyncio.to_thread(socket.create_connection, (endpoint.host, endpoint.port), LIMIT_S)
                await made.status(master)  # it has accepted that
                with idle:
                    os.kill(made.members[master].process.pid, signal.SIGUSR1)
                    assert await asyncio.to_thread(idle.recv, 1) == b""
                assert await asyncio.to_thread(is_refused, made.address(master))
                successor = await settled(made, *others)
                assert successor != master
                await send(producer, 20, 40)
                assert await asyncio.to_thread(is_refused, made.address(master))  # it is held up all the time
                assert "cut_off" not in made.members[master].output()
                go_on.touch()
                assert await settled(made, 0, 1, 2) == successor
                assert (await made.status(master))["role"] == "slave"
                assert "listening_again" in made.members[master].output()
                await send(producer, 40, 60)
            bodies = await everything(client, "t", 60, group="g1")
            assert sorted(bodies) == sorted(b"a%d" % number for number in range(60))
        await made.same(0, 1, 2)
        await made.promote(master)  # it may lead again
        assert await settled(made, 0, 1, 2) == master


async def test_a_master_with_a_slow_disk_hands_over(tmp_path: Path) -> None:
    """Nothing fails, everything takes two seconds: the third time it gives way; a good disk makes it a member again."""
    slow = tmp_path / "slow"
    with elected(tmp_path, "--flush", "sync", "--lease-s", "10") as (made, _):  # the first sync holds up the loop
        made.env = patched(tmp_path / "extra", SLOW, SLOW=str(slow))
        master = await start(made, 0, 1, 2)
        others = [member for member in (0, 1, 2) if member != master]
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 20)
                pid = made.members[master].process.pid
                switch = slow.with_name(f"slow-{pid}")
                switch.touch()
                await send(producer, 20, 40)
                successor = await settled(made, *others)
                assert successor != master
                switch.unlink()
                assert await settled(made, 0, 1, 2) == successor
            output = made.members[master].output()
            assert "too_slow" in output
            assert "lease_released" in output
            facts = await made.until(successor, lambda facts: len(facts["failover"]["members"]) == 3)
            assert all(member["live"] and member["load"] for member in facts["failover"]["members"])
            bodies = await everything(client, "t", 40, group="g1")
            assert sorted(bodies) == sorted(b"a%d" % number for number in range(40))


async def test_a_frozen_master_does_not_answer_what_came_meanwhile(tmp_path: Path) -> None:
    """SIGSTOP stops the thread that cuts clients off as well: the first thing that the process finds when it goes on may be
    a request. Method: one that waits in the socket while another master leads."""
    with elected(tmp_path) as (made, _):
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 5)
        connection = await made.connect(master)
        header = wire.FETCH_REQUEST.pack(0, 0, 1 << 20, 0, 0, 0)
        answer = await connection.ask(Code.FETCH, header=header, parts=(b"t",))
        assert answer.body
        frozen = made.members[master].process
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            successor = await settled(made, *({0, 1, 2} - {master}))
            asked = asyncio.ensure_future(connection.ask(Code.FETCH, header=header, parts=(b"t",), timeout_s=LIMIT_S))
            await asyncio.sleep(0)  # it is written
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        with pytest.raises((NotMaster, OutcomeUnknown)):
            await asked
        connection.close()
        assert await settled(made, 0, 1, 2) == successor


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
async def test_a_frozen_master_does_not_answer_official_clients_either(tmp_path: Path, engine: str) -> None:
    """The same with calls of the official API that wait in the socket. Method: the thread that cuts off comes too late."""
    with elected(tmp_path, "--grpc-engine", engine) as (made, _):
        made.env = patched(tmp_path / "extra", LATE)
        master = await start(made, 0, 1, 2)
        async with client_of(made) as client:
            await client.create_topic("t", queues=1)
            async with client.producer(deadline_s=60) as producer:
                await send(producer, 0, 5)
            official = client._cluster.routes["t"].brokers[0].official
        frozen = made.members[master].process
        metadata = (("x-mq-client-id", "c"), ("x-mq-language", "PYTHON"))
        queue = pb.MessageQueue(topic=pb.Resource(name="t"), id=0)
        wanted = service.QueryOffsetRequest(message_queue=queue, query_offset_policy=pb.END)
        async with grpc.aio.insecure_channel(str(official)) as channel:
            stub: Any = Stub(channel)
            answer = await stub.QueryOffset(wanted, metadata=metadata, timeout=LIMIT_S)
            assert (answer.status.code, answer.offset) == (pb.OK, 5)
            os.kill(frozen.pid, signal.SIGSTOP)
            try:
                successor = await settled(made, *({0, 1, 2} - {master}))
                calls = [stub.QueryOffset(wanted, metadata=metadata, timeout=LIMIT_S) for _ in range(20)]
                await asyncio.sleep(0.2)  # they are written
            finally:
                os.kill(frozen.pid, signal.SIGCONT)
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # grpcio is closed
        assert await settled(made, 0, 1, 2, but=master) == successor
