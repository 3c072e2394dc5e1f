"""Offsets of stream groups: nothing is skipped, what is committed only grows and never passes what was handed out.

Times are those of clients. A member writes down what it was handed before it commits, and a commit counts when its
answer has come; so what a look that began later is told must not be less, across restarts and failovers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.checkers.verdict import Verdict
from tests.chaos.history import History, Offsets, Queue

BEGIN, END = 1, 0  # at one time what has ended counts for what begins


def check(history: History) -> Verdict:
    verdict = Verdict("offsets", facts={"commits": 0, "looks": 0, "skipped": 0, "gone_back": 0, "ahead": 0})
    streams = {name for name, group in history.groups.items() if group.shape == "stream"}
    reached: dict[tuple[str, Queue], list[tuple[int, int]]] = defaultdict(list)  # (when, next offset), both rising
    for delivery in history.deliveries:
        if delivery.group not in streams or delivery.place is None:
            continue
        broker, queue, offset = delivery.place
        steps = reached[delivery.group, (broker, queue)]
        expected = steps[-1][1] if steps else 0
        if offset > expected:
            missing = f"{expected}" if offset == expected + 1 else f"{expected} to {offset - 1}"
            verdict.faults.append(
                f"skipped: {delivery.who} of {delivery.group} was handed {broker}:{queue}:{offset} ({delivery.body}); "
                f"{missing} never came to the group before"
            )
            verdict.count("skipped")
        if offset >= expected:
            steps.append((delivery.at, offset + 1))
    for group in sorted(streams):
        told = [one for one in history.offsets if one.group == group and one.span.ok]
        verdict.count("commits", sum(not one.looked for one in told))
        verdict.count("looks", sum(one.looked for one in told))
        for kind, fault in moves(told, {queue: steps for (name, queue), steps in reached.items() if name == group}):
            verdict.faults.append(f"{kind.replace('_', ' ')}: {group}: {fault}")
            verdict.count(kind)
    return verdict


def moves(told: list[Offsets], reached: dict[Queue, list[tuple[int, int]]]) -> Iterator[tuple[str, str]]:
    """What is wrong with what was committed, over time: (what, the sentence)."""
    events = [(one.span.invoked, BEGIN, number) for number, one in enumerate(told)]
    events += [(one.span.returned, END, number) for number, one in enumerate(told)]
    known: dict[Queue, int] = {}
    floors: dict[int, dict[Queue, int]] = {}
    for _, what, number in sorted(events):
        one = told[number]
        if what == BEGIN:
            floors[number] = dict(known) if one.looked else {}
            continue
        answered = dict(one.places)
        for queue, floor in floors.pop(number, {}).items():
            if answered.get(queue, 0) < floor:
                yield "gone_back", f"{one.span.who} was told {answered.get(queue, 0)} of {queue}, when {floor} was committed"
        for queue, offset in answered.items():
            known[queue] = max(offset, known.get(queue, 0))
            steps = reached.get(queue, [])
            count = bisect_right(steps, one.span.returned, key=lambda step: step[0])
            handed = steps[count - 1][1] if count else 0
            if offset > handed:
                yield "ahead", f"{offset} of {queue} is committed, and only {handed} were handed out"
