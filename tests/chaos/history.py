"""Journals, read: typed facts for the checkers. What is torn at a file's end is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any

Place = tuple[str, int, int]  # broker, queue, queue offset
Queue = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Span:
    """When, by whom, and how it ended. Of unknown outcome ``returned`` means nothing: it may still take effect."""

    who: str
    invoked: int
    returned: int
    outcome: str  # ok, refused, unknown

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


@dataclass(frozen=True, slots=True)
class Send:
    span: Span
    topic: str
    body: str
    lane: str | None = None  # message group
    fate: str = ""
    delay_ms: float | None = None
    sequenced: bool = False  # its client repeats it under a sequence number, so it may be stored once at most
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a broker was told about a transaction: commit, rollback or unknown; asked: it was a check-back."""

    span: Span
    body: str
    outcome: str
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    who: str
    group: str
    topic: str
    body: str
    asked: int  # when the receive began
    at: int
    place: Place | None = None
    attempt: int | None = None
    handle: str | None = None
    until: int | None = None  # the receiver owns it so long at least, if it does nothing
    number: int = 0  # within its receive


@dataclass(frozen=True, slots=True)
class Settling:
    """An ack (``hidden_ms`` is None), or another invisible time."""

    span: Span
    group: str
    body: str
    handle: str
    hidden_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Offsets:
    """What is committed: acknowledged to a consumer, or (``looked``) told to somebody who asked."""

    span: Span
    group: str
    topic: str
    places: tuple[tuple[Queue, int], ...]
    looked: bool = False


@dataclass(frozen=True, slots=True)
class Register:
    span: Span
    key: str
    what: str  # create, delete, get
    value: str | None = None
    conflict: bool = False  # create was refused: there is one with another value


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    topic: str
    shape: str
    fifo: bool = False


@dataclass(slots=True)
class History:
    topics: dict[str, str] = field(default_factory=dict)  # -> kind
    groups: dict[str, Group] = field(default_factory=dict)
    sends: list[Send] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)  # in the order in which they came
    settlings: list[Settling] = field(default_factory=list)
    offsets: list[Offsets] = field(default_factory=list)
    registers: list[Register] = field(default_factory=list)
    runs: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)  # workers that met what they should not
    unended: set[str] = field(default_factory=set)  # topics of runs without an end: of what is missing nothing is known
    drained: dict[str, bool] = field(default_factory=dict)  # by run: how its drain ended

    def sort(self) -> History:
        self.deliveries.sort(key=lambda delivery: (delivery.at, delivery.asked, delivery.number))
        self.sends.sort(key=lambda send: send.span.invoked)
        return self


def load(directory: Path) -> History:
    history = History()
    for file in sorted(directory.glob("*.jsonl")):
        read(history, lines_of(file))
    return history.sort()


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read(history: History, lines: Iterable[dict[str, Any]]) -> None:
    """One file."""
    under_way: dict[int, dict[str, Any]] = {}
    run = ""
    topics: set[str] = set()
    for line in lines:
        match line["e"]:
            case "invoke":
                under_way[line["n"]] = line
            case "ok" | "refused" | "unknown":
                add(history, under_way.pop(line["n"]), line)
            case "begin":
                run = line["run"]
                history.runs.add(run)
            case "topic":
                history.topics[line["topic"]] = line["kind"]
                topics.add(line["topic"])
            case "group":
                history.groups[line["group"]] = Group(line["group"], line["topic"], line["shape"], line["fifo"])
            case "broken":
                history.broken.append(f"{line['who']}: {line['error']}")
            case "end":
                history.drained[run] = line["drained"]
    for invoked in under_way.values():
        add(history, invoked, {"e": "unknown", "t": invoked["t"]})
    if run not in history.drained:
        history.unended |= topics


def add(history: History, invoked: dict[str, Any], ended: dict[str, Any]) -> None:
    span = Span(intern(invoked["who"]), invoked["t"], ended["t"], ended["e"])
    invoked |= {name: intern(invoked[name]) for name in ("topic", "group", "body", "handle") if name in invoked}
    match invoked["f"]:
        case "send":
            place = place_of(ended.get("place"))
            more = (invoked["lane"], invoked["fate"], invoked["delay_ms"], invoked["sequenced"], place)
            history.sends.append(Send(span, invoked["topic"], invoked["body"], *more))
        case "decide":
            history.decisions.append(Decision(span, invoked["body"], invoked["outcome"]))
        case "check":
            history.decisions.append(Decision(span, invoked["body"], ended.get("outcome", "unknown"), asked=True))
        case "receive":
            history.deliveries.extend(deliveries_of(span, invoked, ended.get("got", ())))
        case "ack":
            history.settlings.append(Settling(span, invoked["group"], invoked["body"], invoked["handle"]))
        case "hide":
            settling = (invoked["group"], invoked["body"], invoked["handle"], invoked["hidden_ms"])
            history.settlings.append(Settling(span, *settling))
        case "commit" | "look":
            places = tuple(((broker, queue), offset) for broker, queue, offset in ended.get("places", ()))
            looked = invoked["f"] == "look"
            history.offsets.append(Offsets(span, invoked["group"], invoked["topic"], places, looked))
        case "create" | "delete" | "get":
            value = ended.get("value") if invoked["f"] == "get" else invoked.get("value")
            conflict = str(ended.get("error", "")).startswith("AlreadyExists:")
            history.registers.append(Register(span, invoked["key"], invoked["f"], value, conflict))
        case other:
            raise ValueError(f"an operation of kind {other!r}?")


def deliveries_of(span: Span, invoked: dict[str, Any], got: Iterable[dict[str, Any]]) -> Iterator[Delivery]:
    for number, one in enumerate(got):
        left_ms = one.get("left_ms")
        yield Delivery(
            span.who,
            invoked["group"],
            invoked["topic"],
            intern(one["body"]),
            span.invoked,
            span.returned,
            place_of(one.get("place")),
            one.get("attempt"),
            one.get("handle"),
            None if left_ms is None else span.returned + int(left_ms * 1e6),
            number,
        )


def place_of(given: list[Any] | None) -> Place | None:
    return None if given is None else (given[0], given[1], given[2])
