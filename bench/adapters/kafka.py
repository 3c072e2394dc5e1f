import asyncio, glob, os, shutil, subprocess, time

from base import PARTITIONS, RUN, Adapter, wait_port

B = "127.0.0.1:19092"
KLIB = os.path.join(RUN, "java/kafka/*")


class Kafka(Adapter):
    server = "Apache Kafka (KRaft, combined broker+controller, 1 GiB heap)"
    durability = "acks=all, replication 1, page cache (no fsync; Kafka's default)"
    fsync = "log.flush.interval.messages=1 (fsync before each append is acknowledged)"

    @classmethod
    def missing(cls):
        if not glob.glob(os.path.join(RUN, "java/kafka/kafka_2.13-*.jar")):
            return "its jars are not installed"
        return None if shutil.which("java") else "there is no java"

    def prepare(self):
        super().prepare()
        self.conf = os.path.join(self.dir, "server.properties")
        with open(self.conf, "w") as f:
            f.write(
                f"""process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093
advertised.listeners=PLAINTEXT://127.0.0.1:19092
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.quorum.voters=1@127.0.0.1:19093
log.dirs={self.dir}/logs
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""
                + ("log.flush.interval.messages=1\n" if self.fsync_on else "")
            )
        subprocess.run(
            [
                "java",
                "-Xmx256m",
                "-cp",
                KLIB,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "MkU3OEVBNTcwNTJENDM2Qg",
                "-c",
                self.conf,
            ],
            check=True,
            capture_output=True,
        )

    def start(self):
        self.spawn(
            [
                "java",
                "-Xms1g",
                "-Xmx1g",
                "-server",
                "-XX:+UseG1GC",
                "-XX:MaxGCPauseMillis=20",
                "-XX:InitiatingHeapOccupancyPercent=35",
                "-XX:+ExplicitGCInvokesConcurrent",
                "-Djava.awt.headless=true",
                "-cp",
                KLIB,
                "kafka.Kafka",
                self.conf,
            ]
        )
        wait_port(19092, self.procs[-1])

    def create_topic(self, topic, partitions=PARTITIONS):
        from confluent_kafka.admin import AdminClient, NewTopic

        a = AdminClient({"bootstrap.servers": B, "log_level": 0})
        end = time.monotonic() + 60
        while True:
            try:
                for f in a.create_topics([NewTopic(topic, partitions, 1)], request_timeout=10).values():
                    f.result()
                break
            except Exception as e:
                if "already exists" in str(e):
                    break
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def versions(self):
        import confluent_kafka, aiokafka

        j = glob.glob(os.path.join(RUN, "java/kafka/kafka_2.13-*.jar"))[0]
        return {
            "kafka": j.rsplit("-", 1)[1][:-4],
            "confluent-kafka": confluent_kafka.version(),
            "librdkafka": confluent_kafka.libversion()[0],
            "aiokafka": aiokafka.__version__,
        }

    def first_ack(self, topic, deadline_s=60):
        from confluent_kafka import Producer

        p = Producer(
            {
                "bootstrap.servers": B,
                "acks": "all",
                "linger.ms": 0,
                "log_level": 0,
                "reconnect.backoff.ms": 10,
                "reconnect.backoff.max.ms": 50,
                "retry.backoff.ms": 10,
                "topic.metadata.refresh.fast.interval.ms": 20,
            }
        )
        err = []
        p.produce(topic, b"x", on_delivery=lambda e, m: err.append(e))
        p.flush(deadline_s)
        if not err or err[0]:
            raise RuntimeError(f"first ack: {err}")


class KafkaConfluent(Kafka):
    name = "kafka-confluent"
    client = "confluent-kafka (librdkafka, C)"

    def _producer(self, linger, **kw):
        from confluent_kafka import Producer

        return Producer(
            {
                **kw,
                "bootstrap.servers": B,
                "acks": "all",
                "linger.ms": linger,
                "batch.size": 1_000_000,
                "batch.num.messages": 10000,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
            }
        )

    def produce(self, topic, m):
        p = self._producer(10)
        p.list_topics(topic)
        acked = [0]
        bad = []

        def cb(err, _):
            if err is None:
                acked[0] += 1
            else:
                bad.append(err)

        m.start()
        for i, b in enumerate(m.payloads()):
            p.produce(topic, b, on_delivery=cb)
            if not i & 1023:
                p.poll(0)
        p.flush()
        m.stop()
        if bad or acked[0] != m.n:
            raise RuntimeError(f"acked {acked[0]}, errors {bad[:2]}")

    def _consumer(self, topic, **kw):
        from confluent_kafka import Consumer

        c = Consumer(
            {
                "bootstrap.servers": B,
                "group.id": "g-" + topic,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": True,
                # the default 1,000 ms pause once 100,000 messages are queued halves the rate of a 200,000 backlog
                # (measured, 100 B: 144,000/s with the default, 600,000-760,000/s with 10)
                "fetch.queue.backoff.ms": 10,
                **kw,
            }
        )
        return c

    def consume(self, topic, m):
        c = self._consumer(topic)
        c.subscribe([topic])
        while not m.done:
            for x in c.consume(2000, 0.2):
                if x.error():
                    raise RuntimeError(x.error())
                m.sink(x.value())
        c.commit(asynchronous=False)
        m.stop()

    def latency(self, topic, m):
        p = self._producer(0)
        p.list_topics(topic)
        got = []
        cb = lambda e, _: got.append(e)
        for b in m.payloads():
            m.lap()
            p.produce(topic, b, on_delivery=cb)
            while not got:
                p.poll(1)
            m.lap_end()
            if got.pop():
                raise RuntimeError("send failed")

    def e2e_produce(self, topic, m):
        # one request in flight, so that batches can form while it is under way. Measured on a quiet machine:
        # p50 0.95 ms so, 847 ms with librdkafka's default in-flight limit and linger 0 (it does not keep up)
        p = self._producer(0, **{"max.in.flight.requests.per.connection": 1})
        p.list_topics(topic)
        for b in m.tick():
            p.produce(topic, b)
            p.poll(0)
        p.flush()

    def e2e_consume(self, topic, m):
        st = []
        c = self._consumer(topic, **{"fetch.wait.max.ms": 500})
        c.subscribe([topic], on_assign=lambda c, ps: st.append(1))
        told = False
        while not m.done:
            x = c.poll(0.1)
            if st and not told:
                told = True
                time.sleep(1)
                m.ready()
            if x is not None:
                if x.error():
                    raise RuntimeError(x.error())
                m.sink(x.value())
        c.commit(asynchronous=False)


class KafkaAio(Kafka):
    name = "kafka-aiokafka"
    n_produce = 100_000
    client = "aiokafka (asyncio, Cython codec)"

    async def _producer(self, linger):
        from aiokafka import AIOKafkaProducer

        p = AIOKafkaProducer(bootstrap_servers=B, acks="all", linger_ms=linger, max_batch_size=262144)
        await p.start()
        return p

    def produce(self, topic, m):
        async def go():
            p = await self._producer(5)
            await p.partitions_for(topic)
            m.start()
            futs = []
            for b in m.payloads():
                futs.append(await p.send(topic, b))
            await p.flush()
            for f in futs:
                f.result()
            m.stop()
            await p.stop()

        asyncio.run(go())

    async def _consumer(self, topic):
        from aiokafka import AIOKafkaConsumer

        c = AIOKafkaConsumer(
            topic, bootstrap_servers=B, group_id="g-" + topic, auto_offset_reset="earliest", enable_auto_commit=True
        )
        await c.start()
        return c

    def consume(self, topic, m):
        async def go():
            c = await self._consumer(topic)
            while not m.done:
                for rs in (await c.getmany(timeout_ms=500, max_records=5000)).values():
                    for r in rs:
                        m.sink(r.value)
            await c.commit()
            m.stop()
            await c.stop()

        asyncio.run(go())

    def latency(self, topic, m):
        async def go():
            p = await self._producer(0)
            await p.partitions_for(topic)
            for b in m.payloads():
                m.lap()
                await p.send_and_wait(topic, b)
                m.lap_end()
            await p.stop()

        asyncio.run(go())

    def e2e_produce(self, topic, m):
        async def go():
            p = await self._producer(0)
            await p.partitions_for(topic)
            fs = []
            async for b in m.atick():
                fs.append(await p.send(topic, b))
            await p.flush()
            for f in fs:
                f.result()
            await p.stop()

        asyncio.run(go())

    def e2e_consume(self, topic, m):
        async def go():
            c = await self._consumer(topic)
            while not c.assignment():
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            m.ready()
            while not m.done:
                for rs in (await c.getmany(timeout_ms=200)).values():
                    for r in rs:
                        m.sink(r.value)
            await c.commit()
            await c.stop()

        asyncio.run(go())
