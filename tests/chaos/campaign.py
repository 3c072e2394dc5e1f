"""One run: clients at work, fault after fault, each healed and waited for; then everything is compared and checked."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from tests.chaos.claim import CommandFailed
from tests.chaos.faults.scene import NotDone, Scene
from tests.chaos.plan import KINDS, Step
from tests.chaos.probe import Probe
from tests.chaos.process import Process
from tests.chaos.replicas import same_log, same_state, verified
from tests.chaos.report import Outcome, Run
from tests.chaos.rounds import CALM_S, Rounds, say
from tests.chaos.world import Unwell, World

RUNNING_S = 90.0
DRAIN_S = 180.0  # an official push consumer holds a message whose ack failed for a minute, or as long as it lives
END_S = DRAIN_S + 60.0
FAULT_S = 240.0  # no fault takes longer, waiting for the cluster included


class Campaign(Rounds):
    def __init__(self, world: World, run: Run, *, quick: bool, rate: int | None) -> None:
        self._world = world
        self._quick = quick
        python, native, groups = sys.executable, world.nameserver_addresses(), ",".join(world.groups)
        probed = world.folder / "probe.jsonl"
        super().__init__(run, Probe(probed), world.groups, world.folder / "history")
        self._prober = Process(
            "probe",
            world.clients,
            lambda: [
                python, "-m", "tests.chaos.probe", "--native", native, "--groups", groups, "--out", str(probed),
            ],
            logs=world.logs,
        )  # fmt: skip
        self._workload: Process | None = None
        if rate is not None:
            self._workload = Process(
                "workload",
                world.clients,
                lambda: [
                    python, "-m", "tests.chaos.workload", "--native", native, "--official", world.official,
                    "--history", str(self._history), "--rate", str(rate), "--seed", str(run.seed),
                    "--drain-s", str(DRAIN_S),
                ],
                logs=world.logs,
            )  # fmt: skip

    def _impossible(self, step: Step) -> str | None:
        return "no C compiler" if KINDS[step.kind].bad_host and self._world.library is None else None

    async def _start(self) -> None:
        await self._world.start()
        self._prober.start()
        if self._workload is not None:
            self._workload.start()
            await self._said(self._workload, "running", RUNNING_S)
        await self._sends(time.monotonic())
        say("everything works; faults begin")

    async def _said(self, process: Process, word: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while word not in process.log.read_text().splitlines():
            if not process.alive or time.monotonic() > deadline:
                raise Unwell(f"{process.name} does not say {word!r}:\n{process.tail()}")
            await asyncio.sleep(0.1)

    # ---- one fault

    async def _one(self, number: int, step: Step) -> Outcome:
        world, kind = self._world, KINDS[step.kind]
        chance = random.Random(step.seed)
        group = world.groups[step.group % len(world.groups)]
        outcome = Outcome(number, step.kind, group, "", self._since_begun(), 0.0, 0.0, 0.0, 0.0)
        await asyncio.sleep(chance.uniform(*CALM_S))
        self._probe.forget(time.monotonic() - 60)
        begun = healed = time.monotonic()
        outcome.at = self._since_begun()
        try:
            async with asyncio.timeout(FAULT_S):
                try:
                    outcome.said = await kind.happen(Scene(world, group, chance, self._quick))
                except NotDone as failure:
                    outcome.said, outcome.done = str(failure), False
                healed = time.monotonic()
                outcome.lasted = healed - begun
                if not kind.may_end:
                    outcome.problems += world.ended_by_themselves()
                world.heal()
                await world.whole()
                outcome.whole = time.monotonic() - healed
                await self._sends(healed)
        except (Unwell, CommandFailed, TimeoutError) as failure:
            outcome.lasted = outcome.lasted or time.monotonic() - begun
            outcome.problems.append(str(failure) or f"not over after {FAULT_S:.0f} s")
            await self._picture(number)
        self._measure(outcome, begun, bound_s=kind.bound_s, stops=kind.stops)
        for process in (self._prober, self._workload):
            if process is not None and not process.alive:
                outcome.problems.append(f"{process.name} ended by itself with status {process.status}:\n{process.tail()}")
        return outcome

    async def _picture(self, number: int) -> None:
        """What each broker says about itself at the moment of a failure goes to a file beside the logs."""
        found = {broker.name: await broker.status() for broker in self._world.brokers}
        (self._world.logs / f"status-{number}.json").write_text(json.dumps(found, indent=1, default=str) + "\n")

    # ---- the end

    async def _end(self) -> None:
        """Clients drain, members are compared, histories checked."""
        world, run = self._world, self._run
        world.heal()
        try:
            await world.whole()
        except Unwell as failure:
            run.problems.append(f"in the end: {failure}")
        if self._workload is not None:
            say("clients drain")
            status = await self._workload.stop(timeout_s=END_S)
            if status not in (0, 2):
                run.problems.append(f"the workload ended with status {status}:\n{self._workload.tail()}")
        await self._prober.stop()
        compared = 0
        for group in world.groups:
            run.problems += await same_state(world, group)
            size, wrong = await asyncio.to_thread(same_log, world.members(group))
            compared += size
            run.problems += wrong
        run.facts["log_bytes_compared"] = compared
        if self._workload is not None:
            await asyncio.to_thread(self._check)
        for broker in world.brokers:
            if await broker.process.stop() != 0:
                run.problems.append(f"{broker.name} did not stop in good order: {broker.process.status}")
        for broker in world.brokers:
            run.problems += await asyncio.to_thread(verified, broker)
        for path in sorted(world.logs.glob("*.log")):
            count = path.read_text(errors="replace").count("Traceback (most recent")
            if count:
                run.notes.append(f"{path.name} has {count} tracebacks")
