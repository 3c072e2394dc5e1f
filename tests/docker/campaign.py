"""One run: clients at work, fault after fault, each healed and waited for; then clients drain and everything is checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from pathlib import Path

from tests.chaos.plan import Step
from tests.chaos.probe import Probe
from tests.chaos.report import Outcome, Run
from tests.chaos.rounds import CALM_S, Rounds, say
from tests.chaos.world import Unwell
from tests.docker.clients import ClientProgram
from tests.docker.faults import KINDS, Scene
from tests.docker.stack import GROUPS, NAMESERVERS, OFFICIAL, Stack

RUNNING_S = 120.0
DRAIN_S = 90.0
FAULT_S = 300.0  # no fault takes longer, waiting for the cluster included


class Campaign(Rounds):
    def __init__(self, stack: Stack, run: Run, folder: Path, *, rate: int) -> None:
        self._stack = stack
        probed = folder / "probe.jsonl"
        super().__init__(run, Probe(probed), GROUPS, folder / "history")
        self._history.mkdir()
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

    async def _one(self, number: int, step: Step) -> Outcome:
        stack, kind = self._stack, KINDS[step.kind]
        chance = random.Random(step.seed)
        group = GROUPS[step.group % len(GROUPS)]
        await asyncio.sleep(chance.uniform(*CALM_S))
        self._probe.forget(time.monotonic() - 60)
        begun = time.monotonic()
        outcome = Outcome(number, step.kind, group, "", self._since_begun(), 0.0, 0.0, 0.0, 0.0)
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
        self._measure(outcome, begun, bound_s=kind.bound_s, stops=kind.stops)
        for program in self.programs:
            if not program.alive:
                outcome.problems.append(f"{program.name} ended by itself:\n{program.tail()}")
        return outcome

    async def _picture(self, asked: Awaitable[dict[str, object] | None]) -> object:
        facts = await asked
        return "no answer" if facts is None else {name: facts.get(name) for name in ("role", "failover", "replication")}

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
        await asyncio.to_thread(self._check)
        for member in stack.brokers:
            status = await asyncio.to_thread(member.stop)
            if status != 0:
                run.problems.append(f"{member.name} did not stop in good order: {status}")
        for member in stack.brokers:
            wrong = await asyncio.to_thread(stack.verify, member)
            run.problems += [wrong] if wrong else []
        run.facts["tracebacks"] = [m.name for m in stack.members if "Traceback (most recent" in m.log()]
