"""What a checker says: sentences about what is wrong, and numbers about what was there."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Verdict:
    name: str
    faults: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.faults

    def count(self, name: str, more: float = 1) -> None:
        self.facts[name] = self.facts.get(name, 0) + more


def seconds(ns: float) -> str:
    return f"{ns / 1e9:.3f} s"
