#!/usr/bin/env python3
"""fsynccheck.py CONTESTANT...: counts the sync system calls of a server (strace -f) while one client sends 300
messages one by one, with the default durability and with fsync=True. Tells whether the setting does what it says."""

import os, signal, socket, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
VPY = os.path.join(os.environ.get("BENCH_RUN", "/tmp/mq-bench"), "venv/bin/python")
if os.environ.get("BENCH_NETNS") != "1":
    os.execvpe(
        "unshare", ["unshare", "-n", VPY, os.path.abspath(__file__)] + sys.argv[1:], {**os.environ, "BENCH_NETNS": "1"}
    )
import fcntl, json, struct
import adapters
from base import RUN

with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 0x41))
for name in sys.argv[1:]:
    cls = adapters.get(name)
    for fs in [False, True] if cls.fsync else [False]:
        a = cls(fsync=fs)
        a.prepare()
        try:
            a.start()
            a.create_topic("lat")
            a.first_ack("lat")
            w = lambda n: subprocess.run(
                [VPY, HERE + "/worker.py", name, "latency", json.dumps({"topic": "lat", "n": n, "size": 1024, "fsync": fs})],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": HERE},
            )
            w(50)
            time.sleep(2)
            out = os.path.join(RUN, "logs", f"strace-{name}-{int(fs)}")
            argv = ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o", out]
            for p in a.pids():
                argv += ["-p", str(p.pid)]
            st = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
            time.sleep(1.5)
            ok = '"ok": true' in w(300).stdout
            st.send_signal(signal.SIGINT)
            st.wait()
            c = {
                l.split()[-1]: int(l.split()[3])
                for l in open(out)
                if len(l.split()) >= 5 and l.split()[-1] in ("fsync", "fdatasync", "msync", "sync_file_range")
            }
            print(f"{name:20} fsync={fs!s:5} 300 sends ok={ok}: sync calls {c or 0}", flush=True)
        finally:
            a.stop(fast=True)
