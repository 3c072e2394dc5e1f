"""One place, one message: whoever reads a queue offset, ever, finds the same there; and where the client repeats its sends
under sequence numbers, one message has one place."""

from __future__ import annotations

from collections import defaultdict

from tests.chaos.checkers.verdict import Verdict
from tests.chaos.history import History, Place

FINAL = ("normal", "fifo")  # kinds of topics where the receipt says where the message will be read


def check(history: History) -> Verdict:
    verdict = Verdict("places", facts={"places": 0, "changed": 0, "stored_twice": 0})
    held: dict[tuple[str, Place], str] = {}
    places: dict[str, set[Place]] = defaultdict(set)

    def note(topic: str, place: Place, body: str, how: str) -> None:
        places[body].add(place)
        former = held.setdefault((topic, place), body)
        if former != body:
            verdict.faults.append(f"changed: {place} of {topic} held {former}, and then {body} ({how})")
            verdict.count("changed")

    for send in history.sends:
        if send.place is not None and history.topics.get(send.topic) in FINAL:
            note(send.topic, send.place, send.body, "as its receipt says")
    for delivery in history.deliveries:
        if delivery.place is not None:
            note(delivery.topic, delivery.place, delivery.body, f"as {delivery.who} read")
    for send in history.sends:
        if send.sequenced and len(places[send.body]) > 1:
            verdict.faults.append(f"stored twice: {send.body} is at {sorted(places[send.body])}")
            verdict.count("stored_twice")
    verdict.facts["places"] = len(held)
    return verdict
