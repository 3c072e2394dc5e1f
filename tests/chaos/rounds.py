"""What every campaign has, whatever its cluster runs on: fault after fault, each healed, waited for and measured."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.checking import check
from tests.chaos.plan import Step
from tests.chaos.probe import Probe
from tests.chaos.report import Outcome, Run
from tests.chaos.world import Unwell

SEND_S = 30.0
CALM_S = (0.5, 2.0)  # before each fault


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Rounds(ABC):
    def __init__(self, run: Run, probe: Probe, groups: Sequence[str], history: Path) -> None:
        self._run = run
        self._probe = probe
        self._groups = groups
        self._history = history
        self._begun = time.monotonic()

    async def run(self, *, minutes: float | None) -> None:
        try:
            await self._start()
            for number, step in enumerate(self._run.plan):
                if minutes is not None and time.monotonic() - self._begun > minutes * 60:
                    say(f"time is over after {number} faults")
                    break
                why = self._impossible(step)
                if why is not None:
                    self._run.skipped.append(f"fault {number}, {step.kind}: {why}")
                    continue
                outcome = await self._one(number, step)
                if outcome.done:
                    self._run.outcomes.append(outcome)
                else:
                    self._run.skipped.append(f"fault {number}, {step.kind}: {outcome.said}")
                say(line(outcome))
                if outcome.problems:
                    self._run.problems += [f"fault {number}, {step.kind}: {problem}" for problem in outcome.problems]
                    break
            await self._end()
        except Unwell as failure:
            self._run.problems.append(str(failure))
            say(f"FAILED: {failure}")

    @abstractmethod
    async def _start(self) -> None:
        """The cluster is whole, clients work."""

    @abstractmethod
    async def _one(self, number: int, step: Step) -> Outcome:
        """One fault, healed."""

    @abstractmethod
    async def _end(self) -> None:
        """Clients drain, everything is compared and checked."""

    def _impossible(self, step: Step) -> str | None:
        """Why this kind of fault can't be made here."""
        return None

    def _since_begun(self) -> float:
        return round(time.monotonic() - self._begun, 1)

    async def _sends(self, since: float) -> None:
        """Wait until every group has acknowledged a send that was begun since then."""
        deadline = time.monotonic() + SEND_S
        while True:
            self._probe.look()
            silent = [group for group in self._groups if not self._probe.ok_since(group, since)]
            if not silent:
                return
            if time.monotonic() > deadline:
                raise Unwell(
                    f"the cluster is whole, and yet no send to {', '.join(silent)} is acknowledged in {SEND_S:.0f} s"
                )
            await asyncio.sleep(0.05)

    def _measure(self, outcome: Outcome, begun: float, *, bound_s: float, stops: bool) -> None:
        """How long nobody could send; ``stops``: rightly so for as long as the fault lasted."""
        self._probe.look()
        outcome.gap = max(self._probe.gap_s(name, begun, time.monotonic()) for name in self._groups)
        outcome.bound = bound_s + (outcome.lasted if stops else 0.0)
        if outcome.gap > outcome.bound:
            what = f"fault {outcome.number}, {outcome.kind}"
            self._run.slow.append(f"{what}: {outcome.gap:.1f} s without a send ({outcome.said})")

    def _check(self) -> None:
        """*Blocking*."""
        report = check(self._history)
        self._run.checks = str(report)
        if not report.ok:
            self._run.problems.append("the histories are not what they must be")


def line(outcome: Outcome) -> str:
    bad = "".join(f"\n    {problem}" for problem in outcome.problems)
    times = f"gap {outcome.gap:5.2f} s, whole after {outcome.whole:5.2f} s"
    return f"{outcome.number:4} {outcome.kind:26} {times}   {outcome.said}{bad}"
