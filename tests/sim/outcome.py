"""Run seeds, and make a failure small: as few faults as it needs, and a trace of what happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from kourou.core.errors import KourouError
from tests.sim.settings import Fault, Settings, draw
from tests.sim.world import World

RUNS_MAX = 200  # to make one failure smaller


@dataclass(frozen=True, slots=True)
class Failure:
    seed: int
    reason: str
    at_ms: int
    kind: str  # the number of the invariant, or the exception: what a smaller run must fail with, too


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    failover: bool
    events: int
    virtual_ms: int
    terms: int
    confirmed: int  # bytes
    acknowledged: int  # sends
    faults: tuple[str, ...]
    failure: Failure | None
    full: bool = False
    seen: dict[str, int] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        return mode_of(failover=self.failover, full=self.full)


def mode_of(*, failover: bool, full: bool) -> str:
    return " ".join(word for word, said in (("failover", failover), ("full", full)) if said)


def run(settings: Settings, *, world: World | None = None) -> Outcome:
    world = world or World(settings)
    failure: Failure | None = None
    try:
        world.run()
    except (AssertionError, KourouError, ValueError, LookupError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        kind = str(error).partition(":")[0] if type(error).__name__ == "Violation" else type(error).__name__
        failure = Failure(settings.seed, reason, world.timeline.now_ms, kind)
    return Outcome(
        settings.seed,
        settings.failover,
        world.events,
        world.timeline.now_ms,
        len(world.masters),
        world.truth.end,
        sum(sent.outcome == "ok" for sent in world.clients.history.sent),
        tuple(fault.kind for fault in world.faults.done),
        failure,
        settings.full,
        world.coverage(),
    )


def run_seed(seed: int, *, failover: bool = False, full: bool = False) -> Outcome:
    return run(draw(seed, failover=failover, full=full))


def shrink(settings: Settings, failure: Failure) -> tuple[Settings, Failure]:
    """Drop faults, in halves, quarters, and so on, as long as the run fails in the same way. Bounded."""
    faults = [fault for fault in settings.faults if fault.at_ms <= failure.at_ms]
    runs = 0

    def fails(kept: list[Fault]) -> Failure | None:
        nonlocal runs
        runs += 1
        found = run(replace(settings, faults=tuple(kept))).failure
        return found if found is not None and found.kind == failure.kind else None

    first = fails(faults)
    if first is None:
        return settings, failure
    failure, size = first, max(1, len(faults) // 2)
    while runs < RUNS_MAX:
        at, smaller = 0, False
        while at < len(faults) and runs < RUNS_MAX:
            kept = faults[:at] + faults[at + size :]
            found = fails(kept)
            if found is None:
                at += size
            else:
                faults, failure, smaller = kept, found, True
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return replace(settings, faults=tuple(faults)), failure


def explain(settings: Settings, failure: Failure, path: Path) -> None:
    """Write the trace of a failing run as JSON."""
    world = World(settings, traced=True)
    run(settings, world=world)
    value = {
        "seed": settings.seed,
        "failure": failure.reason,
        "at_ms": failure.at_ms,
        "settings": asdict(settings),
        "trace": list(world.trace or ()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


Report = Callable[[str], None]


def investigate(outcome: Outcome, failure: Failure, *, traces: Path, say: Report) -> None:
    seed = outcome.seed
    settings = draw(seed, failover=outcome.failover, full=outcome.full)
    say(f"seed {seed} {outcome.mode} FAILED at {failure.at_ms} ms: {failure.reason}")
    small, failure = shrink(settings, failure)
    say(f"  with {len(small.faults)} of {len(settings.faults)} faults: {failure.reason}")
    for fault in small.faults:
        say(f"    {fault.at_ms:6} ms  {fault.kind} of {fault.whom} for {fault.lasts_ms} ms ({fault.amount})")
    path = traces / f"{'-'.join([str(seed), *outcome.mode.split()])}.json"
    explain(small, failure, path)
    say(f"  trace: {path}")
