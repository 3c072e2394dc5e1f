"""Receipts of shared groups: a message has one owner at a time, and none after its ack.

A broker answers a receive only when the hand-out is confirmed (docs/replication.md: nothing above C is shown), so a new
master knows every lease that a client was told of, and this holds over failovers, too. It does not with `--ack local`.

From outside a lease can be seen in part only. It began at the broker between the receive's begin and its end, so its
owner has it for certain from the end of the receive until its time, counted from the begin, is over; or until the owner
itself begins to settle it. A changed invisible time counts from the begin of the change, once its answer has come. Two
such spans of one message must not overlap.

After an ack whose answer came, no receive that begins later brings the message.

A message is its place. Where a client is not told places (the official ones), it is the body, and only if it is stored
once as far as is known: those clients may repeat a send unseen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tests.chaos.checkers.verdict import Verdict, seconds
from tests.chaos.history import Delivery, History, Place, Settling

SLACK_NS = 300_000_000  # clocks of brokers are read in milliseconds, and drift
Message = tuple[str, Place | str]  # group, and what it is known by


@dataclass(frozen=True, slots=True)
class Owned:
    start: int
    end: int
    delivery: Delivery


def check(history: History) -> Verdict:
    verdict = Verdict("receipts", facts={"receipts": 0, "two_owners": 0, "after_ack": 0})
    settlings: dict[tuple[str, str], list[Settling]] = defaultdict(list)
    for settling in history.settlings:
        settlings[settling.group, settling.handle].append(settling)
    once = stored_once(history)
    messages: dict[Message, list[Delivery]] = defaultdict(list)
    for delivery in history.deliveries:
        if delivery.handle is not None and (delivery.place is not None or delivery.body in once):
            messages[delivery.group, delivery.place or delivery.body].append(delivery)
            verdict.count("receipts")
    for (group, _), deliveries in messages.items():
        spans = [span for one in deliveries for span in owned(one, settlings[group, one.handle or ""])]
        spans.sort(key=lambda span: span.start)
        former: Owned | None = None
        for span in spans:
            if former is not None and former.delivery is not span.delivery and span.start < former.end:
                both = (
                    f"{span.delivery.who}, {seconds(former.end - span.start)} before {former.delivery.who}'s time was over"
                )
                verdict.faults.append(f"two owners: {span.delivery.body} in {group} came to {both}")
                verdict.count("two_owners")
            if former is None or span.end > former.end:
                former = span
        acked = [
            one.span.returned
            for delivery in deliveries
            for one in settlings[group, delivery.handle or ""]
            if one.hidden_ms is None and one.span.ok
        ]
        late = [delivery for delivery in deliveries if acked and delivery.asked > min(acked)]
        for delivery in late:
            when = f"{seconds(delivery.at - min(acked))} after its ack"
            verdict.faults.append(f"after its ack: {delivery.body} came to {delivery.who} in {group}, {when}")
            verdict.count("after_ack")
    return verdict


def owned(delivery: Delivery, settlings: list[Settling]) -> list[Owned]:
    """The spans in which it is certainly the receiver's."""
    if delivery.until is None:
        return []
    spans: list[Owned] = []
    start, end = delivery.at, delivery.until - SLACK_NS
    for settling in sorted(settlings, key=lambda one: one.span.invoked):
        spans.append(Owned(start, min(end, settling.span.invoked), delivery))
        if not settling.hidden_ms or not settling.span.ok:
            start = end = 0
            break
        start, end = settling.span.returned, settling.span.invoked + int(settling.hidden_ms * 1e6) - SLACK_NS
    spans.append(Owned(start, end, delivery))
    return [span for span in spans if span.end > span.start]


def stored_once(history: History) -> set[str]:
    """Bodies that are known to be at one place."""
    places: dict[str, set[Place]] = defaultdict(set)
    for delivery in history.deliveries:
        if delivery.place is not None:
            places[delivery.body].add(delivery.place)
    return {body for body, found in places.items() if len(found) == 1}
