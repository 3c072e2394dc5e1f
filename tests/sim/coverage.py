"""Does everything that the simulator can do really happen? A table of how often, over all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

ENOUGH = 500  # runs in which all of it must have happened

# Each must happen in that many runs. Names as ``World.saw`` is told them.
EXPECTED: tuple[str, ...] = ()


def report(seen: Counter[str], runs: int, *, say: Callable[[str], None]) -> list[str]:
    """Say how often; what never happened, where there were enough runs for it."""
    groups: dict[str, list[str]] = {}
    for name, count in sorted(seen.items()):
        group, colon, rest = name.partition(": ")
        groups.setdefault(group if colon else "", []).append(f"{rest if colon else group} {count:,}")
    for group, entries in groups.items():
        say(f"  {group or 'what happened'}: {', '.join(entries)}")
    missing = [name for name in EXPECTED if not seen[name]] if runs >= ENOUGH else []
    for name in missing:
        say(f"NEVER happened in {runs} runs: {name}")
    return missing
