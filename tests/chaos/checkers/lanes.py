"""Order per message group: first deliveries come in the order of sending; members of a group don't overtake each other.

A came before B when A was acknowledged before B was sent; of what is of unknown outcome nothing is known before.
In shared groups a message is handed out only when those before it are acknowledged (an ack must have begun, at least), or
together with them, behind them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from tests.chaos.checkers.verdict import Verdict, seconds
from tests.chaos.history import Delivery, History, Send

NEVER = 1 << 63
Lane = tuple[str, str]  # topic, message group


@dataclass(slots=True)
class Seen:
    """What a consumer group saw of a message."""

    first: int  # number among all deliveries
    deliveries: list[Delivery] = field(default_factory=list)
    acked: int = NEVER  # when an ack began that may have had an effect


def check(history: History) -> Verdict:
    verdict = Verdict("message groups", facts={"lanes": 0, "swapped": 0, "overtaken": 0})
    lanes: dict[Lane, list[Send]] = {}
    for send in history.sends:
        if send.lane is not None:
            lanes.setdefault((send.topic, send.lane), []).append(send)
    verdict.facts["lanes"] = len(lanes)
    seen = see(history)
    for group in history.groups.values():
        if not group.fifo:
            continue
        for (topic, lane), sends in lanes.items():
            if topic != group.topic:
                continue
            found = seen.get(group.name, {})
            for fault in swapped(sends, found):
                verdict.faults.append(f"swapped: lane {lane} in {group.name}: {fault}")
                verdict.count("swapped")
            for fault in overtaken(sends, found) if group.shape == "shared" else ():
                verdict.faults.append(f"overtaken: lane {lane} in {group.name}: {fault}")
                verdict.count("overtaken")
    return verdict


def see(history: History) -> dict[str, dict[str, Seen]]:
    found: dict[str, dict[str, Seen]] = {}
    for number, delivery in enumerate(history.deliveries):
        found.setdefault(delivery.group, {}).setdefault(delivery.body, Seen(number)).deliveries.append(delivery)
    for settling in history.settlings:
        one = found.get(settling.group, {}).get(settling.body)
        if one is not None and settling.hidden_ms is None and settling.span.outcome != "refused":
            one.acked = min(one.acked, settling.span.invoked)
    return found


def ended_before(sends: list[Send]) -> tuple[list[Send], Iterator[tuple[Send, int]]]:
    """What was acknowledged, in that order; and for each send, how many of them were before it began."""
    ended = sorted((send for send in sends if send.span.ok), key=lambda send: send.span.returned)
    times = [send.span.returned for send in ended]
    return ended, ((send, bisect_left(times, send.span.invoked)) for send in sends)


def swapped(sends: list[Send], seen: dict[str, Seen]) -> Iterator[str]:
    ended, all_sends = ended_before(sends)
    latest: list[Send | None] = [None]  # of so many of them, the one that came last
    for send in ended:
        former = latest[-1]
        later = send.body in seen and (former is None or seen[send.body].first > seen[former.body].first)
        latest.append(send if later else former)
    for send, count in all_sends:
        last = latest[count]
        if last is not None and send.body in seen and seen[send.body].first < seen[last.body].first:
            yield f"{send.body} came before {last.body}, which was sent before it"


def overtaken(sends: list[Send], seen: dict[str, Seen]) -> Iterator[str]:
    ended, all_sends = ended_before(sends)
    acked = [seen[send.body].acked if send.body in seen else NEVER for send in ended]
    highest = list(accumulate(acked, max))
    for send, count in all_sends:
        for delivery in seen[send.body].deliveries if send.body in seen else ():
            number = count - 1
            while number >= 0 and highest[number] > delivery.at:  # few: what is not acknowledged yet
                former = ended[number].body
                if acked[number] > delivery.at and not together(seen.get(former), delivery):
                    when = acked[number]
                    late = "never" if when == NEVER else f"{seconds(when - delivery.at)} later"
                    yield f"{delivery.body} came to {delivery.who}; {former}, sent before it, was acknowledged {late}"
                    break
                number -= 1


def together(former: Seen | None, delivery: Delivery) -> bool:
    """Did the message come in the same receive, before the other?"""
    return former is not None and any(
        (one.who, one.asked, one.at) == (delivery.who, delivery.asked, delivery.at) and one.number < delivery.number
        for one in former.deliveries
    )
