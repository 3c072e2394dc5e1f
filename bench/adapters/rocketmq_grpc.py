"""RocketMQ: nameserver + proxy in local mode (= gRPC + an embedded broker). Optional: left out, loudly, without its jars."""

import glob, json, os, re, shutil, socket, struct, subprocess, sys, threading, time

from base import PARTITIONS, RUN, Adapter, Unsupported, wait_port

NS, BR, GRPC, REM = 29876, 20911, 28081, 28080
RLIB = next(
    (
        place
        for place in (
            os.environ.get("RMQ_LIB", ""),
            "/tmp/rocketmq-reference/lib",
            os.path.join(RUN, "java/rocketmq-server"),
        )
        if glob.glob(os.path.join(place, "rocketmq-proxy-*.jar"))
    ),
    "",
)


def remoting(port, code, ext=None, body=b""):
    """one request of the classic remoting protocol (admin only: quicker than a JVM per mqadmin call)"""
    h = json.dumps(
        {
            "code": code,
            "language": "JAVA",
            "version": 401,
            "opaque": 1,
            "flag": 0,
            "serializeTypeCurrentRPC": "JSON",
            "extFields": ext or {},
        }
    ).encode()
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.sendall(struct.pack(">II", 4 + len(h) + len(body), len(h)) + h + body)
        f = s.makefile("rb")
        n, hl = struct.unpack(">II", f.read(8))
        data = f.read(n - 4)
    r = json.loads(data[: hl & 0xFFFFFF])
    if r["code"]:
        raise RuntimeError(f"remoting {code}: {r}")
    return r, data[hl & 0xFFFFFF :]


class Rocket(Adapter):
    server = "Apache RocketMQ (nameserver + proxy local mode with embedded broker, 1 GiB heap, SerialGC)"
    durability = "flushDiskType=ASYNC_FLUSH (page cache, the default), single master"
    fsync = "flushDiskType=SYNC_FLUSH (group commit)"

    @classmethod
    def missing(cls):
        if not RLIB:
            return "the server's jars are not installed (set RMQ_LIB, or let setup.sh fetch them)"
        return None if shutil.which("java") else "there is no java"

    def prepare(self):
        super().prepare()
        d = self.dir
        os.makedirs(d + "/conf")
        os.makedirs(d + "/store")
        os.makedirs(d + "/logs")
        open(d + "/conf/namesrv.conf", "w").write(
            f"listenPort={NS}\nbindAddress=127.0.0.1\nrocketmqHome={d}\nkvConfigPath={d}/namesrv/kv.json\n"
            f"configStorePath={d}/namesrv/ns.properties\n"
        )
        open(d + "/conf/broker.conf", "w").write(f"""brokerClusterName=DefaultCluster
brokerName=broker-a
brokerId=0
brokerRole=ASYNC_MASTER
flushDiskType={"SYNC_FLUSH" if self.fsync_on else "ASYNC_FLUSH"}
brokerIP1=127.0.0.1
bindAddress=127.0.0.1
listenPort={BR}
haListenPort={BR + 1}
namesrvAddr=127.0.0.1:{NS}
autoCreateTopicEnable=false
autoCreateSubscriptionGroup=true
storePathRootDir={d}/store
storePathCommitLog={d}/store/commitlog
diskMaxUsedSpaceRatio=95
""")
        open(d + "/conf/rmq-proxy.json", "w").write(
            json.dumps(
                {
                    "rocketMQClusterName": "DefaultCluster",
                    "proxyMode": "local",
                    "grpcServerPort": GRPC,
                    "remotingListenPort": REM,
                    "localServeAddr": "127.0.0.1",
                }
            )
        )

    def start(self):
        d = self.dir
        j = [
            f"--add-{k}"
            for k in (
                "exports=java.base/sun.nio.ch=ALL-UNNAMED",
                "exports=java.base/jdk.internal.ref=ALL-UNNAMED",
                "opens=java.base/sun.nio.ch=ALL-UNNAMED",
                "opens=java.base/java.nio=ALL-UNNAMED",
                "opens=java.base/jdk.internal.ref=ALL-UNNAMED",
                "opens=java.base/java.lang=ALL-UNNAMED",
            )
        ]
        j += [
            f"-Duser.home={d}",
            f"-Drocketmq.home.dir={d}",
            "-Dio.netty.tryReflectionSetAccessible=true",
            "-XX:+UseSerialGC",
            "-XX:MaxDirectMemorySize=1g",
            "-cp",
            f"{d}/conf:{RLIB}/*",
        ]
        env = {"ROCKETMQ_HOME": d, "RMQ_PROXY_HOME": d}
        self.spawn(
            [
                "java",
                "-Xms64m",
                "-Xmx256m",
                *j,
                "org.apache.rocketmq.namesrv.NamesrvStartup",
                "-c",
                d + "/conf/namesrv.conf",
            ],
            env,
            "namesrv",
        )
        wait_port(NS, self.procs[-1])
        self.spawn(
            [
                "java",
                "-Xms256m",
                "-Xmx1g",
                *j,
                "org.apache.rocketmq.proxy.ProxyStartup",
                "-pm",
                "local",
                "-n",
                f"127.0.0.1:{NS}",
                "-bc",
                d + "/conf/broker.conf",
                "-pc",
                d + "/conf/rmq-proxy.json",
            ],
            env,
            "proxy",
        )
        wait_port(GRPC, self.procs[-1])
        wait_port(BR, self.procs[-1])

    def create_topic(self, topic, partitions=PARTITIONS):
        end = time.monotonic() + 60
        while True:
            try:
                remoting(
                    BR,
                    17,
                    {
                        "topic": topic,
                        "defaultTopic": "TBW102",
                        "readQueueNums": str(partitions),
                        "writeQueueNums": str(partitions),
                        "perm": "6",
                        "topicFilterType": "SINGLE_TAG",
                        "topicSysFlag": "0",
                        "order": "false",
                        "attributes": "+message.type=NORMAL",
                    },
                )
                remoting(
                    BR,
                    200,
                    body=json.dumps(
                        {"groupName": "g-" + topic, "consumeEnable": True, "retryQueueNums": 1, "retryMaxTimes": 16}
                    ).encode(),
                )
                remoting(NS, 105, {"topic": topic})  # the route is at the nameserver
                return
            except (OSError, RuntimeError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def versions(self):
        import importlib.metadata as im

        v = lambda g: re.search(r"-([\d.]+)\.jar$", glob.glob(g)[0])[1]
        return {
            "rocketmq": v(RLIB + "/rocketmq-broker-*.jar"),
            "rocketmq-python-client": im.version("rocketmq-python-client"),
            "rocketmq-client(java)": v(os.path.join(RUN, "java/rocketmq/rocketmq-client-*.jar")),
        }

    def first_ack(self, topic, deadline_s=60):
        """SEND_MESSAGE_V2 over the classic protocol: no client start-up in the figure"""
        end = time.monotonic() + deadline_s
        while True:
            try:
                remoting(NS, 105, {"topic": topic})
                remoting(
                    BR,
                    310,
                    {
                        "a": "g",
                        "b": topic,
                        "c": "TBW102",
                        "d": "4",
                        "e": "0",
                        "f": "0",
                        "g": str(int(time.time() * 1000)),
                        "h": "0",
                        "i": "",
                        "j": "0",
                        "k": "false",
                        "m": "false",
                    },
                    b"x",
                )
                return
            except (OSError, RuntimeError, struct.error):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)


class RocketPy(Rocket):
    name = "rocketmq-py"
    client = "rocketmq-python-client (official, gRPC; send_async window 512, no batch API; SimpleConsumer receive(32) + ack() in 16 threads; W5 PushConsumer)"
    n_produce = 12_000
    n_warm = 10_000  # a cold JVM halves the figures and worse
    window = 512

    def _cfg(self):
        os.environ["HOME"] = self.dir  # the client logs to ~/logs
        from rocketmq import ClientConfiguration, Credentials

        return ClientConfiguration(f"127.0.0.1:{GRPC}", Credentials(), request_timeout=30)

    def _msg(self, topic, b):
        x = self.Message()
        x.topic = topic
        x.body = b
        return x

    def _producer(self, topic):
        cfg = self._cfg()
        from rocketmq import Message, Producer

        self.Message = Message
        p = Producer(cfg, (topic,))
        p.startup()
        return p

    def produce(self, topic, m):
        p = self._producer(topic)
        sem = threading.Semaphore(self.window)
        err = []
        left = threading.Event()
        ok = [0]
        lock = threading.Lock()

        def cb(f):
            if f.exception():
                err.append(f.exception())
            with lock:
                ok[0] += 1
                if ok[0] == m.n:
                    left.set()
            sem.release()

        m.start()
        for b in m.payloads():
            sem.acquire()
            p.send_async(self._msg(topic, b)).add_done_callback(cb)
        left.wait()
        m.stop()
        if err:
            raise RuntimeError(f"{len(err)} failed: {err[0]}")

    def _consumer(self, topic):
        cfg = self._cfg()
        from rocketmq import FilterExpression, SimpleConsumer

        c = SimpleConsumer(cfg, "g-" + topic, {topic: FilterExpression()}, await_duration=5)
        c.startup()
        return c

    def consume(self, topic, m, pullers=16, inv=60):
        # ack() per message, waited for: the client's ack_async is not usable from plain threads (5.1.2 makes an
        # asyncio.Future without a loop and drops it), and there is no batch ack
        c = self._consumer(topic)
        lock = threading.Lock()
        err = []

        def pull():
            while not m.done:
                try:
                    xs = c.receive(32, inv)
                    with lock:
                        for x in xs:
                            m.sink(x.body)
                    for x in xs:
                        c.ack(x)
                    if xs:
                        c.bench_last_ack = time.monotonic()
                except Exception as e:
                    err.append(e)
                    if len(err) > 50:
                        return

        ts = [threading.Thread(target=pull, daemon=True) for _ in range(pullers)]
        for t in ts:
            t.start()
        last = (0, time.monotonic())
        while not m.done and any(t.is_alive() for t in ts):
            time.sleep(0.002)
            if m.got != last[0]:
                last = (m.got, time.monotonic())
            elif time.monotonic() - last[1] > 45:
                break  # stuck: the missing ones are reported
        m.stop_at = time.monotonic()
        for t in ts:
            t.join(8)  # the last acks; an idle long poll (5 s) may be among them, so:
        m.stop()
        m.t1 = min(m.t1, max(m.stop_at, self._last_ack(c)))
        if err:
            m.extra["errors"] = f"{len(err)}: {str(err[0])[:120]}"

    @staticmethod
    def _last_ack(c):
        return getattr(c, "bench_last_ack", 0)

    def latency(self, topic, m):
        p = self._producer(topic)
        for b in m.payloads():
            x = self._msg(topic, b)
            m.lap()
            p.send(x)
            m.lap_end()

    def e2e_produce(self, topic, m):
        p = self._producer(topic)
        fs = []
        for b in m.tick():
            fs.append(p.send_async(self._msg(topic, b)))
        for f in fs:
            f.result()

    def e2e_consume(self, topic, m):
        """the push consumer: that is what waits for messages in RocketMQ"""
        cfg = self._cfg()
        from rocketmq import ConsumeResult, FilterExpression, MessageListener, PushConsumer

        lock = threading.Lock()

        class L(MessageListener):
            def consume(self, x):
                with lock:
                    m.sink(x.body)
                return ConsumeResult.SUCCESS

        c = PushConsumer(cfg, "g-" + topic, L(), {topic: FilterExpression()})
        c.startup()
        time.sleep(8)  # assignments are scanned every 5 s
        m.ready()
        while not m.done:
            time.sleep(0.01)
        time.sleep(1)


class RocketJava(Rocket):
    """the server's own limit: the classic Java client, straight to the broker (the proxy is not in the path)"""

    workloads = {"w1", "w2", "w3", "w4", "w4s"}
    mode = "sync"
    n_warm = 60_000

    @classmethod
    def missing(cls):
        if not os.path.exists(os.path.join(RUN, "java/native/RmqNative.class")):
            return "the Java client is not installed (setup.sh)"
        return super().missing()

    def _java(self, op, topic, m, *args):
        d = self.dir
        cp = os.path.join(RUN, "java/native") + ":" + os.path.join(RUN, "java/rocketmq/*")
        r = subprocess.run(
            [
                "java",
                "-Xmx1g",
                f"-Duser.home={d}",
                "-Drocketmq.client.logUseSlf4j=false",
                "-Drocketmq.client.logLevel=ERROR",
                "-cp",
                cp,
                "RmqNative",
                op,
                f"127.0.0.1:{NS}",
                topic,
                str(m.n),
                str(m.size),
                *map(str, args),
            ],
            capture_output=True,
            text=True,
            timeout=280,
        )
        sys.stderr.write(r.stderr[-2000:])
        line = [x for x in r.stdout.splitlines() if x.startswith("RESULT ")]
        if not line:
            raise RuntimeError(f"java rc {r.returncode}: {(r.stdout + r.stderr)[-400:]}")
        v = json.loads(line[-1][7:])
        m.t0, m.t1, m.cpu0, m.cpu1 = 0.000001, v.pop("seconds") + 0.000001, 0, v.pop("cpu_s", 0)
        return v

    def produce(self, topic, m):
        v = self._java("produce-" + self.mode, topic, m)
        if v["acked"] != m.n:
            raise RuntimeError(str(v))

    def consume(self, topic, m):
        v = self._java("consume", topic, m)
        m.got, m.dups, m.bad = v["got"], v["dups"], v["bad"]

    def latency(self, topic, m):
        if self.mode != "sync":
            raise Unsupported()
        m.laps = self._java("latency", topic, m)["laps_us"]


class RocketJavaSync(RocketJava):
    name, mode = "rocketmq-java-sync", "sync"
    client = "Java DefaultMQProducer, 16 threads of sync send; consume: DefaultLitePullConsumer"
    n_produce = 100_000


class RocketJavaAsync(RocketJava):
    workloads = {"w1", "w2", "w3"}
    name, mode = "rocketmq-java-async", "async"
    client = "Java DefaultMQProducer, async send, 128 in flight"
    n_produce = 100_000


class RocketJavaBatch(RocketJava):
    workloads = {"w1", "w2", "w3"}
    name, mode = "rocketmq-java-batch", "batch"
    client = "Java DefaultMQProducer, sync send of 32-message batches, 4 threads"
    n_produce = 100_000
