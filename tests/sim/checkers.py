"""What a history of clients must not show: pure functions from a history to the sentences that say what is wrong.

They are tested on histories with one thing wrong each, so that silence means something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PLAIN, DELAYED, HALF = "plain", "delayed", "half"


@dataclass(slots=True)
class Sent:
    """A frame of a producer; ``outcome`` is ok, refused, unknown, or None while it is under way."""

    producer: int
    queue: int
    names: tuple[str, ...]
    outcome: str | None = None
    kind: str = PLAIN
    ending: str = ""  # of a half message: what its producer decides, if anything
    ended: str | None = None  # ok, or what it was told instead


@dataclass(frozen=True, slots=True)
class Received:
    consumer: int
    queue: int
    offset: int
    name: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that was acknowledged: the next offset of each queue."""

    consumer: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """What a consumer was told is committed."""

    consumer: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A consumer came too late: retention had deleted these offsets."""

    consumer: int
    queue: int
    start: int
    end: int


@dataclass(slots=True)
class History:
    """In the order in which clients saw it."""

    sent: list[Sent] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    committed: list[Committed | Looked] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    ended: dict[int, list[int]] = field(
        default_factory=dict
    )  # where consumers were in each queue as they ended, if more may come
    lost: set[str] = field(default_factory=set)  # names that were lost where the promise allows for it
    rewound: dict[int, int] = field(default_factory=dict)  # queues of which something was lost, from an offset on
    commits_lost: bool = False  # perhaps, where the promise allows for it


Queues = Mapping[int, Sequence[str]]  # what a queue holds in the end, in order


def total_queue(history: History, queues: Queues) -> Iterator[str]:
    """What was acknowledged is there, once; what was refused, or never sent, is not."""
    count: dict[str, int] = {}
    for names in queues.values():
        for name in names:
            count[name] = count.get(name, 0) + 1
    attempted: set[str] = set()
    for sent in history.sent:
        attempted.update(sent.names)
        for name in sent.names:
            if sent.outcome == "ok" and sent.kind != HALF and name not in count and name not in history.lost:
                yield f"lost: {name} was acknowledged"
            if sent.outcome == "refused" and name in count:
                yield f"unexpected: {name} was refused"
    for name, times in count.items():
        if name not in attempted:
            yield f"unexpected: {name} was never sent"
        if times > 1:
            yield f"duplicated: {name} is there {times} times"


def decisions(history: History, queues: Queues) -> Iterator[str]:
    """A half message is seen when its producer has decided so, and then it is; in all other cases it never is."""
    seen = {name for names in queues.values() for name in names}
    for sent in history.sent:
        for name in sent.names if sent.kind == HALF else ():
            if name in seen and sent.ending != "commit":
                yield f"undecided: {name} is seen, its producer decided {sent.ending or 'nothing'}"
            if name not in seen and (sent.ending, sent.ended) == ("commit", "ok") and name not in history.lost:
                yield f"lost: {name} was committed"


def order(history: History, queues: Queues) -> Iterator[str]:
    """In each queue, what one producer sent comes in the order in which it was sent; a frame stays together."""
    wanted: dict[tuple[int, int], list[str]] = {}
    owner: dict[str, tuple[int, int]] = {}
    for sent in history.sent:
        for name in sent.names if sent.kind == PLAIN else ():
            wanted.setdefault((sent.producer, sent.queue), []).append(name)
            owner[name] = sent.producer, sent.queue
    for queue, names in queues.items():
        last: dict[tuple[int, int], int] = {}
        places = {key: {name: number for number, name in enumerate(found)} for key, found in wanted.items()}
        for name in names:
            key = owner.get(name)
            if key is None:
                continue
            if key[1] != queue:
                yield f"misplaced: {name} is in queue {queue}, it was sent to {key[1]}"
            place = places[key][name]
            if place < last.get(key, -1):
                yield f"swapped: {name} comes behind {wanted[key][last[key]]} in queue {queue}"
            last[key] = max(place, last.get(key, -1))


def received_once_is_final(history: History, queues: Queues) -> Iterator[str]:
    """Whoever read an offset, ever and from whichever replica, saw what is there in the end."""
    for seen in history.received:
        held = queues.get(seen.queue, ())
        if seen.offset >= history.rewound.get(seen.queue, 1 << 62):
            continue
        what = f"consumer {seen.consumer} read {seen.name} at {seen.queue}:{seen.offset}"
        if seen.offset >= len(held):
            yield f"ahead: {what}; the queue ends at {len(held)}"
        elif held[seen.offset] != seen.name:
            yield f"changed: {what}; {held[seen.offset]} is there"


def nothing_skipped(history: History, queues: Queues) -> Iterator[str]:
    """Each consumer received everything that is in the queues, except what was deleted before it came."""
    seen: dict[int, set[tuple[int, int]]] = {}
    for received in history.received:
        seen.setdefault(received.consumer, set()).add((received.queue, received.offset))
    for gap in history.skipped:
        seen.setdefault(gap.consumer, set()).update((gap.queue, offset) for offset in range(gap.start, gap.end))
    for consumer, places in seen.items():
        ended = history.ended.get(consumer)
        for queue, held in queues.items():
            end = len(held) if ended is None else ended[queue]
            for offset, name in enumerate(held[: min(end, history.rewound.get(queue, end))]):
                if (queue, offset) not in places:
                    yield f"skipped: consumer {consumer} never received {name}, which is at {queue}:{offset}"


def offsets(history: History, queues: Queues) -> Iterator[str]:
    """Committed offsets never go back, and never pass the end of the queue."""
    last: dict[int, tuple[int, ...]] = {}
    for event in history.committed if not history.rewound else ():
        before = last.get(event.consumer)
        if before is not None and any(now < then for now, then in zip(event.places, before, strict=True)):
            if not isinstance(event, Looked):
                last[event.consumer] = tuple(map(max, event.places, before))
                continue
            if not history.commits_lost:
                yield f"gone back: consumer {event.consumer} is told {event.places}, it had committed {before}"
        last[event.consumer] = event.places
        for queue, place in enumerate(event.places):
            if place > len(queues.get(queue, ())):
                yield f"beyond: consumer {event.consumer} has committed {place} of queue {queue}"


ALL = (total_queue, decisions, order, received_once_is_final, nothing_skipped, offsets)


def check(history: History, queues: Queues) -> list[str]:
    return [fault for checker in ALL for fault in checker(history, queues)]
