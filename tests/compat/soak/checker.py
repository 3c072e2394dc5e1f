"""Whether a history is one that the server may have.

A history is what the workers wrote down, one fact a line. `at` is the machine's clock in nanoseconds, `body` names a message
for ever (`producer:kind:lane:number:fate`), `group` is the consumer group.

    sent     acknowledged to its producer, between `since` and `at`; for a transaction: the half message
    unsent   the send failed; the message may be there or not
    got      handed to a member of the group; `due` not before that, in milliseconds, for delayed ones
    acked    the server took the member's ack
    settled  acked, perhaps: the ack failed, or the client keeps its outcome to itself

What must hold, in each group:

    everything sent is settled in the end, but for what was rolled back, which nobody ever gets
    nothing comes after its ack
    first deliveries of a lane (message group) come in the order of its numbers
    no delayed message comes early; nothing comes that nobody sent; nothing comes again and again without end

A send that overlaps an outage may have been repeated by its client, unseen by us: such a message may come twice.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

Fact = dict[str, Any]
DELIVERED = ("c", "u")  # fates: committed (or no transaction), left to a check-back; "r": rolled back
EARLY_NS = 50_000_000
OFTEN = 100  # deliveries of one message to a group: whoever gets it more often goes round in circles


def kind_of(body: str) -> str:
    return body.split(":")[1]


def fate_of(body: str) -> str:
    return body.rsplit(":", 1)[1]


@dataclass(slots=True)
class Journal:
    """One worker's file, read as it grows."""

    file: Path
    _read: int = 0

    def fresh(self) -> list[Fact]:
        with self.file.open("rb") as stream:
            stream.seek(self._read)
            data = stream.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        return [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]


@dataclass(slots=True)
class History:
    groups: dict[str, str]  # consumer group -> the kind of messages it reads
    strict: frozenset[str]  # groups in which an ack is final; the others commit offsets now and then
    sent: dict[str, Fact] = field(default_factory=dict)
    unsent: dict[str, Fact] = field(default_factory=dict)
    got: dict[tuple[str, str], list[Fact]] = field(default_factory=lambda: defaultdict(list))
    acked: dict[tuple[str, str], int] = field(default_factory=dict)
    settled: set[tuple[str, str]] = field(default_factory=set)

    def add(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            match fact["op"]:
                case "sent":
                    self.sent[fact["body"]] = fact
                case "unsent":
                    self.unsent[fact["body"]] = fact
                case "got":
                    self.got[fact["group"], fact["body"]].append(fact)
                case "acked":
                    place = (fact["group"], fact["body"])
                    self.acked[place] = min(fact["at"], self.acked.get(place, fact["at"]))
                    self.settled.add(place)
                case "settled":
                    self.settled.add((fact["group"], fact["body"]))
                case other:
                    raise ValueError(f"a fact of kind {other!r}?")

    def outstanding(self) -> list[tuple[str, str]]:
        """(group, body) of what must still come."""
        return [
            (group, body)
            for group, kind in self.groups.items()
            for body in self.sent
            if kind_of(body) == kind and fate_of(body) in DELIVERED and (group, body) not in self.settled
        ]

    def faults(self, outages: Sequence[tuple[int, int]]) -> list[str]:
        """What is wrong with it. ``outages``: (from, to) in nanoseconds."""

        def may_be_twice(body: str) -> bool:
            fact = self.sent.get(body) or self.unsent[body]
            return body in self.unsent or any(fact["since"] < end and start < fact["at"] for start, end in outages)

        found = [f"lost: {body} never settled in {group}" for group, body in self.outstanding()]
        lanes: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for (group, body), deliveries in self.got.items():
            if body not in self.sent and body not in self.unsent:
                found.append(f"invented: {body} came to {group}")
                continue
            if fate_of(body) == "r":
                found.append(f"rolled back, and yet delivered: {body} to {group}")
            if len(deliveries) > OFTEN:
                found.append(f"too often: {body} came to {group} {len(deliveries)} times")
            first = min(fact["at"] for fact in deliveries)
            acked = self.acked.get((group, body))
            late = [fact for fact in deliveries if acked is not None and fact["at"] > acked]
            if late and group in self.strict and not may_be_twice(body):
                found.append(f"after its ack: {body} to {group}, {(late[0]['at'] - acked) / 1e9:.3f} s later: {late[0]}")
            due = deliveries[0].get("due")
            if due is not None and first < due * 1_000_000 - EARLY_NS:
                found.append(f"early: {body} to {group} by {due - first // 1_000_000} ms")
            producer, kind, lane, number, _ = body.split(":")
            if kind == "fifo" and body in self.sent:
                lanes[group, f"{producer}:{lane}"].append((first, int(number)))
        for (group, lane), firsts in lanes.items():
            numbers = [number for _, number in sorted(firsts)]
            for before, after in pairwise(numbers):
                if after < before:
                    found.append(f"out of order: {lane} in {group}: {after} came after {before}")
        return found

    def counts(self) -> dict[str, int]:
        deliveries = sum(map(len, self.got.values()))
        by_kind = Counter(kind_of(body) for body in self.sent)
        return {**by_kind, "unsent": len(self.unsent), "deliveries": deliveries, "redeliveries": deliveries - len(self.got)}
