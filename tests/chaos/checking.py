"""All checkers over one directory of journals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.checkers import lanes, offsets, places, queue, receipts, registers, timers, transactions
from tests.chaos.checkers.gaps import gaps
from tests.chaos.checkers.verdict import Verdict
from tests.chaos.history import History, load

ALL: tuple[Callable[[History], Verdict], ...] = (
    queue.check, lanes.check, offsets.check, places.check, receipts.check, timers.check, transactions.check, registers.check,
)  # fmt: skip
SHOWN_MAX = 20  # faults of one checker that are printed


@dataclass(slots=True)
class Report:
    verdicts: list[Verdict]
    gaps_s: dict[str, float]

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def faults(self) -> list[str]:
        return [fault for verdict in self.verdicts for fault in verdict.faults]

    def as_json(self) -> dict[str, Any]:
        verdicts = [{"name": v.name, "ok": v.ok, "facts": v.facts, "faults": v.faults} for v in self.verdicts]
        return {"ok": self.ok, "verdicts": verdicts, "gaps_s": self.gaps_s}

    def __str__(self) -> str:
        lines = []
        for verdict in self.verdicts:
            facts = "  ".join(f"{name} {value:g}" for name, value in verdict.facts.items())
            lines.append(f"{'ok    ' if verdict.ok else 'FAULTS'}  {verdict.name:14}  {facts}")
        lines.append("longest time between two acknowledged sends:")
        lines += [f"        {who:24} {gap:8.3f} s" for who, gap in self.gaps_s.items()]
        for verdict in self.verdicts:
            lines += [f"{verdict.name}: {fault}" for fault in verdict.faults[:SHOWN_MAX]]
            if len(verdict.faults) > SHOWN_MAX:
                lines.append(f"{verdict.name}: and {len(verdict.faults) - SHOWN_MAX} more")
        return "\n".join(lines)


def check(directory: Path) -> Report:
    return check_history(load(directory))


def check_history(history: History) -> Report:
    report = Report([checker(history) for checker in ALL], gaps(history))
    if not history.runs:
        report.verdicts[0].faults.append("there is no history here")
    return report
