"""How long each producer was without an acknowledged send: a report, not a check."""

from __future__ import annotations

from itertools import pairwise

from tests.chaos.history import History


def gaps(history: History) -> dict[str, float]:
    """The longest time between two acknowledged sends, in seconds, by producer."""
    ended: dict[str, list[int]] = {}
    for send in history.sends:
        if send.span.ok:
            ended.setdefault(send.span.who, []).append(send.span.returned)
    return {
        who: round(max((after - before for before, after in pairwise(sorted(times))), default=0) / 1e9, 3)
        for who, times in sorted(ended.items())
    }
