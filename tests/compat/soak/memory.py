"""Whether a process grows: its memory over several lives, sampled once a second.

What a process needs soon after it was started says little, so the first seconds of each life are left out. Of what is left
the first third is compared with the last: some growth is allowed, because caches fill and allocators keep what they have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

WARM_S = 10
ENOUGH = 30  # samples
GROWTH_MAX = 1.5
GROWTH_FREE_MB = 64.0


@dataclass(slots=True)
class Memory:
    """The samples of one process, in MB."""

    samples: list[float] = field(default_factory=list)
    _life: int = 0
    _age: int = 0

    def add(self, mb: float, *, life: int) -> None:
        if life != self._life:
            self._life, self._age = life, 0
        self._age += 1
        if self._age > WARM_S:
            self.samples.append(mb)

    def fault(self, limit_mb: float) -> str | None:
        """What is wrong with it."""
        if not self.samples:
            return None
        if max(self.samples) > limit_mb:
            return f"{max(self.samples):.0f} MB"
        third = len(self.samples) // 3
        if third < ENOUGH:
            return None
        before, after = median(self.samples[:third]), median(self.samples[-third:])
        if after > before * GROWTH_MAX + GROWTH_FREE_MB:
            return f"grew from {before:.0f} to {after:.0f} MB"
        return None

    def __str__(self) -> str:
        if not self.samples:
            return "no samples"
        return f"{min(self.samples):.0f} to {max(self.samples):.0f} MB, last {self.samples[-1]:.0f}"
