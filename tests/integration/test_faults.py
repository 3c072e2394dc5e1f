"""Faults of a whole node: full disk, damaged files, two owners, ten thousand idle connections, nameservers that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from kourou.client import Client
from kourou.client.blocking import Client as BlockingClient
from kourou.core import errors
from kourou.core.errors import BadChecksum, Corrupted, DiskFull
from kourou.core.wire import Code
from tests.integration.node import Node, Process, environment
from tests.integration.raw import Raw, sealed

MIB = 1024 * 1024


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as failure:
        return failure.code, failure.read().decode()


def test_http_pages(node: Node) -> None:
    base = node.urls["http"]
    assert get(f"{base}/healthz") == (200, "ok\n")
    assert get(f"{base}/readyz") == (200, "ready\n")
    status, text = get(f"{base}/metrics")
    assert status == 200
    for name in ("rocketmq_messages_in_total", "rocketmq_topic_number", "kourou_loop_lag_ms_bucket"):
        assert re.search(rf"^{name}\b", text, re.MULTILINE), name
    assert get(f"{base}/nothing")[0] == 404


def test_grpc_health(node: Node) -> None:
    import grpc

    from kourou.proto.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(node.urls["official gRPC"]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING


def test_two_owners_of_one_directory(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node, pytest.raises(AssertionError, match="in use by process"):
        Node(tmp_path / "data")
        assert node.process.poll() is None


def test_a_deleted_lock_file_lets_no_second_owner_in(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node:
        (tmp_path / "data/lock").unlink()
        with pytest.raises(AssertionError, match="in use by process"):
            Node(tmp_path / "data")
        assert node.process.poll() is None


@pytest.mark.parametrize(("what", "flush"), [("the directory", "async"), ("the log", "sync"), ("moved while idle", "async")])
def test_the_data_directory_is_removed_while_running(tmp_path: Path, what: str, flush: str) -> None:
    """No acknowledgement once that was noticed, with sync flush none at all; the node goes down and says why."""
    data = tmp_path / "data"
    with Node(data, "--flush", flush) as node, Raw(node.address) as raw:
        raw.create_topic("gone")
        assert raw.produce(sealed("gone", b"before"))[0][0] == 0
        if what == "moved while idle":
            data.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(data if what == "the directory" else data / "log")
        statuses: list[int] = []
        with contextlib.suppress(EOFError, ConnectionError, errors.KourouError):
            while what != "moved while idle":
                statuses.append(raw.produce(sealed("gone", b"after"))[0][0])
        refused = [status for status in statuses if status]
        assert statuses[len(statuses) - len(refused) :] == refused, "acknowledged after it was noticed"
        if flush == "sync":
            assert statuses == refused
        assert node.process.wait(30) == 74
        output = node.output()
        assert "while in use" in output.splitlines()[-1], output
        assert "Traceback" not in output


def test_a_directory_of_another_broker(tmp_path: Path) -> None:
    with Node(tmp_path / "data"):
        pass
    with pytest.raises(AssertionError, match="belongs to"):
        Node(tmp_path / "data", "--name", "broker-z")


def test_newer_formats_are_refused_by_name(tmp_path: Path) -> None:
    with Node(tmp_path / "data"):
        pass
    path = tmp_path / "data/identity.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "format": 99}))
    with pytest.raises(AssertionError, match=r"identity\.json has format.* 99"):
        Node(tmp_path / "data")
    path.write_text(json.dumps(value))
    with Node(tmp_path / "data"):
        pass


def test_a_port_that_is_taken(node: Node, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"can't listen on 127.0.0.1:{node.port}"):
        Node(tmp_path / "data", port=node.port)


def test_a_flipped_bit_in_a_sealed_segment_is_named(tmp_path: Path) -> None:
    """The consumer is told which frame is damaged; other queues are read on, and `log verify` names it."""
    data = tmp_path / "data"
    options = ("--segment-bytes", str(256 * 1024))
    with Node(data, *options) as node, Raw(node.address) as raw:
        raw.create_topic("bits", queues=2)
        for number in range(60):
            assert raw.produce(sealed("bits", bytes([number]) * 10_000, queue=number % 2))[0][0] == 0
    segment = min((data / "log").glob("*.seg"))
    raw_bytes = bytearray(segment.read_bytes())
    at = raw_bytes.find(bytes([4]) * 10_000) + 5_000  # in queue 0
    raw_bytes[at] ^= 1
    segment.write_bytes(raw_bytes)
    verify = subprocess.run(
        [sys.executable, "-m", "kourou.cli", "log", "verify", str(data)], env=environment(), capture_output=True, text=True
    )
    assert verify.returncode != 0
    assert "checksum" in verify.stdout + verify.stderr
    with Node(data, *options) as node, BlockingClient(node.address) as client:
        with pytest.raises(BadChecksum, match="log offset"), client.consumer("bits", group="bits") as consumer:
            for count, _ in enumerate(consumer):
                assert count < 60
        with Raw(node.address) as raw:
            assert len(raw.bodies("bits", queue=1)) == 30
    assert issubclass(BadChecksum, Corrupted)


def test_damaged_indexes_are_made_anew_while_they_are_read(tmp_path: Path) -> None:
    """A consumer, fetches and look-ups go on; nothing is refused for good and no restart is needed."""
    data = tmp_path / "data"
    options = ("--segment-bytes", str(256 * 1024), "--snapshot-bytes", str(512 * 1024))
    with Node(data, *options) as node, BlockingClient(node.address) as client:
        client.create_topic("rot", queues=2)
        producer = client.producer()
        for number in range(200):
            producer.send("rot", number.to_bytes(4, "big") + os.urandom(10_000), key=f"k{number}")
        deadline = time.monotonic() + 30
        while len(list((data / "log").glob("*.idx"))) <= 5:  # written in the background
            assert time.monotonic() < deadline
            time.sleep(0.02)
    damaged = sorted((data / "log").glob("*.idx"))
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
    with Node(data, *options) as node, BlockingClient(node.address) as client:
        with client.consumer("rot", group="rot") as consumer:
            seen = {message.body[:4] for _, message in zip(range(200), consumer, strict=False)}
        assert seen == {number.to_bytes(4, "big") for number in range(200)}
        assert len(client.find("rot", key="k3")) == 1  # looks into every index
        assert len(client.fetch("rot", 0, 0).messages) > 0
        node.wait_for("index_rebuilt")
        output = node.output()
        assert "job_failed" not in output
        assert "job_crashed" not in output


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="SKIPPED LOUDLY: mounting a tmpfs needs root")
def test_a_full_disk(tmp_path: Path) -> None:
    """Writes are refused before the disk is full, consumers drain and commit, and it recovers by itself."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"SKIPPED LOUDLY: no tmpfs can be mounted here: {mounted.stderr}")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(24 * MIB))
        with Node(disk / "data", "--segment-bytes", str(4 * MIB)) as node, BlockingClient(node.address) as client:
            client.create_topic("full", queues=1)
            producer = client.producer(deadline_s=2.0)
            stored = 0
            with pytest.raises(DiskFull, match="full"):
                while stored < 64 * MIB // 100_000:
                    producer.send("full", bytes(100_000))
                    stored += 1
            assert stored > 100
            status = client.status()["broker-a"]
            assert status["disk"]["full"]
            seen = 0
            with client.consumer("full", group="full") as consumer:
                for _ in consumer:
                    seen += 1
                    if seen == stored:
                        break
                consumer.commit()
            assert client.describe_group("full")["lag"] <= 1
            assert node.process.poll() is None
            ballast.unlink()
            receipt = client.producer(deadline_s=30.0).send("full", b"there is room again")
            assert receipt.offset == stored
            for line in node.output().splitlines():
                assert '"level": "error"' not in line, line
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


CROWD = """
import asyncio, resource, sys
from kourou.core import wire
async def main(host, port, count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    hello = wire.encode(1, 1, body=wire.encode_json({"versions": [1], "client": {"id": "idle"}}))
    streams = []
    for first in range(0, count, 200):
        some = await asyncio.gather(*[asyncio.open_connection(host, port) for _ in range(min(200, count - first))])
        for reader, writer in some:
            writer.write(hello)
        for reader, writer in some:
            await reader.readexactly(16)
        streams += some
    print("connected", len(streams), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def test_ten_thousand_idle_connections(tmp_path: Path) -> None:
    """They cost little memory and nobody is held up; client and server are separate processes."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard - 2_000)
    if count < 10_000:
        print(f"LOUDLY: only {count} connections, the system allows {hard} open files")
    with Node(tmp_path / "data") as node:
        before = rss(node.process.pid)
        crowd = subprocess.Popen(
            [sys.executable, "-c", CROWD, "127.0.0.1", str(node.port), str(count)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == f"connected {count}\n"
            with Raw(node.address) as raw:
                raw.create_topic("crowd")
                for number in range(100):
                    assert raw.produce(sealed("crowd", b"%d" % number))[0][0] == 0
                assert len(raw.bodies("crowd")) == 100
            assert rss(node.process.pid) - before < 200 * MIB
        finally:
            crowd.communicate("", timeout=60)


def rss(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


class Nameserver(Process):
    def __init__(self, port: int = 0, grpc_port: int = 0) -> None:
        super().__init__("nameserver", "--port", str(port), "--grpc-port", str(grpc_port), "--http-port", "0")
        self.wait_for("ready", whole=True)
        urls = {line.rsplit(None, 1)[0].strip(): line.rsplit(None, 1)[1] for line in self.lines if "   " in line}
        self.address, self.registration = urls["data plane"], urls["gRPC"]


async def test_nameservers_come_and_go(tmp_path: Path) -> None:
    """Clients live on their last route; a nameserver that starts anew knows everything again from the brokers."""
    first, second = Nameserver(), Nameserver()
    broker = Process(
        "broker", "--name", "b1", "--broker-id", "0", "--nameserver", f"{first.registration},{second.registration}",
        "--data", str(tmp_path / "b1"), "--port", "0", "--grpc-port", "0", "--http-port", "0",
    )  # fmt: skip
    processes: list[Process] = [first, second, broker]
    try:
        broker.wait_for("ready", whole=True)
        for server in (first, second):
            async with Client(server.address) as client:

                async def known(client: Client = client) -> bool:
                    return bool((await client.cluster())["brokers"])

                async with asyncio.timeout(20):
                    while not await known():
                        await asyncio.sleep(0.02)
        async with Client(f"{first.address},{second.address}") as client:
            await client.create_topic("away", queues=4)
            await client.create_group("away")
            producer = client.producer()
            await producer.send("away", b"1")
            for server in (first, second):
                await asyncio.to_thread(server.kill)
            await producer.send_many("away", [b"2", b"3"])
            async with client.consumer("away", group="away") as consumer:
                count = 0
                async for _ in consumer:
                    count += 1
                    if count == 3:
                        break
            port = int(first.address.rsplit(":", 1)[1])
            grpc_port = int(first.registration.rsplit(":", 1)[1])
            processes.append(await asyncio.to_thread(Nameserver, port, grpc_port))
            async with Client(first.address) as fresh:

                async def topics() -> list[str]:
                    return [t["topic"] for t in await fresh.topics()]

                async with asyncio.timeout(20):
                    while await topics() != ["away"]:
                        await asyncio.sleep(0.02)
                assert (await fresh.producer().send("away", b"4")).broker == "b1"
            await producer.send("away", b"5")
            broker.kill()
            async with Client(first.address) as fresh:
                async with asyncio.timeout(20):
                    while (await fresh.cluster())["brokers"]:
                        await asyncio.sleep(0.02)
                route = await fresh._cluster.route("away")
                assert [(b.broker, b.queues, b.master) for b in route.brokers] == [("b1", 4, None)]
    finally:
        for process in processes:
            if process.process.poll() is None:
                process.kill()


def test_a_clean_stop_and_what_survives_it(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node:
        with Raw(node.address) as raw:
            raw.create_topic("kept")
            raw.produce(sealed("kept", b"x"))
            raw.ask_json(Code.GROUP_CREATE, {"group": "g", "shape": "shared", "max_attempts": 3})
        assert node.stop() == 0
    with Node(tmp_path / "data") as node, Raw(node.address) as raw:
        assert raw.bodies("kept") == [b"x"]
        assert raw.ask_json(Code.GROUP_DESCRIBE, {"group": "g"})["max_attempts"] == 3
        with pytest.raises(errors.GroupNotFound):
            raw.ask_json(Code.GROUP_DESCRIBE, {"group": "h"})
