"""What the history of a shared group's consumers must not show: pure, as ``checkers``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.sim.sharing import Receipt


@dataclass(frozen=True, slots=True)
class Got:
    """A message was handed out: asked for, and told, at these times."""

    consumer: str
    receipt: Receipt
    name: str
    asked_us: int
    got_us: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The answer to an acknowledgement was OK."""

    consumer: str
    receipt: Receipt
    sent_us: int
    told_us: int


Event = Got | Acknowledged


def _place(event: Event) -> tuple[int, int]:
    return event.receipt.queue, event.receipt.offset


def acknowledged_is_over(history: Sequence[Event]) -> Iterator[str]:
    """Whoever asks after an acknowledgement was told OK does not get the message."""
    over: dict[tuple[int, int], int] = {}
    for event in history:
        if isinstance(event, Acknowledged):
            over.setdefault(_place(event), event.told_us)
    for event in history:
        if isinstance(event, Got) and event.asked_us > over.get(_place(event), 1 << 62):
            yield f"again: {event.consumer} got {event.name} at {_place(event)}, which was acknowledged before it asked"


def one_owner(history: Sequence[Event]) -> Iterator[str]:
    """A receipt is good for nothing from the moment at which somebody else has a later one of the same message."""
    got: dict[tuple[int, int], list[Got]] = {}
    for event in history:
        if isinstance(event, Got):
            got.setdefault(_place(event), []).append(event)
    for event in history:
        if not isinstance(event, Acknowledged):
            continue
        mine = next((g for g in got.get(_place(event), ()) if g.receipt == event.receipt), None)
        for other in got.get(_place(event), ()):
            if mine is not None and other.asked_us > mine.got_us and other.got_us < event.sent_us:
                yield (
                    f"two owners: {event.consumer} acknowledged {mine.name} by {event.receipt}, "
                    f"which {other.consumer} had got by {other.receipt}"
                )


def one_name(history: Sequence[Event]) -> Iterator[str]:
    """A queue offset is one message, whoever gets it."""
    names: dict[tuple[int, int], str] = {}
    for event in history:
        if isinstance(event, Got) and names.setdefault(_place(event), event.name) != event.name:
            yield f"changed: {event.consumer} got {event.name} at {_place(event)}, others {names[_place(event)]}"


def check(history: Sequence[Event]) -> list[str]:
    return [fault for checker in (acknowledged_is_over, one_owner, one_name) for fault in checker(history)]
