import os, shutil, subprocess, time

from base import PARTITIONS, Adapter, wait_port


class Redis(Adapter):
    name = "redis"
    server = "Redis Streams (Debian), 4 streams as the partitions, data in memory + AOF"
    client = "redis-py + hiredis, pipelined"
    durability = "AOF write, fsync each second (appendfsync everysec)"
    fsync = "appendfsync always"

    @classmethod
    def missing(cls):
        return None if shutil.which("redis-server") else "redis-server is not installed"

    def prepare(self):
        super().prepare()
        self.conf = os.path.join(self.dir, "redis.conf")
        with open(self.conf, "w") as f:
            f.write(
                f'bind 127.0.0.1\nport 16379\ndir {self.dir}\nsave ""\nappendonly yes\n'
                f"appendfsync {'always' if self.fsync_on else 'everysec'}\ndaemonize no\n"
            )

    def start(self):
        self.spawn(["redis-server", self.conf])
        wait_port(16379, self.procs[-1])

    def _r(self):
        import redis

        return redis.Redis(host="127.0.0.1", port=16379, protocol=2)

    def create_topic(self, topic, partitions=PARTITIONS):
        r = self._r()
        for i in range(partitions):
            r.xgroup_create(f"{topic}:{i}", "g", id="0", mkstream=True)

    def versions(self):
        import redis

        return {
            "redis-server": subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
            .stdout.split("v=")[1]
            .split()[0],
            "redis-py": redis.__version__,
        }

    def first_ack(self, topic, deadline_s=60):
        end = time.monotonic() + deadline_s
        while True:
            try:
                self._r().xadd(f"{topic}:0", {"v": b"x"})
                return
            except Exception:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)

    def produce(self, topic, m):
        r = self._r()
        r.ping()
        ks = [f"{topic}:{i}" for i in range(PARTITIONS)]
        m.start()
        i = 0
        for bs in m.batches(500):
            p = r.pipeline(transaction=False)
            for b in bs:
                p.xadd(ks[i & 3], {"v": b})
                i += 1
            p.execute()
        m.stop()

    def _read(self, r, topic, m, count, block):
        st = {f"{topic}:{i}": ">" for i in range(PARTITIONS)}
        res = r.xreadgroup("g", "c", st, count=count, block=block)
        if not res:
            return
        p = r.pipeline(transaction=False)
        for k, es in res:
            for _, f in es:
                m.sink(f[b"v"])
            p.xack(k, "g", *[e[0] for e in es])
        p.execute()

    def consume(self, topic, m):
        r = self._r()
        r.ping()
        while not m.done:
            self._read(r, topic, m, 500, 1000)
        m.stop()

    def latency(self, topic, m):
        r = self._r()
        r.ping()
        k = f"{topic}:0"
        for b in m.payloads():
            m.lap()
            r.xadd(k, {"v": b})
            m.lap_end()

    def e2e_produce(self, topic, m):
        r = self._r()
        r.ping()
        i = 0
        for b in m.tick():
            r.xadd(f"{topic}:{i & 3}", {"v": b})
            i += 1

    def e2e_consume(self, topic, m):
        r = self._r()
        r.ping()
        m.ready()
        while not m.done:
            self._read(r, topic, m, 100, 1000)
