"""One run: clients at work, fault after fault, each healed and waited for; then clients drain and everything is checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from pathlib import Path

from tests.chaos.checking import check
from tests.chaos.plan import Step
from tests.chaos.probe import Probe
from tests.chaos.report import Outcome, Run
from tests.chaos.world import Unwell
from tests.docker.clients import ClientProgram
from tests.docker.faults import KINDS, Kind, Scene
from tests.docker.stack import GROUPS, NAMESERVERS, OFFICIAL, Stack

RUNNING_S = 120.0
DRAIN_S = 90.0
SEND_S = 30.0
FAULT_S = 300.0  # no fault takes longer, waiting for the cluster included
CALM_S = (0.5, 2.0)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Campaign:
    def __init__(self, stack: Stack, run: Run, folder: Path, *, rate: int) -> None:
        self._stack = stack
        self._run = run
        self._begun = time.monotonic()
        self._history = folder / "history"
        self._history.mkdir()
        probed = folder / "probe.jsonl"
        self._probe = Probe(probed)
        python = ("python3", "-m")
        self._prober = ClientProgram(
            stack,
            "probe",
            [*python, "tests.chaos.probe", "--native", NAMESERVERS, "--groups", ",".join(GROUPS), "--out", str(probed)],
            folder,
        )
        self._workload = ClientProgram(
            stack,
            "workload",
            [
                *python, "tests.chaos.workload", "--native", NAMESERVERS, "--official", OFFICIAL,
                "--history", str(self._history), "--rate", str(rate), "--seed", str(run.seed),
                "--drain-s", str(DRAIN_S - 10),
            ],
            folder,
        )  # fmt: skip
        self.programs = (self._prober, self._workload)

    async def run(self, *, minutes: float | None) -> None:
        try:
            await self._start()
            for number, step in enumerate(self._run.plan):
                if minutes is not None and time.monotonic() - self._begun > minutes * 60:
                    say(f"time is over after {number} faults")
                    break
                outcome = await self._one(number, step, KINDS[step.kind])
                self._run.outcomes.append(outcome)
                say(self._line(outcome))
                if outcome.problems:
                    self._run.problems += [f"fault {number}, {step.kind}: {problem}" for problem in outcome.problems]
                    break
            await self._end()
        except Unwell as failure:
            self._run.problems.append(str(failure))
            say(f"FAILED: {failure}")

    async def _start(self) -> None:
        await self._stack.whole()
        await self._stack.make_probe_topics()
        for program in self.programs:
            await asyncio.to_thread(program.start)
        await self._workload.said("running", RUNNING_S)
        await self._sends(time.monotonic())
        self._run.facts["memory_mib"] = await asyncio.to_thread(self._stack.memory_mib)
        say("everything works; faults begin")

    # ---- one fault

    async def _one(self, number: int, step: Step, kind: Kind) -> Outcome:
        stack = self._stack
        chance = random.Random(step.seed)
        group = GROUPS[step.group % len(GROUPS)]
        await asyncio.sleep(chance.uniform(*CALM_S))
        self._probe.forget(time.monotonic() - 60)
        begun = time.monotonic()
        outcome = Outcome(number, step.kind, group, "", round(begun - self._begun, 1), 0.0, 0.0, 0.0, 0.0)
        try:
            async with asyncio.timeout(FAULT_S):
                outcome.said = await kind.happen(Scene(stack, group, chance))
                healed = time.monotonic()
                outcome.lasted = healed - begun
                await asyncio.to_thread(stack.heal)
                await stack.whole()
                outcome.whole = time.monotonic() - healed
                await self._sends(healed)
        except (Unwell, TimeoutError) as failure:
            outcome.lasted = outcome.lasted or time.monotonic() - begun
            outcome.problems.append(str(failure) or f"not over after {FAULT_S:.0f} s")
            outcome.problems += [f"{member.name}: {await self._picture(member.status())}" for member in stack.brokers]
        self._probe.look()
        outcome.gap = max(self._probe.gap_s(name, begun, time.monotonic()) for name in GROUPS)
        outcome.bound = kind.bound_s + (outcome.lasted if kind.stops else 0.0)
        if outcome.gap > outcome.bound:
            self._run.slow.append(f"fault {number}, {step.kind}: {outcome.gap:.1f} s without a send ({outcome.said})")
        for program in self.programs:
            if not program.alive:
                outcome.problems.append(f"{program.name} ended by itself:\n{program.tail()}")
        return outcome

    async def _picture(self, asked: Awaitable[dict[str, object] | None]) -> object:
        facts = await asked
        return "no answer" if facts is None else {name: facts.get(name) for name in ("role", "failover", "replication")}

    async def _sends(self, since: float) -> None:
        """Wait until every group has acknowledged a send that was begun since then."""
        deadline = time.monotonic() + SEND_S
        while True:
            self._probe.look()
            silent = [group for group in GROUPS if not self._probe.ok_since(group, since)]
            if not silent:
                return
            if time.monotonic() > deadline:
                raise Unwell(f"the cluster is whole, yet no send to {', '.join(silent)} is acknowledged in {SEND_S:.0f} s")
            await asyncio.sleep(0.05)

    def _line(self, outcome: Outcome) -> str:
        bad = "".join(f"\n    {problem}" for problem in outcome.problems)
        times = f"gap {outcome.gap:5.2f} s, whole after {outcome.whole:5.2f} s"
        return f"{outcome.number:4} {outcome.kind:22} {times}   {outcome.said}{bad}"

    # ---- the end

    async def _end(self) -> None:
        stack, run = self._stack, self._run
        await asyncio.to_thread(stack.heal)
        try:
            await stack.whole()
        except Unwell as failure:
            run.problems.append(f"in the end: {failure}")
        say("clients drain")
        status = await self._workload.stop(DRAIN_S)
        if status not in (0, 2):
            run.problems.append(f"the workload ended with status {status}:\n{self._workload.tail()}")
        await self._prober.stop(20)
        run.problems += await stack.same_state()
        report = await asyncio.to_thread(check, self._history)
        run.checks = str(report)
        if not report.ok:
            run.problems.append("the histories are not what they must be")
        for member in stack.brokers:
            status = await asyncio.to_thread(member.stop)
            if status != 0:
                run.problems.append(f"{member.name} did not stop in good order: {status}")
        for member in stack.brokers:
            wrong = await asyncio.to_thread(stack.verify, member)
            run.problems += [wrong] if wrong else []
        run.facts["tracebacks"] = [m.name for m in stack.members if "Traceback (most recent" in m.log()]
