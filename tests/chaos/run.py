"""``make chaos``: a cluster of real processes in network namespaces, clients at work, one fault after the other.

    python -m tests.chaos.run --faults 200 --seed 7            what `make chaos FAULTS=200 SEED=7` runs
    python -m tests.chaos.run --only kill-master,ring          these kinds alone
    python -m tests.chaos.run --plan build/chaos/7.json        the faults of an earlier run again
    python -m tests.chaos.run --ci                             twelve faults in about three minutes

Needs root and etcd; docs/chaos.md says the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for source in ("proto", "core", "nameserver", "broker", "client"):
    if str(ROOT / source) not in sys.path:
        sys.path.append(str(ROOT / source))

from tests.chaos import plan  # noqa: E402
from tests.chaos.campaign import Campaign  # noqa: E402
from tests.chaos.claim import Claim, CommandFailed, command, quietly  # noqa: E402
from tests.chaos.report import Run  # noqa: E402
from tests.chaos.rounds import say  # noqa: E402
from tests.chaos.world import Settings, World  # noqa: E402
from tests.integration.etcd import BINARY  # noqa: E402

CI_SEED = 20
DRAWN = 1 << 20


def missing() -> str | None:
    """Why this machine can't do it."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if BINARY is None:
        return "NO ETCD: apt install etcd-server"
    for tool in ("ip", "iptables", "tc"):
        if shutil.which(tool) is None:
            return f"there is no {tool} (apt install iproute2 iptables)"
    name = f"kourou-chaos-try-{os.getpid()}"
    try:
        command("ip", "netns", "add", name)
        command("ip", "netns", "exec", name, "iptables", "-w", "10", "-A", "INPUT", "-j", "ACCEPT")
    except CommandFailed as failure:
        return f"no network namespaces here: {failure}"
    finally:
        quietly("ip", "netns", "del", name)
    return None


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, help="of the plan; drawn when not given")
    parser.add_argument("--only", default="", help=f"kinds, with commas: {', '.join(plan.KINDS)}")
    parser.add_argument("--without", default="", help="kinds to leave out, with commas")
    parser.add_argument("--plan", type=Path, help="a list of steps, or the report of an earlier run")
    parser.add_argument("--groups", type=int, default=1, help="broker groups, of three brokers each")
    parser.add_argument("--flush", choices=["async", "sync"], default="async")
    parser.add_argument("--rate", type=int, default=10, help="sends a second of each producer")
    parser.add_argument("--no-workload", action="store_true", help="the probe alone: nothing is checked for loss")
    parser.add_argument("--minutes", type=float, help="no more faults are begun after so long")
    parser.add_argument("--ci", action="store_true", help="a short run of twelve kinds")
    parser.add_argument("--folder", type=Path, help="where data, logs and histories are kept meanwhile")
    parser.add_argument("--keep", action="store_true", help="keep them when all went well, too")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "chaos", help="where the report goes")
    return parser.parse_args()


def steps_of(chosen: argparse.Namespace) -> list[plan.Step]:
    if chosen.plan is not None:
        return plan.read(chosen.plan)
    names = [name for name in chosen.only.split(",") if name] or list(plan.CI if chosen.ci else plan.KINDS)
    names = [name for name in names if name not in chosen.without.split(",")]
    unknown = [name for name in names if name not in plan.KINDS]
    if unknown:
        raise SystemExit(f"error: no such kind of fault: {', '.join(unknown)}; there are {', '.join(plan.KINDS)}")
    return plan.draw(chosen.seed, len(names) if chosen.ci else chosen.faults, chosen.groups, names)


async def go(chosen: argparse.Namespace, folder: Path, run: Run) -> None:
    """The whole run; whatever happens, nothing of it is left on the host."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    claim = Claim()
    try:
        settings = Settings(groups=chosen.groups, flush=chosen.flush)
        world = World(claim, folder, settings)
        campaign = Campaign(world, run, quick=chosen.ci, rate=None if chosen.no_workload else chosen.rate)
        await campaign.run(minutes=chosen.minutes)
    finally:
        claim.release()


def main() -> int:
    chosen = options()
    why = missing()
    if why is not None:
        print(f"SKIPPED: chaos: {why}", flush=True)
        return 0
    if chosen.seed is None:
        chosen.seed = CI_SEED if chosen.ci else random.SystemRandom().randrange(DRAWN)
    steps = steps_of(chosen)
    chosen.out.mkdir(parents=True, exist_ok=True)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix=f"run-{chosen.seed}-", dir=chosen.out))
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(chosen.seed, steps, {"groups": chosen.groups, "flush": chosen.flush, "rate": chosen.rate, "ci": chosen.ci})
    say(f"seed {chosen.seed}: {len(steps)} faults, {chosen.groups} group(s), flush {chosen.flush}; {folder}")
    begun = time.monotonic()
    interrupted = False
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts this in the background ignores it
    try:
        asyncio.run(go(chosen, folder, run))
    except (KeyboardInterrupt, asyncio.CancelledError):
        interrupted = True
    run.facts["minutes"] = round((time.monotonic() - begun) / 60, 2)
    report = chosen.out / f"{chosen.seed}.json"
    run.write(report)
    print(f"\n{run.table()}\n\n{run.checks}\nreport: {report}", flush=True)
    for text in run.skipped:
        print(f"SKIPPED: {text}")
    for text in run.notes:
        print(f"NOTE: {text}")
    for text in run.slow:
        print(f"SLOW: {text}")
    for text in run.problems:
        print(f"FAILED: {text}")
    if interrupted:
        print("interrupted")
    if run.problems:
        print(f"logs, data and histories: {folder}\nagain: python -m tests.chaos.run --plan {report}")
    elif not chosen.keep:
        shutil.rmtree(folder)
    if not run.problems and not interrupted:
        checked = "members are the same" if chosen.no_workload else "nothing lost, nothing out of order"
        print(f"chaos: passed, {len(run.outcomes)} faults, {checked}")
    return 130 if interrupted else int(bool(run.problems))


if __name__ == "__main__":
    sys.exit(main())
