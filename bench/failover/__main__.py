"""How long a client can't send when a server goes: ours and others, each with three replicas, by the same loop in the same run.

    python -m bench.failover [--contestants kourou,nats,rocketmq,kafka] [--rounds 15] [--measures kill,freeze,…] [--gib 1]
    python -m bench.failover --report FILE.json [MORE.json …]

In each round each contestant gets fresh servers and empty directories; a producer sends at a rate all the time while one fault
after another is made and mended; at the end all messages are read back. Rounds are interleaved, the order rotates.
As root the servers run in network namespaces, one for each host; without, on loopback, and nobody is cut off.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.failover import contestants, hosts, report
from bench.failover.contestant import Cluster, say
from bench.failover.measures import Figures, Round
from bench.failover.sends import Send, Verdict
from bench.node import ROOT, environment, server_python

SHORT = ("kill", "freeze", "cut", "switchover", "kill_follower", "freeze_follower", "coordinator")
LONG = ("coordinators_down", "far_behind", "restart_one", "restart_all")
READS = 3


def main() -> None:
    options = arguments()
    if options.report:
        print("\n".join(report.lines([json.loads(Path(file).read_text()) for file in options.report])))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kinds = contestants.choose(options.contestants)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    host = {"cores": os.cpu_count(), "memory_gib": memory, "kernel": os.uname().release, "python": sys.version.split()[0]}
    result: dict[str, Any] = {
        "started": time.strftime("%F %T"),
        "options": {name: value for name, value in vars(options).items() if name not in ("report", "out")},
        "host": host,
        "contestants": {k.name: {"server": k.server, "client": k.client, "switchover": k.switchover_is} for k in kinds},
        "runs": [],
        "checks": [],
    }  # fmt: skip
    if options.replication and any(kind.name == report.OURS for kind in kinds):
        result["replication"] = replication(options.replication)
    network = hosts.made(not options.no_netns)
    result["netns"] = network.can_cut
    folder = Path(tempfile.mkdtemp(prefix="kourou-failover-", dir=options.data))
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        for number in range(1, options.rounds + 1):
            turn = (number - 1) % len(kinds)
            for kind in kinds[turn:] + kinds[:turn]:
                one_round(number, kind, network, folder / f"{kind.name}-{number}", options, result)
                out.write_text(json.dumps(result, indent=1))
                network.close()
    finally:
        network.close()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    result["ended"] = time.strftime("%F %T")
    out.write_text(json.dumps(result, indent=1))
    print("\n".join(report.lines([result])))


def one_round(
    number: int,
    kind: type[Cluster],
    network: hosts.Network | hosts.Loopback,
    folder: Path,
    options: Any,
    result: dict[str, Any],
) -> None:
    wanted = [name for name in options.measures if applies(name, kind, network, number, options)]
    say(f"round {number}: {kind.name}: {', '.join(wanted)}")
    cluster = kind(network, folder)
    try:
        cluster.start()
        sender = cluster.sender(options.rate, folder / "sends")
        time.sleep(kind.warm_s)
        round_ = Round(cluster, sender, options.rate)
        for name in wanted:
            entry = {"round": number, "contestant": kind.name, "measure": name, **measured(round_, name, options)}
            result["runs"].append(entry)
            say(
                f"  {name}:",
                ", ".join(
                    f"{key} {shown(value)}" for key, value in entry.items() if key not in ("round", "contestant", "measure")
                ),
            )
            if not entry["ok"]:
                say(f"  {kind.name} is left at this: what follows would be measured on a broken cluster")
                break
        called = sender.finish()
        found = read_back(cluster, sender.sends.all, called)
        check = {**vars(found), "lost": len(found.lost), "lost_first": found.lost[:20], "failures": sender.failures()}
        result["checks"].append({"round": number, "contestant": kind.name, "called": called, **check})
        say(f"  acknowledged {found.acknowledged}, failed {found.failed}, lost {len(found.lost)}, twice {found.twice}")
    except Exception as failure:  # whatever it was: this round has failed, the others go on
        entry = {
            "round": number,
            "contestant": kind.name,
            "measure": "round",
            "ok": False,
            "error": f"{type(failure).__name__}: {failure}",
        }
        result["runs"].append(entry)
        say(f"  FAILED: {entry['error']}")
    finally:
        if options.keep:
            for process in (*cluster.clients, *cluster.members, *cluster.others):
                shutil.copy(process.log, folder.parent / f"{folder.name}-{process.log.name}")
        cluster.stop()


def read_back(cluster: Cluster, sends: list[Send], called: int) -> Verdict:
    """Again when something is missing: a reader may have given up too early."""
    file = cluster.folder / "read"
    for _ in range(READS):
        cluster.read(file)
        found = Verdict.of(sends, called, array.array("q", file.read_bytes()))
        if not found.lost:
            break
    return found


def measured(round_: Round, name: str, options: Any) -> Figures:
    try:
        round_.steady()
        measure = getattr(round_, name)
        if name == "coordinators_down":
            return {"ok": True, **measure(options.down_s)}
        return {"ok": True, **(measure(options.gib) if name == "far_behind" else measure())}
    except Exception as failure:  # the same
        return {"ok": False, "error": f"{type(failure).__name__}: {failure}"}


def applies(name: str, kind: type[Cluster], network: hosts.Network | hosts.Loopback, number: int, options: Any) -> bool:
    if name in LONG and number > options.long_rounds:
        return False
    if name == "cut":
        return network.can_cut
    if name in ("coordinator", "coordinators_down"):
        return bool(kind.coordinators)
    return name != "far_behind" or kind.can_bulk


def replication(rounds: int) -> list[str]:
    """What a copy costs, by bench/replication.py; its last lines."""
    command = [server_python(), str(ROOT / "bench/replication.py"), "--rounds", str(rounds)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().splitlines()[-rounds - 1 :]


def shown(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.failover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", default="all", help="all: those that are installed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--long-rounds", type=int, default=3, help=f"of {', '.join(LONG)}")
    parser.add_argument("--measures", type=lambda text: text.split(","), default=[*SHORT, *LONG])
    parser.add_argument("--rate", type=int, default=1_000, help="sends a second")
    parser.add_argument("--gib", type=float, default=1, help="that a follower lacks, and that are there at the restart")
    parser.add_argument("--down-s", type=float, default=60, help="how long the electing servers are away")
    parser.add_argument(
        "--replication", type=int, default=5, metavar="ROUNDS", help="of bench/replication.py, before all else; 0: none"
    )
    parser.add_argument("--no-netns", action="store_true")
    parser.add_argument("--data", help="where the servers' directories are made")
    parser.add_argument("--keep", action="store_true", help="keep logs")
    parser.add_argument("--out", default=str(ROOT / "build/bench/failover.json"))
    parser.add_argument("--report", nargs="+", metavar="FILE")
    options = parser.parse_args()
    unknown = set(options.measures) - {*SHORT, *LONG}
    if unknown:
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
