"""Ours: `kourou standalone`, one process with its default durability, and the native client in several manners.

    kourou           produce: send_many in chunks, a few calls at a time; consume: batches, lazy bodies()      (the figures that count)
    kourou-send      produce: send awaited by 256 tasks;                  consume: message by message
    kourou-post      produce: send without waiting (post), then flush;    consume: batches, messages()
    kourou-nosink    consume as kourou, but bodies are counted in bulk instead of going through the harness's sink one by one
    kourou-blocking  the client without asyncio: send_many chunk after chunk; consume by batches
    kourou-asyncio   as kourou, on asyncio's own event loop in the client instead of uvloop

Works with this harness and with any that has the same base.py (BENCH_EXTRA). The server runs on KOUROU_BENCH_PYTHON, the
client on the harness's Python, both from this checkout's sources.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from base import PARTITIONS, Adapter, wait_port

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [str(ROOT / name) for name in ("proto", "core", "nameserver", "broker", "client")]
sys.path += [place for place in SOURCES if place not in sys.path]

PORT, GRPC_PORT, HTTP_PORT = 23911, 23081, 23088
SERVER = f"127.0.0.1:{PORT}"
CHUNK_BYTES = int(os.environ.get("KOUROU_BENCH_CHUNK_BYTES", 2 << 20))  # of one send_many
CHUNKS_UNDER_WAY = int(os.environ.get("KOUROU_BENCH_CHUNKS", 4))
FACTS = """
import importlib.metadata as im, sys
from kourou.core.version import VERSION
print(VERSION, sys.version.split()[0], im.version("uvloop"), im.version("numpy"))
"""


def server_python():
    chosen = os.environ.get("KOUROU_BENCH_PYTHON")
    if chosen:
        return chosen
    own = ROOT / ".venv/bin/python"
    return str(own) if own.exists() else sys.executable


def environment():
    return {"PYTHONPATH": os.pathsep.join(SOURCES)}


def chunk_messages(size):
    """Messages of one send_many. Whole batches of the producer's default size, so that no frame is a small remainder."""
    per_batch = max(1, min(65_536, (256 << 10) // size))
    return max(1, CHUNK_BYTES // (per_batch * size)) * per_batch


class Kourou(Adapter):
    name = "kourou"
    server = "Kourou standalone (nameserver and broker in one Python process), 4 queues"
    client = "kourou.client (pure Python, uvloop): send_many in chunks; batches with bodies()"
    durability = "ack after the write to the log, page cache (fdatasync each 200 ms, the default)"
    fsync = "--flush sync (ack after fdatasync, group commit)"
    n_produce = 600_000
    uvloop = True

    @classmethod
    def missing(cls):
        done = subprocess.run(
            [server_python(), "-c", "import kourou.cli, numpy, uvloop, structlog, prometheus_client, cyclopts"],
            env={**os.environ, **environment()},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return (
                f"{server_python()} can't run the server (set KOUROU_BENCH_PYTHON): {done.stderr.strip().splitlines()[-1]}"
            )
        return None

    # ---- server

    def start(self):
        ports = ["--port", str(PORT), "--grpc-port", str(GRPC_PORT), "--http-port", str(HTTP_PORT)]
        flush = ["--flush", "sync"] if self.fsync_on else []
        argv = [server_python(), "-m", "kourou.cli", "standalone", "--data", os.path.join(self.dir, "data"), *ports, *flush]
        self.spawn(argv, environment())
        wait_port(PORT, self.procs[-1])

    def create_topic(self, topic, partitions=PARTITIONS):
        async def go():
            async with self._client() as client:
                await client.create_topic(topic, queues=partitions)

        self._until(go, 60)

    def first_ack(self, topic, deadline_s=60):
        async def go():
            async with self._client() as client, client.producer(deadline_s=1.0) as producer:
                await producer.send(topic, b"x")

        self._until(go, deadline_s)

    def _until(self, go, seconds):
        """Try until it works: in an event loop of its own, of which nothing is left afterwards."""
        from kourou.core.errors import KourouError

        end = time.monotonic() + seconds
        while True:
            try:
                asyncio.run(go())
                return
            except (KourouError, OSError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)

    def versions(self):
        told = subprocess.run(
            [server_python(), "-c", FACTS], env={**os.environ, **environment()}, capture_output=True, text=True, check=True
        ).stdout.split()
        return dict(zip(("kourou", "server's python", "server's uvloop", "server's numpy"), told, strict=True))

    # ---- client

    def _client(self):
        from kourou.client import Client

        return Client(SERVER)

    def _run(self, main):
        if self.uvloop:
            with contextlib.suppress(ImportError):
                import uvloop

                return uvloop.run(main)
        return asyncio.run(main)

    def produce(self, topic, m):
        async def go():
            async with self._client() as client, client.producer(deadline_s=60.0) as producer:
                await client.describe_topic(topic)  # connected, and the route is known
                m.start()
                await self._send_all(producer, topic, m)
                m.stop()

        self._run(go())

    async def _send_all(self, producer, topic, m):
        under_way = set()
        for chunk in m.batches(chunk_messages(m.size)):
            under_way.add(asyncio.create_task(producer.send_many(topic, chunk)))
            await asyncio.sleep(0)
            if len(under_way) >= CHUNKS_UNDER_WAY:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*under_way)

    def consume(self, topic, m):
        async def go():
            async with self._client() as client:
                m.start()  # before subscribing: what is delivered ahead must not be free
                async with client.consumer(topic, group="g-" + topic, start="earliest") as consumer:
                    await self._take_all(consumer, m)
                    m.stop()

        self._run(go())

    async def _take_all(self, consumer, m):
        async for batch in consumer.batches():
            m.sink_many(batch.bodies())
            if m.done:
                await batch.commit()
                break
        await consumer.commit()  # of every queue

    def latency(self, topic, m):
        async def go():
            async with self._client() as client, client.producer() as producer:
                await client.describe_topic(topic)
                send = producer.send
                for body in m.payloads():
                    m.lap()
                    await send(topic, body)
                    m.lap_end()

        self._run(go())

    def e2e_produce(self, topic, m):
        async def go():
            async with self._client() as client, client.producer() as producer:
                await client.describe_topic(topic)
                async for body in m.atick():
                    await producer.post(topic, body)
                await producer.flush()

        self._run(go())

    def e2e_consume(self, topic, m):
        async def go():
            async with (
                self._client() as client,
                client.consumer(topic, group="g-" + topic, start="earliest") as consumer,
            ):
                while len(consumer.assignment) < PARTITIONS:
                    await asyncio.sleep(0.01)
                m.ready()
                async for message in consumer:
                    m.sink(message.body)
                    if m.done:
                        break

        self._run(go())


class KourouSend(Kourou):
    name = "kourou-send"
    client = "kourou.client (pure Python, uvloop): send awaited by 256 tasks; message by message"
    n_produce = 200_000
    tasks = 256

    async def _send_all(self, producer, topic, m):
        payloads = m.payloads()

        async def sender():
            for body in payloads:
                await producer.send(topic, body)

        await asyncio.gather(*(sender() for _ in range(self.tasks)))

    async def _take_all(self, consumer, m):
        async for message in consumer:
            m.sink(message.body)
            if m.done:
                consumer.done(message)
                break
        await consumer.commit()


class KourouPost(Kourou):
    name = "kourou-post"
    client = "kourou.client (pure Python, uvloop): post (send without waiting), flush; batches with messages()"
    n_produce = 400_000
    workloads = {"w1", "w2", "w3"}

    async def _send_all(self, producer, topic, m):
        post = producer.post
        for number, body in enumerate(m.payloads()):
            await post(topic, body)
            if not number & 1023:
                await asyncio.sleep(0)  # let the loop look at the answers, as Kafka's poll(0) does
        await producer.flush()

    async def _take_all(self, consumer, m):
        async for batch in consumer.batches():
            for message in batch.messages():
                m.sink(message.body)
            if m.done:
                await batch.commit()
                break
        await consumer.commit()


class KourouNoSink(Kourou):
    name = "kourou-nosink"
    client = "kourou.client as above; bodies read and counted, number and bytes compared at the end"
    workloads = {"w2", "w3"}

    async def _take_all(self, consumer, m):
        count = size = 0
        async for batch in consumer.batches():
            if m.first is None:
                m.first = time.monotonic()
            bodies = batch.bodies()
            count += len(bodies)
            size += sum(map(len, bodies))
            if count >= m.n:
                await batch.commit()
                break
        await consumer.commit()
        if size != count * m.size:
            raise RuntimeError(f"{count} bodies have {size} bytes, not {count * m.size}")
        m.got, m.dups, m.done = min(count, m.n), count - m.n, True


class KourouBlocking(Kourou):
    name = "kourou-blocking"
    client = "kourou.client.blocking (no asyncio in sight): send_many; batches with bodies()"

    @classmethod
    def missing(cls):
        if (
            not (ROOT / "client/kourou/client/blocking.py").exists()
            and not (ROOT / "client/kourou/client/blocking").exists()
        ):
            return "kourou.client.blocking does not exist yet"
        return super().missing()

    def _blocking(self):
        from kourou.client.blocking import Client

        return Client(SERVER)

    def produce(self, topic, m):
        with self._blocking() as client, client.producer(deadline_s=60.0) as producer:
            client.describe_topic(topic)
            m.start()
            for chunk in m.batches(CHUNKS_UNDER_WAY * chunk_messages(m.size)):
                producer.send_many(topic, chunk)
            m.stop()

    def consume(self, topic, m):
        with self._blocking() as client:
            m.start()
            with client.consumer(topic, group="g-" + topic, start="earliest") as consumer:
                for batch in consumer.batches():
                    m.sink_many(batch.bodies())
                    if m.done:
                        batch.commit()
                        break
                consumer.commit()
                m.stop()

    def latency(self, topic, m):
        with self._blocking() as client, client.producer() as producer:
            client.describe_topic(topic)
            for body in m.payloads():
                m.lap()
                producer.send(topic, body)
                m.lap_end()

    def e2e_produce(self, topic, m):
        with self._blocking() as client, client.producer() as producer:
            client.describe_topic(topic)
            for body in m.tick():
                producer.post(topic, body)
            producer.flush()

    def e2e_consume(self, topic, m):
        with (
            self._blocking() as client,
            client.consumer(topic, group="g-" + topic, start="earliest") as consumer,
        ):
            m.ready()
            for message in consumer:
                m.sink(message.body)
                if m.done:
                    break


class KourouAsyncio(Kourou):
    name = "kourou-asyncio"
    client = "kourou.client (pure Python, asyncio's own event loop): as kourou"
    uvloop = False
