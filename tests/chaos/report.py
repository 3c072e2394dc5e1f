"""What came of a run: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.chaos.plan import Step, written


@dataclass(slots=True)
class Outcome:
    """One fault, and how the cluster took it. Times in seconds since the run began, lengths in seconds."""

    number: int
    kind: str
    group: str
    said: str
    at: float
    lasted: float
    gap: float  # the longest time without an acknowledged send
    bound: float
    whole: float  # from healed to whole
    problems: list[str] = field(default_factory=list)
    done: bool = True  # it did happen


@dataclass(slots=True)
class Run:
    seed: int
    plan: Sequence[Step]
    settings: dict[str, object]
    outcomes: list[Outcome] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a run with one has failed
    skipped: list[str] = field(default_factory=list)  # faults that could not be made here, or were refused
    slow: list[str] = field(default_factory=list)  # bounds that were passed
    notes: list[str] = field(default_factory=list)  # what somebody should look at
    facts: dict[str, object] = field(default_factory=dict)
    checks: str = ""

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        value = asdict(self) | {"plan": written(self.plan), "passed": not self.problems}
        file.write_text(json.dumps(value, indent=1, default=str) + "\n")

    def table(self) -> str:
        by_kind: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in self.outcomes:
            by_kind[outcome.kind].append(outcome)
        lines = [f"{'fault':28}{'count':>6}{'gap p50':>9}{'max':>7}{'bound':>7}{'whole p50':>11}{'max':>7}  (s)"]
        for kind, outcomes in sorted(by_kind.items()):
            gaps, wholes = [one.gap for one in outcomes], [one.whole for one in outcomes]
            bound = max(one.bound for one in outcomes)
            lines.append(
                f"{kind:28}{len(outcomes):6}{median(gaps):9.2f}{max(gaps):7.2f}{bound:7.1f}"
                f"{median(wholes):11.2f}{max(wholes):7.2f}"
            )
        return "\n".join(lines)
