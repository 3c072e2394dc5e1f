"""Everything that was ever confirmed, and what follows from it, folded by the simulator itself.

Where the promise allows a loss (``ack = local``, an operator who accepts one) the truth is cut back to what the next
master has; what was lost is remembered by name. Everywhere else it only grows.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kourou.core.frame import HALF_ROOM, TIMER_ROOM
from kourou.core.sources import Reason
from tests.sim.contents import Content, Records
from tests.sim.violation import Violation

if TYPE_CHECKING:
    from tests.sim.host import Frames, Host

Place = tuple[int, int]  # log offset of the frame, record in it
Lease = tuple[str, int, int]  # group, queue, queue offset


@dataclass
class Folded:
    """What a reader of the confirmed log knows."""

    queues: dict[int, list[str]] = field(default_factory=dict)  # what is in each queue, and in the rooms beside it
    timers: dict[Place, int] = field(default_factory=dict)  # what waits for its time
    halves: dict[Place, str] = field(default_factory=dict)  # what waits for a decision
    decided: dict[str, str] = field(default_factory=dict)  # by name
    leases: dict[Lease, int] = field(default_factory=dict)  # until when a message is somebody's
    settled: set[Lease] = field(default_factory=set)
    clocks_jump: bool = False  # what a clock said before says nothing about now

    def add(self, content: Content | Records) -> None:
        if isinstance(content, Records):
            for record in content.records:
                self._record(record, content.store_ms)
            return
        queue = self.queues.setdefault(content.queue, [])
        if content.queue_offset != len(queue):
            raise Violation(f"4: queue offset {content.queue_offset} was given out; {len(queue)} follows")
        queue += content.names
        for number, name in enumerate(content.names):
            if content.queue & TIMER_ROOM:
                self.timers[content.log_offset, number] = content.due_ms[number]
            elif content.queue & HALF_ROOM:
                self.halves[content.log_offset, number] = name
        for source, name in zip(content.sources, content.names, strict=bool(content.sources)):
            self._moved(source.reason, (source.log_offset, source.record), name, content.store_ms)

    def _moved(self, reason: int, place: Place, name: str, store_ms: int) -> None:
        if reason == Reason.TIMER:
            due_ms = self.timers.pop(place, None)
            if due_ms is None:
                raise Violation(f"21: {name} is delivered, but nothing waits at {place}")
            if store_ms < due_ms and not self.clocks_jump:
                raise Violation(f"21: {name} is delivered {due_ms - store_ms} ms early, by its master's own clock")
        elif reason == Reason.COMMIT:
            if self.halves.pop(place, None) != name:
                raise Violation(f"22: {name} is committed, but was decided before, or never was")
            self.decided[name] = "commit"

    def _record(self, record: dict[str, Any], store_ms: int) -> None:
        match record["t"]:
            case "tx-":
                for at, number in record["e"]:
                    name = self.halves.pop((at, number), None)
                    if name is None:
                        raise Violation(f"22: what lay at {at} is rolled back, but was decided before")
                    self.decided[name] = "rollback"
            case "out":
                for offset in record["o"]:
                    lease = record["g"], record["q"], offset
                    if lease in self.settled:
                        raise Violation(f"23: {lease} is handed out, but was acknowledged")
                    if store_ms < self.leases.get(lease, store_ms) and not self.clocks_jump:
                        raise Violation(f"23: {lease} is handed out while it is somebody else's")
                    self.leases[lease] = record["d"]
            case "ack":
                for queue, offsets in record["e"]:
                    self.settled.update((record["g"], queue, offset) for offset in offsets)
            case "due":
                for queue, offset, due_ms, _ in record["e"]:
                    self.leases[record["g"], queue, offset] = due_ms


class Truth:
    """The log below the highest C that any member ever had: checksums by frame end."""

    def __init__(self) -> None:
        self.end = 0
        self.sums: dict[int, int] = {0: 0}
        self.folded = Folded()
        self.lost: set[str] = set()  # names that were confirmed, and are not any more
        self.rewound: dict[int, int] = {}  # queues, and the lowest offset that was lost
        self.rewinds = 0
        self.disbelieved = False  # somebody who was no longer the master has confirmed something all the same
        self._contents: list[tuple[int, Content | Records]] = []  # (end of the frame, what it says)

    @property
    def queues(self) -> dict[int, list[str]]:
        """What consumers may see."""
        return {queue: names for queue, names in self.folded.queues.items() if not queue & (TIMER_ROOM | HALF_ROOM)}

    def grow(self, host: Host, confirm: int, frames: Frames) -> None:
        first = bisect_right(host.places, (self.end, 1 << 62, 0))
        for end, start, epoch in host.places[first:]:
            if end > confirm:
                break
            self.sums[end] = host.ends[end]
            content = frames.contents.get((epoch, start))
            if content is not None:
                self._contents.append((end, content))
                self.folded.add(content)
        self.end = confirm

    def is_in(self, host: Host) -> bool:
        return host.has(self.end, self.sums[self.end])

    def rewind(self, host: Host, frames: Frames) -> int:
        """To what this host has of it; how many bytes are lost."""
        place = max((end for end, checksum in host.ends.items() if self.sums.get(end) == checksum), default=0)
        if place == 0 and host.epochs and host.known_start:
            place = host.known_start
            if frames.before(host.epochs[0][0], place) != self.sums.get(place):
                raise Violation(f"4: the log of {host.replica}, from {place} on, has nothing of what is confirmed")
        bytes_lost = self.end - place
        kept = [(end, content) for end, content in self._contents if end <= place]
        for _, content in self._contents[len(kept) :]:
            if isinstance(content, Content):
                self.give_up(content)
        self._contents = kept
        self.sums = {end: checksum for end, checksum in self.sums.items() if end <= place}
        self.end, self.rewinds = place, self.rewinds + 1
        self.folded = Folded(clocks_jump=self.folded.clocks_jump)
        for _, content in kept:
            self.folded.add(content)
        return bytes_lost

    def give_up(self, content: Content) -> None:
        """It was acknowledged by somebody who is not, or no longer, believed."""
        self.lost.update(content.names)
        self.rewound[content.queue] = min(self.rewound.get(content.queue, 1 << 62), content.queue_offset)
