"""Histories for tests, told in a few words. Times are in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.chaos.history import Decision, Delivery, Group, History, Offsets, Place, Register, Send, Settling, Span

MS = 1_000_000


def span(start: float, end: float | None = None, outcome: str = "ok", who: str = "p") -> Span:
    return Span(who, int(start * MS), int((start + 1 if end is None else end) * MS), outcome)


def history(*groups: Group, kind: str = "normal") -> History:
    """One topic, t, drained."""
    found = History(topics={"t": kind}, groups={group.name: group for group in groups}, runs={"r"}, drained={"r": True})
    return found


def send(body: str, at: float, outcome: str = "ok", *, lane: str | None = None, **more: object) -> Send:
    made = Send(span(at, outcome=outcome), "t", body, lane)
    return replace(made, **more)  # type: ignore[arg-type]


def got(body: str, at: float, group: str = "g", who: str = "c", *, asked: float | None = None, **more: object) -> Delivery:
    made = Delivery(who, group, "t", body, int((at - 1 if asked is None else asked) * MS), int(at * MS))
    return replace(made, **more)  # type: ignore[arg-type]


def at(offset: int, queue: int = 0) -> Place:
    return ("b", queue, offset)


def ack(body: str, when: float, handle: str = "h", outcome: str = "ok", *, hidden_ms: float | None = None) -> Settling:
    return Settling(span(when, outcome=outcome, who="c"), "g", body, handle, hidden_ms)


def decision(body: str, when: float, outcome: str, answer: str = "ok", *, asked: bool = False) -> Decision:
    return Decision(span(when, outcome=answer), body, outcome, asked)


def offsets(when: float, *places: int, looked: bool = False, outcome: str = "ok") -> Offsets:
    named = tuple((("b", queue), offset) for queue, offset in enumerate(places))
    return Offsets(span(when, outcome=outcome), "g", "t", named, looked)


def name(
    what: str, start: float, end: float, value: str | None = None, outcome: str = "ok", *, conflict: bool = False
) -> Register:
    return Register(span(start, end, outcome), "k", what, value, conflict)


def streamed(bodies: Sequence[str], *, group: str = "g", start: float = 100) -> list[Delivery]:
    return [got(body, start + number, group, place=at(number)) for number, body in enumerate(bodies)]


STREAM = Group("g", "t", "stream")
SHARED = Group("g", "t", "shared")
FIFO = Group("g", "t", "shared", fifo=True)
