"""One client process: worker.py <contestant> <op> <json>; prints one line 'RESULT {...}'."""

import json, os, resource, sys, traceback
import adapters
from base import Meter, Unsupported, pct


def main():
    name, op, args = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    a = adapters.get(name)(fsync=args.get("fsync", False))
    m = Meter(args["n"], args["size"], args.get("rate", 0), args.get("warm", 0))
    m.e2e = op == "e2e_consume"
    r = {"ok": True}
    try:
        getattr(a, op)(args["topic"], m)
    except Unsupported:
        r = {"ok": False, "unsupported": True}
    except BaseException as e:
        traceback.print_exc()
        r = {"ok": False, "error": f"{type(e).__name__}: {e}"[:300]}
    if r["ok"]:
        if m.t0 and m.t1:
            s = m.t1 - m.t0
            r.update(seconds=s, msg_s=m.n / s, mb_s=m.n * m.size / s / 1e6, client_cpu_s=m.cpu1 - m.cpu0)
        if op in ("consume", "e2e_consume"):
            r.update(
                got=m.got, missing=m.n - m.got, dups=m.dups, bad=m.bad, first_s=(m.first - m.created) if m.first else None
            )
            if m.n - m.got or m.bad:
                r.update(ok=False, error=f"missing {m.n - m.got}, bad {m.bad}")
        if m.laps:
            v = m.laps
            r.update(n=len(v), p50_us=pct(v, 0.5), p99_us=pct(v, 0.99), max_us=max(v), mean_us=sum(v) / len(v))
        if m.lat:
            v = m.lat
            r.update(n=len(v), p50_us=pct(v, 0.5), p99_us=pct(v, 0.99), max_us=max(v))
        if op == "e2e_produce":
            r["late_max_ms"] = m.late_max * 1e3
    r.update(m.extra)
    r["client_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(r), flush=True)
    os._exit(0)  # clients' threads must not hold us up


main()
