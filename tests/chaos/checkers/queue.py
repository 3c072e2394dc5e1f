"""Total queue: what was acknowledged comes to every group, what was refused or never sent comes to none.

    lost        acknowledged (a transaction: and to be committed), and not received by a group
    unexpected  received, and never sent, or refused for good
    recovered   received, of unknown outcome; allowed
    again       received more than once by a group; allowed, at least once is the promise

Nothing can be said about what is missing before everything was drained, so a run whose drain has no good end is at fault
itself.
"""

from __future__ import annotations

from tests.chaos.checkers.verdict import Verdict
from tests.chaos.history import History

OWED = ("", "c", "u")  # fates of what must be seen in the end


def check(history: History) -> Verdict:
    verdict = Verdict("total queue", facts={"sent": 0, "lost": 0, "unexpected": 0, "recovered": 0, "again": 0})
    for run in sorted(history.runs):
        if run not in history.drained:
            verdict.faults.append(f"run {run} has no end: it was killed, or goes on; nothing is known about what was lost")
        elif not history.drained[run]:
            verdict.faults.append(f"run {run} was not drained in its time")
    verdict.faults += [f"worker {broken}" for broken in history.broken]
    sent = {send.body: send for send in history.sends}
    outcomes = [send.span.outcome for send in history.sends]
    verdict.facts |= {
        "sent": outcomes.count("ok"),
        "refused": outcomes.count("refused"),
        "unknown": outcomes.count("unknown"),
    }
    owed: dict[str, list[str]] = {}
    for send in history.sends:
        if send.span.ok and send.fate in OWED and send.topic not in history.unended:
            owed.setdefault(send.topic, []).append(send.body)
    if history.runs and not any(send.span.ok for send in history.sends):
        verdict.faults.append("nothing was ever acknowledged")
    received: dict[str, set[str]] = {name: set() for name in history.groups}
    recovered: set[str] = set()
    for delivery in history.deliveries:
        verdict.count("received")
        found = received.setdefault(delivery.group, set())
        if delivery.body in found:
            verdict.count("again")
            continue
        found.add(delivery.body)
        former = sent.get(delivery.body)
        if former is None or former.topic != delivery.topic:
            verdict.faults.append(f"unexpected: {delivery.body} came to {delivery.group}, and was never sent there")
            verdict.count("unexpected")
        elif former.span.outcome == "refused":
            verdict.faults.append(f"unexpected: {delivery.body} came to {delivery.group}, and had been refused")
            verdict.count("unexpected")
        elif former.span.outcome == "unknown":
            recovered.add(delivery.body)
    verdict.facts["recovered"] = len(recovered)
    for group in history.groups.values():
        for body in owed.get(group.topic, ()):
            if body not in received[group.name]:
                place = sent[body].place
                verdict.faults.append(f"lost: {body} was acknowledged ({place}) and never came to {group.name}")
                verdict.count("lost")
    return verdict
