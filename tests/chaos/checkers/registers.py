"""Metadata: each topic name is a register, and its history must be linearizable (Wing and Gong, with the states visited
so far remembered, as Lowe does).

create sets the value, or finds the same one; it is refused where another one is (that is a read). delete empties it. get
reads. What was refused otherwise did nothing; what is unknown may take effect at any time after it began, or never.

An operation may be next when it began before any other one that is still to be placed has ended. The search is bounded: a
key on which it gives up is counted as undecided.
"""

from __future__ import annotations

from collections import defaultdict

from tests.chaos.checkers.verdict import Verdict
from tests.chaos.history import History, Register

STATES_MAX = 300_000
FOREVER = 1 << 63


def check(history: History, *, states_max: int = STATES_MAX) -> Verdict:
    verdict = Verdict("metadata", facts={"keys": 0, "operations": 0, "undecided": 0})
    keys: dict[str, list[Register]] = defaultdict(list)
    for operation in history.registers:
        keys[operation.key].append(operation)
    for key, operations in sorted(keys.items()):
        verdict.count("keys")
        verdict.count("operations", len(operations))
        answer = linearizable(operations, states_max=states_max)
        if answer is None:
            verdict.count("undecided")
        elif not answer:
            verdict.faults.append(f"not linearizable: {key}:\n{tell(operations)}")
    return verdict


def linearizable(operations: list[Register], *, states_max: int = STATES_MAX) -> bool | None:
    """None: not known, the search was too long."""
    placed = sorted((one for one in operations if counts(one)), key=lambda one: one.span.invoked)
    ends = [one.span.returned if one.span.outcome != "unknown" else FOREVER for one in placed]
    needed = sum(1 << number for number, end in enumerate(ends) if end != FOREVER)
    seen: set[tuple[int, str | None]] = set()
    stack: list[tuple[int, str | None]] = [(0, None)]
    while stack:
        done, value = stack.pop()
        if done & needed == needed:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        if len(seen) > states_max:
            return None
        left = [number for number in range(len(placed)) if not done >> number & 1]
        earliest = min(ends[number] for number in left)
        for number in left:
            if placed[number].span.invoked > earliest:
                break
            possible, after = apply(placed[number], value)
            if possible and not (ends[number] == FOREVER and after == value):
                stack.append((done | 1 << number, after))
    return False


def counts(one: Register) -> bool:
    """Does it say, or do, anything?"""
    if one.span.outcome == "refused":
        return one.conflict
    return one.span.ok or one.what != "get"


def apply(one: Register, value: str | None) -> tuple[bool, str | None]:
    """(may it be next, the value afterwards)"""
    match one.what:
        case "get":
            return one.value == value, value
        case "delete":
            return True, None
        case _ if one.span.outcome == "refused":
            return value is not None and value != one.value, value
        case _:
            return value is None or value == one.value, one.value


def tell(operations: list[Register]) -> str:
    lines = []
    start = min(one.span.invoked for one in operations)
    for one in sorted(operations, key=lambda one: one.span.invoked):
        end = f"{(one.span.returned - start) / 1e9:8.3f}" if one.span.outcome != "unknown" else "       -"
        at = f"{(one.span.invoked - start) / 1e9:8.3f} {end}"
        lines.append(f"      {at}  {one.span.who:12} {one.what:6} {one.value!s:10} {one.span.outcome}")
    return "\n".join(lines)
