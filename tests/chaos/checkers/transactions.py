"""Transactions: a half message is seen when it was committed, not before, and never when it was not; it is decided once."""

from __future__ import annotations

from collections import defaultdict

from tests.chaos.checkers.verdict import Verdict
from tests.chaos.history import Decision, Delivery, History


def check(history: History) -> Verdict:
    verdict = Verdict("transactions", facts={"halves": 0, "committed": 0, "rolled_back": 0, "asked": 0})
    decisions: dict[str, list[Decision]] = defaultdict(list)
    for decision in history.decisions:
        decisions[decision.body].append(decision)
        verdict.count("asked", decision.asked)
    first: dict[str, Delivery] = {}
    seen_by: dict[str, set[str]] = defaultdict(set)
    for delivery in history.deliveries:
        first.setdefault(delivery.body, delivery)
        seen_by[delivery.body].add(delivery.group)
    groups: dict[str, set[str]] = defaultdict(set)
    for group in history.groups.values():
        groups[group.topic].add(group.name)
    for send in history.sends:
        if not send.fate:
            continue
        verdict.count("halves")
        body, told, seen = send.body, decisions[send.body], first.get(send.body)
        commits = [one for one in told if one.outcome == "commit" and one.span.outcome != "refused"]
        committed = any(one.span.ok and not one.asked for one in commits)
        rolled_back = any(one.span.ok and not one.asked and one.outcome == "rollback" for one in told)
        verdict.count("committed", committed)
        verdict.count("rolled_back", rolled_back)
        if committed and rolled_back:
            verdict.faults.append(f"decided twice: {body} was committed and rolled back")
        if seen is not None and not commits:
            ended = "rolled back" if any(one.outcome == "rollback" for one in told) else "not decided"
            verdict.faults.append(f"visible: {body} was {ended}, and came to {seen.group}")
        elif seen is not None and seen.at < min(one.span.invoked for one in commits):
            verdict.faults.append(f"visible: {body} came to {seen.group} before anybody committed it")
        judged = committed and send.topic not in history.unended
        for name in sorted(groups[send.topic] - seen_by[body]) if judged else ():
            verdict.faults.append(f"hidden: {body} was committed, and never came to {name}")
    return verdict
