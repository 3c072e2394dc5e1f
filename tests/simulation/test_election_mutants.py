"""The simulation must notice when a rule is broken: each mutant drops one, and is to be caught within its budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kourou.broker.machines import electionrules, electorchance, electorregistration, electorsets
from kourou.broker.machines.electedmaster import ElectedMaster
from kourou.broker.machines.electionrules import Right
from kourou.broker.machines.elector import Elector
from kourou.broker.machines.electorterm import Term
from tests.sim.elections import Broken
from tests.simulation.test_elections import run

Patch = pytest.MonkeyPatch


def takes_over_early(patch: Patch) -> None:
    """The stopwatch is read as if it ran twice as fast."""
    original = Elector._due

    def due(self: Elector, now_ms: int) -> Any:
        found = original(self, now_ms)
        return found and replace(found, at_ms=found.at_ms - self.options.lease_ms // 2)

    patch.setattr(Elector, "_due", due)


def leads_for_ever(patch: Patch) -> None:
    """The master does not look at its clock."""
    patch.setattr(Elector, "leads", lambda self, now_ms: self.term is not None and self.phase.value == "master")
    patch.setattr(Elector, "deadline", lambda self: 1 << 60)


def counts_from_the_answer(patch: Patch) -> None:
    original = Term.committed

    def committed(self: Term, seq: int, mod: int) -> None:
        original(self, seq, mod)
        self.renewed_ms += 900

    patch.setattr(Term, "committed", committed)


def anybody_may(patch: Patch) -> None:
    patch.setattr(electorchance, "right_of", lambda replica, state, **hints: Right("because", replica))


def the_cold_stay(patch: Patch) -> None:
    patch.setattr(electorregistration, "without", lambda state, replica, **how: state)


def the_eligible_stay(patch: Patch) -> None:
    """ELR is not emptied when the set is whole again."""
    original = electionrules.changed

    def changed(state: Any, sss: Any, *, nonce: str) -> Any:
        new = original(state, sss, nonce=nonce)
        return replace(new, elr=tuple(sorted((set(state.elr) | (set(state.sss) - sss)) - set(new.sss))))

    patch.setattr(electorsets, "changed", changed)


def min_isr_is_ignored(patch: Patch) -> None:
    patch.setattr(ElectedMaster, "short", property(lambda self: False))


def leaves_before_it_is_decided(patch: Patch) -> None:
    """C moves with the smaller set as soon as that is wanted."""
    original = ElectedMaster._want

    def want(self: ElectedMaster, reason: str) -> None:
        original(self, reason)
        for replica in self._out:
            self.members.pop(replica, None)

    patch.setattr(ElectedMaster, "_want", want)


def joins_without_waiting(patch: Patch) -> None:
    """The new member is decided, and C does not wait for it."""
    original = ElectedMaster.decided

    def decided(self: ElectedMaster, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.members.clear()

    patch.setattr(ElectedMaster, "decided", decided)


MUTANTS: list[tuple[Callable[[Patch], None], int]] = [
    (takes_over_early, 40),
    (leads_for_ever, 40),
    (counts_from_the_answer, 150),
    (anybody_may, 40),
    (the_cold_stay, 150),
    (the_eligible_stay, 150),
    (min_isr_is_ignored, 150),
    (leaves_before_it_is_decided, 150),
    (joins_without_waiting, 40),
]


@pytest.mark.parametrize(("mutant", "seeds"), MUTANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_mutant_is_caught(mutant: Callable[[Patch], None], seeds: int, monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    for seed in range(seeds):
        try:
            run(seed, min_isr=1 + seed % 2)
        except Broken:
            return
    pytest.fail(f"{mutant.__name__} survives {seeds} seeds")
