"""``make sim``: many seeds on several cores, then the mutants. A failure is made small, told, and its trace is written."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.sim import coverage
from tests.sim.mutants import MUTANTS
from tests.sim.outcome import Outcome, investigate, run_seed

SEEDS_FILE = Path("tests/simulation/seeds.txt")
OPEN_FILE = Path("tests/simulation/open.txt")  # failures whose cause is not mended yet
CHUNK = 10
SHOWN_MAX = 5  # failures that are investigated


Run = tuple[int, bool, bool]  # seed, with failover, with everything


def kept_seeds(file: Path = SEEDS_FILE) -> list[Run]:
    """Runs that failed once."""
    lines = file.read_text().splitlines() if file.exists() else []
    words = [line.partition("#")[0].split() for line in lines]
    return [(int(found[0]), "failover" in found, "full" in found) for found in words if found]


def fresh(seed: int) -> Run:
    """Every other one is with failover, and every other pair is full."""
    return seed, seed % 2 == 1, seed % 4 > 1


def run_chunk(runs: list[Run]) -> list[Outcome]:
    return [run_seed(seed, failover=failover, full=full) for seed, failover, full in runs]


def run_mutant(number: int) -> Outcome | None:
    """The run that caught it; None when it survived."""
    mutant = MUTANTS[number]
    with mutant.applied():
        for seed in range(mutant.seeds):
            outcome = run_seed(seed, failover=mutant.failover, full=mutant.full)
            if outcome.failure is not None:
                return outcome
    return None


def outcomes(pool: ProcessPoolExecutor, first: int, count: int, seconds: float) -> Iterator[Outcome]:
    """Of the seeds that failed once, and of ``count`` in a row; fewer when time is over."""
    began = time.monotonic()
    seeds = [*kept_seeds(), *(fresh(seed) for seed in range(first, first + count))]
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    done = 0
    for found in pool.map(run_chunk, chunks):
        yield from found
        done += len(found)
        if seconds and time.monotonic() - began > seconds:
            print(f"time is over after {done} of {len(seeds)} seeds")
            pool.shutdown(wait=False, cancel_futures=True)
            return


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate a broker group: one seed is one run.")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--start", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long (default: no limit)")
    parser.add_argument("--traces", type=Path, default=Path("build/sim"), help="where traces of failures go")
    parser.add_argument("--keep", action="store_true", help=f"add failing seeds to {SEEDS_FILE}")
    parser.add_argument("--no-mutants", action="store_true")
    options = parser.parse_args()

    began = time.monotonic()
    failed: list[Outcome] = []
    open_runs, known = set(kept_seeds(OPEN_FILE)), 0
    totals: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    with ProcessPoolExecutor(options.processes) as pool:
        for outcome in outcomes(pool, options.start, options.seeds, options.seconds):
            seen.update(outcome.seen)
            totals.update(
                runs=1, events=outcome.events, virtual_s=outcome.virtual_ms // 1000, terms=outcome.terms,
                confirmed_bytes=outcome.confirmed, acknowledged=outcome.acknowledged,
            )  # fmt: skip
            if outcome.failure is not None and (outcome.seed, outcome.failover, outcome.full) in open_runs:
                known += 1
                print(f"OPEN: seed {outcome.seed} fails as it is known to: {outcome.failure.reason}")
            elif outcome.failure is not None:
                failed.append(outcome)
                if len(failed) <= SHOWN_MAX:
                    investigate(outcome, outcome.failure, traces=options.traces, say=print)
            if totals["runs"] % 500 == 0:
                print(f"{totals['runs']} seeds, {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
    seconds = time.monotonic() - began
    ended = f"{len(failed)} failed, {known} known to be open"
    print(f"{totals['runs']} seeds in {seconds:.0f} s on {options.processes} processes: {ended}")
    print("  " + ", ".join(f"{name} {count:,}" for name, count in totals.items()))
    missing = coverage.report(seen, totals["runs"], say=print)
    if failed:
        print("failing seeds: " + ", ".join(f"{outcome.seed} {outcome.mode}".strip() for outcome in failed))
        if options.keep:
            keep(failed)
    survived = [] if options.no_mutants else mutants(options.processes)
    return 1 if failed or survived or missing else 0


def keep(failed: list[Outcome]) -> None:
    known = set(kept_seeds())
    with SEEDS_FILE.open("a") as file:
        for outcome in failed:
            if (outcome.seed, outcome.failover, outcome.full) not in known and outcome.failure is not None:
                file.write(f"{f'{outcome.seed} {outcome.mode}'.strip()}  # {outcome.failure.reason[:100]}\n")


def mutants(processes: int) -> list[str]:
    survived: list[str] = []
    with ProcessPoolExecutor(processes) as pool:
        for mutant, outcome in zip(MUTANTS, pool.map(run_mutant, range(len(MUTANTS))), strict=True):
            if outcome is None or outcome.failure is None:
                survived.append(mutant.name)
                print(f"mutant SURVIVED {mutant.seeds} seeds: {mutant.name}", flush=True)
            else:
                print(f"mutant caught by seed {outcome.seed}: {mutant.name} ({outcome.failure.reason[:80]})", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(main())
