import asyncio, os, subprocess, time

from base import PARTITIONS, Adapter, wait_port

PORT = 15673
URL = f"amqp://guest:guest@127.0.0.1:{PORT}/"


class Rabbit(Adapter):
    server = "RabbitMQ (Debian), 4 queues as the partitions"
    client = "aio-pika (asyncio, pure Python)"
    qtype = "quorum"
    n_produce = 12_000
    pending = 1000

    @classmethod
    def missing(cls):
        return None if os.path.exists("/usr/lib/rabbitmq/bin/rabbitmq-server") else "rabbitmq-server is not installed"

    def prepare(self):
        super().prepare()
        with open(os.path.join(self.dir, "rabbitmq.conf"), "w") as f:
            f.write(
                f"listeners.tcp.default = 127.0.0.1:{PORT}\nvm_memory_high_watermark.absolute = 8GB\n"
                f"disk_free_limit.absolute = 1GB\nlog.console = false\nlog.file.level = warning\n"
            )
        open(os.path.join(self.dir, "enabled_plugins"), "w").write("[].")

    def start(self):
        d = self.dir
        env = {
            "HOME": d,
            "ERL_EPMD_PORT": "14369",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_MNESIA_BASE": d + "/mnesia",
            "RABBITMQ_LOG_BASE": d + "/log",
            "RABBITMQ_CONFIG_FILE": d + "/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": d + "/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": "25673",
            "RABBITMQ_PID_FILE": d + "/pid",
            "RABBITMQ_GENERATED_CONFIG_DIR": d + "/gen",
            "RABBITMQ_ADVANCED_CONFIG_FILE": d + "/advanced.config",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.spawn(["epmd", "-port", "14369", "-address", "127.0.0.1"], env, "epmd")
        self.spawn(["/usr/lib/rabbitmq/bin/rabbitmq-server"], env)
        wait_port(PORT, self.procs[-1])

    def _blocking(self):
        import pika

        return pika.BlockingConnection(pika.URLParameters(URL))

    def create_topic(self, topic, partitions=PARTITIONS):
        c = self._blocking()
        ch = c.channel()
        for i in range(partitions):
            ch.queue_declare(f"{topic}.{i}", durable=True, arguments={"x-queue-type": self.qtype})
        c.close()

    def versions(self):
        import pika, importlib.metadata as im

        v = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", "rabbitmq-server", "erlang-base"],
            capture_output=True,
            text=True,
        ).stdout.split()
        return {
            "rabbitmq-server": v[v.index("rabbitmq-server") + 1],
            "erlang": v[v.index("erlang-base") + 1],
            "aio-pika": im.version("aio-pika"),
            "pika": pika.__version__,
        }

    def first_ack(self, topic, deadline_s=60):
        import pika

        end = time.monotonic() + deadline_s
        while True:
            try:
                c = self._blocking()
                ch = c.channel()
                ch.confirm_delivery()
                ch.basic_publish("", f"{topic}.0", b"x", pika.BasicProperties(delivery_mode=2), mandatory=True)
                c.close()
                return
            except Exception:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    async def _ch(self):
        import aio_pika

        c = await aio_pika.connect(URL)
        return c, await c.channel(publisher_confirms=True)

    def produce(self, topic, m):
        async def go():
            import aio_pika

            c, ch = await self._ch()
            ex = ch.default_exchange
            it = enumerate(m.payloads())
            ks = [f"{topic}.{i}" for i in range(PARTITIONS)]
            P, M = aio_pika.DeliveryMode.PERSISTENT, aio_pika.Message

            async def w():
                for i, b in it:
                    await ex.publish(M(b, delivery_mode=P), ks[i & 3])

            m.start()
            await asyncio.gather(*[w() for _ in range(self.pending)])
            m.stop()
            await c.close()

        asyncio.run(go())

    def consume(self, topic, m):
        async def go():
            c, ch = await self._ch()
            await ch.set_qos(prefetch_count=200)
            fin = asyncio.Event()
            k = 0

            async def cb(x):
                nonlocal k
                m.sink(x.body)
                k += 1
                if m.done or k % 50 == 0:
                    await x.ack(multiple=True)
                if m.done:
                    fin.set()

            m.start()  # before subscribing: what is prefetched must not be free
            for i in range(PARTITIONS):
                q = await ch.get_queue(f"{topic}.{i}", ensure=False)
                await q.consume(cb)
            await fin.wait()
            # a round trip on the same channel: the broker has taken the last ack
            await ch.declare_queue(f"{topic}.0", passive=True, durable=True)
            m.stop()
            await c.close()

        asyncio.run(go())

    def latency(self, topic, m):
        async def go():
            import aio_pika

            c, ch = await self._ch()
            ex = ch.default_exchange
            for b in m.payloads():
                m.lap()
                await ex.publish(aio_pika.Message(b, delivery_mode=2), f"{topic}.0")
                m.lap_end()
            await c.close()

        asyncio.run(go())

    def e2e_produce(self, topic, m):
        async def go():
            import aio_pika

            c, ch = await self._ch()
            ex = ch.default_exchange
            i, fs = 0, []
            async for b in m.atick():
                fs.append(asyncio.ensure_future(ex.publish(aio_pika.Message(b, delivery_mode=2), f"{topic}.{i & 3}")))
                i += 1
            await asyncio.gather(*fs)
            await c.close()

        asyncio.run(go())

    def e2e_consume(self, topic, m):
        async def go():
            c, ch = await self._ch()
            await ch.set_qos(prefetch_count=1000)
            fin = asyncio.Event()

            async def cb(x):
                m.sink(x.body)
                await x.ack()
                if m.done:
                    fin.set()

            for i in range(PARTITIONS):
                q = await ch.get_queue(f"{topic}.{i}", ensure=False)
                await q.consume(cb)
            m.ready()
            await fin.wait()
            await c.close()

        asyncio.run(go())


class RabbitQuorum(Rabbit):
    name = "rabbit-quorum"
    qtype = "quorum"
    durability = "quorum queue (1 node), publisher confirm after the Raft log's write AND fsync (always)"
    fsync = None


class RabbitClassic(Rabbit):
    name = "rabbit-classic"
    qtype = "classic"
    durability = "durable classic queue, persistent message, publisher confirm after the store's sync (grouped)"
    fsync = None


class RabbitPika(Rabbit):
    name = "rabbit-pika"
    qtype = "classic"
    client = "pika BlockingConnection (one confirm waited for at a time; it has no pipelining)"
    durability = RabbitClassic.durability
    n_produce = 4_000

    def _pub(self):
        import pika

        c = self._blocking()
        ch = c.channel()
        ch.confirm_delivery()
        return c, ch, pika.BasicProperties(delivery_mode=2)

    def produce(self, topic, m):
        c, ch, pr = self._pub()
        m.start()
        for i, b in enumerate(m.payloads()):
            ch.basic_publish("", f"{topic}.{i & 3}", b, pr, mandatory=True)
        m.stop()

    def consume(self, topic, m):
        c = self._blocking()
        ch = c.channel()
        ch.basic_qos(prefetch_count=200)
        k = 0

        def cb(ch, meth, _, body):
            nonlocal k
            m.sink(body)
            k += 1
            if m.done or k % 50 == 0:
                ch.basic_ack(meth.delivery_tag, multiple=True)
            if m.done:
                ch.stop_consuming()

        m.start()
        for i in range(PARTITIONS):
            ch.basic_consume(f"{topic}.{i}", cb)
        ch.start_consuming()
        m.stop()

    def latency(self, topic, m):
        c, ch, pr = self._pub()
        for b in m.payloads():
            m.lap()
            ch.basic_publish("", f"{topic}.0", b, pr, mandatory=True)
            m.lap_end()

    def e2e_produce(self, topic, m):
        c, ch, pr = self._pub()
        for i, b in enumerate(m.tick()):
            ch.basic_publish("", f"{topic}.{i & 3}", b, pr, mandatory=True)

    def e2e_consume(self, topic, m):
        c = self._blocking()
        ch = c.channel()
        ch.basic_qos(prefetch_count=1000)

        def cb(ch, meth, _, body):
            m.sink(body)
            ch.basic_ack(meth.delivery_tag)
            if m.done:
                ch.stop_consuming()

        for i in range(PARTITIONS):
            ch.basic_consume(f"{topic}.{i}", cb)
        m.ready()
        ch.start_consuming()
