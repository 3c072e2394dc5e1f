"""Delayed messages never come early; how late they come is told."""

from __future__ import annotations

from tests.chaos.checkers.verdict import Verdict, seconds
from tests.chaos.history import History

SLACK_NS = 20_000_000  # the due time travels in milliseconds of wall clocks, which are slewed


def check(history: History) -> Verdict:
    verdict = Verdict("timers", facts={"delayed": 0, "early": 0, "latest_s": 0.0})
    due = {send.body: send.span.invoked + int(send.delay_ms * 1e6) for send in history.sends if send.delay_ms is not None}
    verdict.facts["delayed"] = len(due)
    seen: set[tuple[str, str]] = set()
    for delivery in history.deliveries:
        at = due.get(delivery.body)
        if at is None:
            continue
        if delivery.at < at - SLACK_NS:
            verdict.faults.append(f"early: {delivery.body} came to {delivery.group} {seconds(at - delivery.at)} early")
            verdict.count("early")
        if (delivery.group, delivery.body) not in seen:
            seen.add((delivery.group, delivery.body))
            verdict.facts["latest_s"] = max(verdict.facts["latest_s"], round((delivery.at - at) / 1e9, 3))
    return verdict
