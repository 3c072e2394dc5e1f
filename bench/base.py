"""The interface between the harness and one contestant. Subclass Adapter in adapters/<file>.py.

A contestant is one server plus one Python client. The server methods run in the harness process;
the client methods run in a fresh worker process each (worker.py), which measures them with a Meter.
Everything a contestant sees of the workload is: a topic name, the number of partitions, payloads (bytes).

Rules for client methods
  * call m.start() when connected and m.stop() when the LAST acknowledgement has arrived (produce)
    or when the last offset/ack is committed (consume); connection set-up is not timed;
  * produce(): return only after every message is acknowledged by the server; raise on any failed send;
  * consume(): hand every payload to m.sink(payload) (or m.sink_many(list)), stop once m.done is true.
    The harness checks the sequence numbers in the payloads: missing ones fail the run, duplicates are counted.
  * consume() is timed from the first payload (m.sink starts the clock) unless m.start() was called earlier: call it
    before subscribing if the client prefetches a share of the backlog that matters, or the prefetched part is free;
    time to the first payload is reported separately;
  * latency(): for each of n payloads: send, wait for the ack; wrap in m.lap() ... m.lap_end();
  * e2e_produce(): send without waiting for acks, one payload per m.tick() (sync) / await m.atick() (asyncio);
    e2e_consume(): call m.ready() when the subscription is live, then feed m.sink() until m.done.
"""

import asyncio, os, shutil, signal, struct, subprocess, time
import psutil

RUN = os.environ.get("BENCH_RUN", "/tmp/mq-bench")
HERE = os.path.dirname(os.path.abspath(__file__))
HDR = struct.Struct("<QQ")  # sequence number, monotonic ns at the moment of sending
PARTITIONS = 4


class Unsupported(Exception):
    pass


class Adapter:
    name = "?"  # contestant name
    server = "?"  # which server
    client = "?"  # which Python client
    durability = "?"  # what an acknowledgement means by default
    fsync = None  # what it means with fsync=True; None: the server offers no such setting
    n_produce = 200_000  # messages in W1/W3 (lower for slow clients)
    n_latency = 2_000
    n_warm = None  # unmeasured messages before W1 (None: n_produce / 4)
    workloads = {"w1", "w2", "w3", "w4", "w4s", "w5", "w7"}

    def __init__(self, fsync=False):
        self.fsync_on = fsync
        self.dir = os.path.join(RUN, "data", self.name)
        self.procs = []

    @classmethod
    def missing(cls):
        """Why this contestant can't run here; None if it can."""
        return None

    # ---------------------------------------------------------------- server (harness process)
    def prepare(self):  # untimed: make a fresh data dir and the configuration
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)

    def start(self):  # timed by W7 together with the first acknowledged message
        raise NotImplementedError

    def create_topic(self, topic, partitions=PARTITIONS):
        raise NotImplementedError

    def stop(self, fast=False):  # only processes that we started, by pid; fast: the data is thrown away anyway
        for p in reversed(self.procs):
            tree = []
            try:
                tree = psutil.Process(p.pid).children(recursive=True)
            except psutil.Error:
                pass
            if fast:
                for c in tree:
                    try:
                        c.kill()
                    except psutil.Error:
                        pass
            if p.poll() is None:
                p.send_signal(signal.SIGKILL if fast else signal.SIGTERM)
            try:
                p.wait(30)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
            _, alive = psutil.wait_procs(tree, 10)
            for c in alive:
                try:
                    c.kill()
                except psutil.Error:
                    pass
        self.procs = []

    def versions(self):
        return {}

    def spawn(self, argv, env=None, log="server"):
        f = open(os.path.join(RUN, "logs", f"{self.name}-{log}.log"), "ab")
        p = subprocess.Popen(
            argv, stdout=f, stderr=f, stdin=subprocess.DEVNULL, cwd=self.dir, env={**os.environ, **(env or {})}
        )
        self.procs.append(p)
        return p

    def pids(self):
        out = []
        for p in self.procs:
            try:
                q = psutil.Process(p.pid)
                out += [q] + q.children(recursive=True)
            except psutil.Error:
                pass
        return out

    # ---------------------------------------------------------------- client (worker process)
    def produce(self, topic, m):
        raise Unsupported()

    def consume(self, topic, m):
        raise Unsupported()

    def latency(self, topic, m):
        raise Unsupported()

    def e2e_produce(self, topic, m):
        raise Unsupported()

    def e2e_consume(self, topic, m):
        raise Unsupported()

    def first_ack(self, topic, deadline_s=60):
        """W7: retry until one message is acknowledged. Runs in the harness process, so must leave nothing behind."""
        raise Unsupported()


class Meter:
    def __init__(self, n, size, rate=0, warm=0):
        self.n, self.size, self.rate, self.warm = n, size, rate, warm
        self.pad = os.urandom(max(0, size - HDR.size))
        self.t0 = self.t1 = None
        self.laps, self.lat, self.late_max = [], [], 0.0
        self.seen, self.got, self.dups, self.bad = bytearray(n), 0, 0, 0
        self.done = n == 0
        self.created = time.monotonic()
        self.first = None
        self.e2e = False
        self.extra = {}

    # --- producing
    def payloads(self):
        pack, pad, now = HDR.pack, self.pad, time.monotonic_ns
        for i in range(self.n):
            yield pack(i, now()) + pad

    def batches(self, k):
        b = []
        for p in self.payloads():
            b.append(p)
            if len(b) == k:
                yield b
                b = []
        if b:
            yield b

    def start(self):
        self.cpu0 = time.process_time()
        self.t0 = time.monotonic()

    def stop(self):
        self.t1 = time.monotonic()
        self.cpu1 = time.process_time()

    # --- serial latency
    def lap(self):
        self._l = time.perf_counter_ns()

    def lap_end(self):
        self.laps.append((time.perf_counter_ns() - self._l) / 1e3)

    # --- consuming
    def sink(self, b):
        if self.first is None:
            self.first = time.monotonic()
            if self.t0 is None:
                self.start()
        seq, ns = HDR.unpack_from(b)
        if len(b) != self.size or seq >= self.n:
            self.bad += 1
            return
        if self.e2e and seq >= self.warm:
            self.lat.append((time.monotonic_ns() - ns) / 1e3)
        if self.seen[seq]:
            self.dups += 1
            return
        self.seen[seq] = 1
        self.got += 1
        if self.got == self.n:
            self.done = True

    def sink_many(self, bs):
        for b in bs:
            self.sink(b)

    # --- paced producing (W5)
    def _next(self, i):
        if i == 0:
            self._p0 = time.monotonic()
        return self._p0 + i / self.rate

    def tick(self):
        """generator of payloads on schedule, for blocking clients"""
        for i in range(self.n):
            due = self._next(i)
            d = due - time.monotonic()
            if d > 0:
                time.sleep(d)
            elif i >= self.warm:
                self.late_max = max(self.late_max, -d)
            yield HDR.pack(i, time.monotonic_ns()) + self.pad

    async def atick(self):
        for i in range(self.n):
            due = self._next(i)
            d = due - time.monotonic()
            if d > 0:
                await asyncio.sleep(d)
            elif i >= self.warm:
                self.late_max = max(self.late_max, -d)
            yield HDR.pack(i, time.monotonic_ns()) + self.pad

    def ready(self):
        print("READY", flush=True)


def pct(v, q):
    if not v:
        return None
    v = sorted(v)
    return v[min(len(v) - 1, int(q * len(v)))]


def wait_port(port, proc, timeout=60):
    import socket

    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if proc.poll() is not None:
                raise RuntimeError(f"server died, rc {proc.returncode}") from None
            time.sleep(0.02)
    raise RuntimeError(f"port {port} did not open")
