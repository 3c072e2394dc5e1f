import asyncio, os, subprocess, time

from base import PARTITIONS, RUN, Adapter, wait_port

URL = "nats://127.0.0.1:14222"


class Nats(Adapter):
    name = "nats"
    server = "NATS JetStream (file storage, R1; one stream, 4 subjects as the partitions)"
    n_produce = 60_000
    client = "nats-py (asyncio, pure Python)"
    durability = "PubAck after write to the stream file, page cache (sync_interval 2m, default)"
    fsync = "sync_interval: always"

    @classmethod
    def missing(cls):
        return None if os.path.exists(os.path.join(RUN, "bin/nats-server")) else "nats-server is not installed"

    def prepare(self):
        super().prepare()
        self.conf = os.path.join(self.dir, "nats.conf")
        with open(self.conf, "w") as f:
            f.write(
                f'listen: "127.0.0.1:14222"\njetstream {{ store_dir: "{self.dir}/js", max_file_store: 20G, '
                f"max_memory_store: 1G {', sync_interval: always' if self.fsync_on else ''} }}\n"
            )

    def start(self):
        self.spawn([os.path.join(RUN, "bin/nats-server"), "-c", self.conf])
        wait_port(14222, self.procs[-1])

    async def _nc(self):
        import nats

        return await nats.connect(URL, max_reconnect_attempts=0, pending_size=64 << 20)

    def create_topic(self, topic, partitions=PARTITIONS):
        async def go():
            nc = await self._nc()
            js = nc.jetstream()
            for _ in range(400):
                try:
                    await js.add_stream(name=topic, subjects=[f"{topic}.*"])
                    break
                except Exception:
                    await asyncio.sleep(0.02)
            else:
                raise RuntimeError("stream not created")
            await nc.close()

        asyncio.run(go())

    def versions(self):
        import importlib.metadata as im

        return {
            "nats-server": subprocess.run(
                [os.path.join(RUN, "bin/nats-server"), "--version"], capture_output=True, text=True
            ).stdout.split()[-1],
            "nats-py": im.version("nats-py"),
        }

    def first_ack(self, topic, deadline_s=60):
        async def go():
            nc = await self._nc()
            js = nc.jetstream(timeout=0.5)
            end = time.monotonic() + deadline_s
            while True:
                try:
                    await js.publish(f"{topic}.0", b"x")
                    break
                except Exception:
                    if time.monotonic() > end:
                        raise
                    await asyncio.sleep(0.01)
            await nc.close()

        asyncio.run(go())

    def produce(self, topic, m):
        async def go():
            nc = await self._nc()
            js = nc.jetstream(publish_async_max_pending=4000)
            subs = [f"{topic}.{i}" for i in range(PARTITIONS)]
            futs = []
            m.start()
            for i, b in enumerate(m.payloads()):
                futs.append(await js.publish_async(subs[i & 3], b))
            await asyncio.gather(*futs)
            m.stop()
            await nc.close()

        asyncio.run(go())

    def consume(self, topic, m):
        async def go():
            from nats.js.api import ConsumerConfig

            nc = await self._nc()
            js = nc.jetstream()
            s = await js.pull_subscribe(f"{topic}.*", durable="g", config=ConsumerConfig(max_ack_pending=20000, ack_wait=60))
            while not m.done:
                try:
                    ms = await s.fetch(1000, timeout=2)
                except Exception as e:
                    if "imeout" in type(e).__name__:
                        continue
                    raise
                for x in ms:
                    m.sink(x.data)
                    await x.ack()
            await nc.flush()
            m.stop()
            ci = await js.consumer_info(topic, "g")
            m.extra["ack_pending_at_end"] = ci.num_ack_pending
            await nc.close()

        asyncio.run(go())

    def latency(self, topic, m):
        async def go():
            nc = await self._nc()
            js = nc.jetstream()
            for b in m.payloads():
                m.lap()
                await js.publish(f"{topic}.0", b)
                m.lap_end()
            await nc.close()

        asyncio.run(go())

    def e2e_produce(self, topic, m):
        async def go():
            nc = await self._nc()
            js = nc.jetstream(publish_async_max_pending=4000)
            i, fs = 0, []
            async for b in m.atick():
                fs.append(await js.publish_async(f"{topic}.{i & 3}", b))
                i += 1
            await asyncio.gather(*fs)
            await nc.close()

        asyncio.run(go())

    def e2e_consume(self, topic, m):
        async def go():
            nc = await self._nc()
            js = nc.jetstream()

            async def cb(x):
                m.sink(x.data)
                await x.ack()

            await js.subscribe(f"{topic}.*", durable="e", cb=cb, manual_ack=True)
            m.ready()
            while not m.done:
                await asyncio.sleep(0.05)
            await nc.close()

        asyncio.run(go())
