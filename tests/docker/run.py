"""``make chaos-docker``: the cluster of deploy/docker-compose.yml, clients at work, one fault after the other.

    python -m tests.docker.run --faults 50 --seed 7            what `make chaos-docker FAULTS=50 SEED=7` runs
    python -m tests.docker.run --only kill-master,cut-master   these kinds alone
    python -m tests.docker.run --ci                            six faults in less than four minutes, once images are there
    python -m tests.docker.run --images                        make the images, and stop

Needs a Docker engine on this machine, or root and dockerd to start one; docs/deployment.md says the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for source in (".", "proto", "core", "nameserver", "broker", "client"):
    if str(ROOT / source) not in sys.path:
        sys.path.append(str(ROOT / source))

from tests.chaos import plan  # noqa: E402
from tests.chaos.report import Run  # noqa: E402
from tests.chaos.rounds import say  # noqa: E402
from tests.chaos.world import Unwell  # noqa: E402
from tests.docker import faults, images  # noqa: E402
from tests.docker.campaign import Campaign  # noqa: E402
from tests.docker.engine import Engine, NoEngine  # noqa: E402
from tests.docker.stack import GROUPS, Stack  # noqa: E402

CI_SEED = 3
DRAWN = 1 << 20


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=40, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the plan; drawn when not given")
    parser.add_argument("--only", default="", help=f"kinds, with commas: {', '.join(faults.KINDS)}")
    parser.add_argument("--plan", type=Path, help="the report of an earlier run: its faults again")
    parser.add_argument("--rate", type=int, default=10, help="sends a second of each producer (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="no more faults are begun after so long")
    parser.add_argument("--ci", action="store_true", help="a short run of six kinds")
    parser.add_argument("--images", action="store_true", help="make the images, and stop")
    parser.add_argument("--as-is", action="store_true", help="use the images that are there, of whatever code they are")
    parser.add_argument("--keep", action="store_true", help="keep logs and histories when all went well, too")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docker", help="where the report goes")
    return parser.parse_args()


def steps_of(chosen: argparse.Namespace) -> list[plan.Step]:
    if chosen.plan is not None:
        return plan.read(chosen.plan)
    names = [name for name in chosen.only.split(",") if name] or list(faults.CI if chosen.ci else faults.KINDS)
    unknown = [name for name in names if name not in faults.KINDS]
    if unknown:
        raise SystemExit(f"error: no such kind of fault: {', '.join(unknown)}; there are {', '.join(faults.KINDS)}")
    possible = faults.possible(names)
    if len(possible) < len(names):
        left_out = ", ".join(sorted(set(names) - set(possible)))
        print(f"SKIPPED: {left_out}: only root can kill a container's process", flush=True)
    return plan.draw(chosen.seed, len(possible) if chosen.ci else chosen.faults, len(GROUPS), possible)


@contextlib.contextmanager
def running(engine: Engine, folder: Path, run: Run, *, keep: bool) -> Iterator[Stack]:
    """Whatever happens, no container and no volume of it is left; logs are, when something was wrong."""
    stack = Stack(engine)
    try:
        stack.up()
        yield stack
    except BaseException:
        run.problems = run.problems or ["interrupted"]
        raise
    finally:
        if run.problems or keep:
            with contextlib.suppress(Exception):  # what was wrong counts, not that its logs can't be had
                stack.look()
                stack.save_logs(folder / "logs")
        stack.down()


def campaign(engine: Engine, chosen: argparse.Namespace, folder: Path, run: Run) -> None:
    with running(engine, folder, run, keep=chosen.keep) as stack, contextlib.ExitStack() as programs:
        made = Campaign(stack, run, folder, rate=chosen.rate)
        for program in made.programs:
            programs.callback(program.remove)
        asyncio.run(made.run(minutes=chosen.minutes))
        if run.problems or chosen.keep:
            for program in made.programs:
                (folder / f"{program.name}.log").write_text(program.log())


def main() -> int:
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if chosen.seed is None:
        chosen.seed = CI_SEED if chosen.ci else random.SystemRandom().randrange(DRAWN)
    steps = steps_of(chosen)
    chosen.out.mkdir(parents=True, exist_ok=True)
    run = Run(chosen.seed, steps, {"rate": chosen.rate, "ci": chosen.ci})
    try:
        with Engine(chosen.out / "engine") as engine:
            begun = time.monotonic()
            say(f"{'a private engine' if engine.private else 'the engine of this machine'}; making images")
            if not chosen.as_is:
                images.make(engine)
            say(f"images are there after {time.monotonic() - begun:.0f} s")
            if chosen.images:
                return 0
            folder = Path(tempfile.mkdtemp(prefix=f"run-{chosen.seed}-", dir=chosen.out))
            say(f"seed {chosen.seed}: {len(steps)} faults; {folder}")
            begun = time.monotonic()
            try:
                campaign(engine, chosen, folder, run)
            except Unwell as failure:
                run.problems.append(str(failure))
            except KeyboardInterrupt:
                run.problems = ["interrupted"]
            run.facts["minutes"] = round((time.monotonic() - begun) / 60, 2)
    except (NoEngine, images.NoBase) as failure:
        print(f"SKIPPED: chaos in containers: {failure}", flush=True)
        return 0
    except images.NotBuilt as failure:
        print(f"FAILED: chaos in containers: {failure}", flush=True)
        return 1
    return tell(chosen, folder, run)


def tell(chosen: argparse.Namespace, folder: Path, run: Run) -> int:
    report = chosen.out / f"{run.seed}.json"
    run.write(report)
    print(f"\n{run.table()}\n\n{run.checks}\n{run.facts}\nreport: {report}", flush=True)
    for text in run.slow:
        print(f"SLOW: {text}")
    for text in run.problems:
        print(f"FAILED: {text}")
    if run.problems:
        print(f"logs and histories: {folder}\nagain: python -m tests.docker.run --plan {report}")
    else:
        print(f"chaos in containers: passed, {len(run.outcomes)} faults, nothing lost, nothing out of order")
        if not chosen.keep:
            shutil.rmtree(folder)
    return int(bool(run.problems))


if __name__ == "__main__":
    sys.exit(main())
