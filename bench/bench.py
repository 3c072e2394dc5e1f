#!/usr/bin/env python3
"""Side-by-side benchmark of message queues as used from Python.

  bench.py list
  bench.py run [--contestants a,b] [--workloads w1,w2,...] [--rounds 3] [--out results.json] [--quick] [--no-netns]
  bench.py report results.json [more.json ...]

w1 produce 1 KiB   w2 consume that backlog   w3 = w1+w2 with 100 B   w4 serial produce latency, default durability
w4s the same with fsync per message   w5 end-to-end latency at 1,000 msg/s x 10 s   w6 (with w1) server memory and CPU
w7 process start to first acknowledged message (fresh data dir incl. topic creation; and restart on that data)
Everything runs inside a network namespace of its own (loopback only), so ports never clash with other work here.
"""

import argparse, json, os, subprocess, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
RUN = os.environ.get("BENCH_RUN", "/tmp/mq-bench")
VPY = os.path.join(RUN, "venv/bin/python")
if os.path.exists(VPY) and os.path.realpath(sys.prefix) != os.path.realpath(os.path.join(RUN, "venv")):
    os.execv(VPY, [VPY, os.path.abspath(__file__)] + sys.argv[1:])
import fcntl
import resource, signal, socket
import psutil
import adapters
import report as tables
from base import pct

KNOWN = ["w1", "w2", "w3", "w4", "w4s", "w5", "w6", "w7"]


def log(*a):
    print(time.strftime("%H:%M:%S"), *a, file=sys.stderr, flush=True)


def busy():
    t = psutil.cpu_times()
    return t.user + t.system + t.nice + t.irq + t.softirq + getattr(t, "steal", 0)


def anon_kb(pid):
    try:
        for l in open(f"/proc/{pid}/status"):
            if l.startswith("RssAnon:"):
                return int(l.split()[1])
    except OSError:
        pass
    return 0


class Sampler:
    """server RSS (peak) and CPU seconds, this worker's CPU, everybody else's CPU, while the block runs"""

    def __init__(self, a):
        self.a = a

    def _cpu(self):
        return {p.pid: sum(p.cpu_times()[:2]) for p in self.a.pids() if p.is_running()}

    def __enter__(self):
        self.rss = self.anon = 0
        self.end = threading.Event()
        self.c0, self.b0, self.w0, self.t0 = self._cpu(), busy(), self._kids(), time.monotonic()
        self.th = threading.Thread(target=self._loop, daemon=True)
        self.th.start()
        return self

    def _kids(self):
        r = resource.getrusage(resource.RUSAGE_CHILDREN)
        return r.ru_utime + r.ru_stime

    def _loop(self):
        while True:
            try:
                ps = self.a.pids()
                self.rss = max(self.rss, sum(p.memory_info().rss for p in ps))
                self.anon = max(self.anon, sum(anon_kb(p.pid) for p in ps) * 1024)
            except psutil.Error:
                pass
            if self.end.wait(0.1):
                return

    def __exit__(self, *_):
        self.end.set()
        self.th.join()
        c1 = self._cpu()
        wall = time.monotonic() - self.t0
        srv = sum(v - self.c0.get(k, 0) for k, v in c1.items())
        cli = self._kids() - self.w0
        self.out = {
            "server_rss_mb": self.rss / 2**20,
            "server_anon_mb": self.anon / 2**20,
            "server_cpu_s": srv,
            "worker_cpu_s": cli,
            "wall_s": wall,
            "other_cpu": max(0, busy() - self.b0 - srv - cli) / wall,
            "load1": os.getloadavg()[0],
        }


def popen_worker(name, op, args):
    f = open(os.path.join(RUN, "logs", f"{name}-worker.log"), "ab")
    return subprocess.Popen(
        [sys.executable, os.path.join(HERE, "worker.py"), name, op, json.dumps(args)],
        stdout=subprocess.PIPE,
        stderr=f,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": HERE},
    )


def finish(p, timeout):
    t = threading.Timer(timeout, p.kill)
    t.daemon = True
    t.start()
    res = {"ok": False, "error": f"no result within {timeout}s or died"}
    for l in p.stdout:
        if l.startswith("RESULT "):
            res = json.loads(l[7:])
    p.wait()
    t.cancel()
    return res


def worker(name, op, timeout=300, **args):
    return finish(popen_worker(name, op, args), timeout)


def probe():
    """what the machine itself does now: fsync of 4 KiB appends, a Python loopback echo, idle CPU taken by others"""
    b = busy()
    t = time.monotonic()
    time.sleep(1)
    other = (busy() - b) / (time.monotonic() - t)
    path = os.path.join(RUN, "data", "probe")
    v = []
    with open(path, "wb", buffering=0) as f:
        for _ in range(300):
            f.write(b"x" * 4096)
            x = time.perf_counter()
            os.fdatasync(f.fileno())
            v.append((time.perf_counter() - x) * 1e6)
    os.unlink(path)
    l = socket.socket()
    l.bind(("127.0.0.1", 0))
    l.listen()

    def echo():
        c = l.accept()[0]
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while d := c.recv(4096):
            c.sendall(d)

    th = threading.Thread(target=echo, daemon=True)
    th.start()
    s = socket.create_connection(l.getsockname())
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    w = []
    for _ in range(2000):
        x = time.perf_counter()
        s.sendall(b"x" * 1024)
        s.recv(4096)
        w.append((time.perf_counter() - x) * 1e6)
    s.close()
    l.close()
    return {
        "fdatasync_p50_us": pct(v, 0.5),
        "fdatasync_p99_us": pct(v, 0.99),
        "echo_p50_us": pct(w, 0.5),
        "others_cpu": other,
        "load": os.getloadavg(),
    }


def quiet(limit=0.35, patience=45):
    """wait (a bounded time) until the rest of the machine uses less than limit cores; say what it was in the end"""
    end = time.monotonic() + patience
    while True:
        b = busy()
        t = time.monotonic()
        time.sleep(1.5)
        o = (busy() - b) / (time.monotonic() - t)
        if o < limit or time.monotonic() > end:
            return o


def contestant(name, rnd, ws, quick, add, patience=45):
    cls = adapters.get(name)
    a = cls()
    ws = ws & (a.workloads | {"w6"})
    scale = 10 if quick else 1
    n, nl = a.n_produce // scale, a.n_latency // (4 if quick else 1)

    def rec(w, r, **kw):
        r = {"round": rnd, "contestant": name, "workload": w, **kw, **r}
        add(r)
        s = r.get("msg_s")
        e = r.get("error")
        log(
            f"r{rnd} {name:20} {w:10}",
            f"FAILED {e}"
            if not r.get("ok")
            else f"{s:,.0f} msg/s"
            if s and "p50_us" not in r
            else f"p50 {r['p50_us']:,.0f} p99 {r['p99_us']:,.0f} us"
            if r.get("p50_us")
            else {k: round(v, 2) for k, v in r.items() if k.endswith("_s")},
        )

    log(f"r{rnd} {name:20} others' CPU before: {quiet(patience=patience):.2f} cores")
    try:
        a.prepare()
        t = time.monotonic()
        a.start()
        a.create_topic("first")
        a.first_ack("first")
        fresh = time.monotonic() - t
        if "w7" in ws:
            a.stop()
            time.sleep(0.5)
            t = time.monotonic()
            a.start()
            a.first_ack("first")
            restart = time.monotonic() - t
            rec(
                "w7",
                {
                    "ok": True,
                    "fresh_s": fresh,
                    "restart_s": restart,
                    "idle_rss_mb": sum(p.memory_info().rss for p in a.pids()) / 2**20,
                },
            )
        time.sleep(1)
        if ws & {"w1", "w2", "w3", "w6"}:  # not measured: the server's code and buffers get warm
            a.create_topic("warm")
            worker(name, "produce", topic="warm", n=(a.n_warm or n // 4) if not quick else n // 4, size=1024)
        for size, wp, wc in ((1024, "w1", "w2"), (100, "w3", "w3")):
            if not ({wp, wc} & ws) and not (wp == "w1" and "w6" in ws):
                continue
            topic = f"t{size}"
            a.create_topic(topic)
            with Sampler(a) as s:
                r = worker(name, "produce", topic=topic, n=n, size=size)
            rec(wp if wp == "w1" else "w3p", {**r, **s.out}, n_msgs=n)
            if wc in ws and r["ok"]:
                with Sampler(a) as s:
                    r = worker(name, "consume", topic=topic, n=n, size=size)
                rec(wc if wc == "w2" else "w3c", {**r, **s.out}, n_msgs=n)
        if "w4" in ws:
            a.create_topic("lat")
            worker(name, "latency", topic="lat", n=200, size=1024)
            with Sampler(a) as s:
                r = worker(name, "latency", topic="lat", n=nl, size=1024)
            if not r.get("unsupported"):
                rec("w4", {**r, **s.out})
        if "w5" in ws:
            a.create_topic("e2e")
            rate, secs = 1000, 2 if quick else 10
            warm = rate
            k = {"topic": "e2e", "n": warm + rate * secs, "size": 1024, "rate": rate, "warm": warm}
            with Sampler(a) as s:
                c = popen_worker(name, "e2e_consume", k)
                t = threading.Timer(60 + secs, c.kill)
                t.daemon = True
                t.start()
                if c.stdout.readline().startswith("READY"):
                    pr = worker(name, "e2e_produce", timeout=secs + 40, **k)
                    cr = finish(c, 15)
                    cr["late_max_ms"] = pr.get("late_max_ms")
                    if not pr["ok"]:
                        cr.update(ok=False, error="producer: " + pr.get("error", "?") + " / " + cr.get("error", ""))
                else:
                    cr = {"ok": False, "error": "consumer did not get ready"}
                    c.kill()
                    c.wait()
                t.cancel()
            rec("w5", {**cr, **s.out})
    except Exception as e:
        rec("?", {"ok": False, "error": f"{type(e).__name__}: {e}"[:300]})
    finally:
        a.stop(fast=True)
    if "w4s" in ws and a.fsync:  # a.workloads says whether the client has it
        a = cls(fsync=True)
        try:
            a.prepare()
            a.start()
            a.create_topic("lat")
            a.first_ack("lat")
            time.sleep(1)
            worker(name, "latency", topic="lat", n=100, size=1024, fsync=True)
            with Sampler(a) as s:
                r = worker(name, "latency", topic="lat", n=max(200, nl * 3 // 10), size=1024, fsync=True)
            if not r.get("unsupported"):
                rec("w4s", {**r, **s.out})
        except Exception as e:
            rec("w4s", {"ok": False, "error": f"{type(e).__name__}: {e}"[:300]})
        finally:
            a.stop(fast=True)
    subprocess.run(["rm", "-rf", a.dir])


def netns():
    """Start again in a network namespace of our own; without root in a user namespace too. Without either: as we are."""
    if os.environ.get("BENCH_NETNS"):
        return True
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    try:
        possible = subprocess.run([*unshare, "true"], capture_output=True).returncode == 0
    except OSError:
        possible = False
    if not possible:
        log("WARNING: no network namespace can be made here: running on the machine's own loopback (ports may clash)")
        return False
    os.execvpe(
        "unshare", [*unshare, sys.executable, os.path.abspath(__file__)] + sys.argv[1:], {**os.environ, "BENCH_NETNS": "1"}
    )


def choose(given):
    """The contestants asked for. One named that can't run here is an error; of 'all', it is skipped, loudly."""
    known = adapters.names()
    names = known if given == "all" else given.split(",")
    for name in names:
        if name not in known:
            sys.exit(f"error: there is no contestant {name!r}; known are {', '.join(known)}")
    lacking = {name: reason for name in names if (reason := getattr(adapters.get(name), "missing", lambda: None)())}
    for name, reason in lacking.items():
        log(f"SKIPPED {name}: {reason}")
    if given != "all" and lacking:
        sys.exit("error: some of the contestants asked for can't run here")
    return [name for name in names if name not in lacking]


def java_version():
    try:
        return subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()[0]
    except (OSError, IndexError):
        return "no java"


def lo_up():
    import struct

    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))


def run(o):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that finally: stops the servers
    if not o.no_netns and netns():
        lo_up()
    os.makedirs(os.path.join(RUN, "data"), exist_ok=True)
    os.makedirs(os.path.join(RUN, "logs"), exist_ok=True)
    lock = open(os.path.join(RUN, "run.lock"), "w")  # two runs at a time would wipe each other's data directories
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"error: another run is going on under {RUN} (BENCH_RUN chooses another place)")
    cs = choose(o.contestants)
    ws = set(KNOWN if o.workloads == "all" else o.workloads.split(","))
    out = {
        "started": time.strftime("%F %T"),
        "argv": sys.argv[1:],
        "host": {
            "cores": os.cpu_count(),
            "mem_gib": psutil.virtual_memory().total / 2**30,
            "kernel": os.uname().release,
            "python": sys.version.split()[0],
            "cpu": next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if "model name" in l), "?"),
            "java": java_version(),
        },
        "contestants": {},
        "probes": [],
        "runs": [],
    }
    for c in cs:
        a = adapters.get(c)()
        try:
            v = a.versions()
        except Exception as e:
            v = {"error": str(e)}
        out["contestants"][c] = {
            "server": a.server,
            "client": a.client,
            "durability": a.durability,
            "fsync": a.fsync,
            "n": a.n_produce,
            "versions": v,
        }

    def save():
        json.dump(out, open(o.out + ".tmp", "w"), indent=1)
        os.replace(o.out + ".tmp", o.out)

    def add(r):
        out["runs"].append(r)
        save()

    for rnd in range(1, o.rounds + 1):
        out["probes"].append({"round": rnd, **probe()})
        log("probe", out["probes"][-1])
        k = (rnd - 1) * len(cs) // max(1, o.rounds)  # rotate, so nobody always runs first or last
        for c in cs[k:] + cs[:k]:
            contestant(c, rnd, ws, o.quick, add, o.patience)
    out["ended"] = time.strftime("%F %T")
    save()
    print("\n".join(tables.lines([out])))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sp = ap.add_subparsers(dest="cmd", required=True)
    sp.add_parser("list")
    r = sp.add_parser("run")
    r.add_argument("--contestants", default="all")
    r.add_argument("--workloads", default="all")
    r.add_argument("--rounds", type=int, default=3)
    r.add_argument("--out", default=os.path.join(RUN, "results.json"), help="rewritten after each run")
    r.add_argument("--quick", action="store_true")
    r.add_argument("--no-netns", action="store_true")
    r.add_argument("--patience", type=float, default=45, help="seconds to wait for a quiet machine before each contestant")
    p = sp.add_parser("report")
    p.add_argument("files", nargs="+")
    p.add_argument("--quiet", type=float, help="only runs during which the others used less than this many cores")
    o = ap.parse_args()
    if o.cmd == "run":
        run(o)
    elif o.cmd == "report":
        print("\n".join(tables.lines([json.load(open(f)) for f in o.files], quiet=o.quiet)))
    else:
        for c in adapters.names():
            a = adapters.get(c)
            print(f"{c:22} {a.client}")


main()
