"""A few dozen runs of the simulator, the seeds that failed once, and that bugs put in on purpose are found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sim import settings
from tests.sim.mutant import Mutant
from tests.sim.mutants import MUTANTS
from tests.sim.outcome import run, run_seed, shrink
from tests.sim.run import fresh, kept_seeds
from tests.sim.settings import Fault, draw
from tests.sim.world import World

SEEDS = range(20)
BUDGET_MAX = 40  # of seeds for a mutant; the rest of its budget is for ``make sim``


@pytest.mark.parametrize(("seed", "failover", "full"), sorted({*kept_seeds(), *map(fresh, SEEDS)}))
def test_a_group_keeps_its_promises(seed: int, failover: bool, full: bool) -> None:
    """``failover``: the group elects its master; else an operator names it. ``full``: with all kinds of clients."""
    failure = run_seed(seed, failover=failover, full=full).failure
    assert failure is None, f"seed {seed} at {failure.at_ms} ms: {failure.reason}"


def test_a_seed_is_a_run() -> None:
    """Same seed, same events, to the last one."""

    def told() -> list[str]:
        world = World(draw(11), traced=True)
        run(world.settings, world=world)
        return list(world.trace or ())

    first = told()
    assert first == told()
    assert len(first) > 20


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.seeds <= BUDGET_MAX], ids=lambda m: m.name)
def test_mutants_are_caught(mutant: Mutant) -> None:
    with mutant.applied():
        runs = (run_seed(seed, failover=mutant.failover, full=mutant.full) for seed in range(mutant.seeds))
        assert any(outcome.failure is not None for outcome in runs), "it survived"


def test_a_failure_is_made_small(tmp_path: object) -> None:
    """Of all faults only what it needs is left, and it still fails in the same way."""
    mutant = next(m for m in MUTANTS if m.name == "a cold member stays in the set")
    with mutant.applied():
        wanted = draw(31)
        failure = run(wanted).failure
        assert failure is not None
        assert failure.kind == "8"
        small, again = shrink(wanted, failure)
        assert again.kind == "8"
        assert len(small.faults) < len(wanted.faults)
        assert run(small).failure == again


def test_without_faults_there_is_one_term() -> None:
    world = World(replace(draw(3), faults=()))
    outcome = run(world.settings, world=world)
    assert (outcome.failure, outcome.terms) == (None, 1)
    assert outcome.acknowledged == len(world.clients.history.sent) > 50


def test_a_fault_that_is_too_much_is_left_out() -> None:
    """A wipe of all three is not something that any design survives."""
    wipes = tuple(Fault(2_000, settings.WIPE, replica, 100, 0) for replica in range(3))
    world = World(replace(draw(3), faults=wipes))
    assert run(world.settings, world=world).failure is None
    assert len(world.faults.done) < 3
