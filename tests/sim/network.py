"""The network between hosts: connections that keep their order, delays, and ways that are cut.

A *way* is a direction between two hosts (or from and to the clients, who are one host). While a way is cut, what is sent
on it waits, as with TCP, and comes when the way is open again, unless the connection was given up meanwhile. Messages of
two connections overtake one another; those of one connection never do.

The end of a process closes its connections, which its peers are told (kill), or not (power): then they find out by silence,
or when the host is back and knows nothing of the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from tests.sim.timeline import Action, Timeline

CLIENTS = -1
END = object()  # the last thing on a way: the other end has closed


@dataclass
class Way:
    """One direction of a connection."""

    source: int
    target: int
    waiting: deque[tuple[int, object]] = field(default_factory=deque)  # when it may arrive, what
    ready_us: int = 0  # of the last one
    open: bool = True  # does the receiving end still listen?
    deliver: Callable[[object], None] = lambda _: None
    alive: Callable[[], bool] = lambda: False  # the host of the receiving end is up: what comes too late is answered


@dataclass
class Link:
    """A connection of a slave (its first end) to a master."""

    number: int
    up: Way
    down: Way

    def way_from(self, host: int) -> Way:
        return self.up if host == self.up.source else self.down

    def way_to(self, host: int) -> Way:
        return self.up if host == self.up.target else self.down


class Network:
    def __init__(self, timeline: Timeline, random: Random) -> None:
        self.links: dict[int, Link] = {}
        self.slow_ms: dict[int, float] = {}  # of a host: added to all delays
        self.sent = 0
        self._timeline = timeline
        self._random = random
        self._cuts: dict[tuple[int, int], int] = {}  # ways that are cut, and by how many faults
        self._held: dict[tuple[int, int], list[Action]] = {}
        self._number = 0

    # ---- ways

    def delay_ms(self, source: int, target: int) -> float:
        roll = self._random.random()
        slow = self.slow_ms.get(source, 0.0) + self.slow_ms.get(target, 0.0)
        if roll < 0.02:
            return slow + 5 + 95 * self._random.random()
        return slow + 0.1 + 2 * roll

    def is_cut(self, source: int, target: int) -> bool:
        return (source, target) in self._cuts

    @property
    def cut_anywhere(self) -> bool:
        return bool(self._cuts)

    def cut(self, source: int, target: int) -> None:
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def mend(self, source: int, target: int) -> None:
        left = self._cuts.get((source, target), 0) - 1
        if left > 0:
            self._cuts[source, target] = left
            return
        self._cuts.pop((source, target), None)
        for action in self._held.pop((source, target), []):
            self._timeline.after_ms(self.delay_ms(source, target), action)
        for link in list(self.links.values()):
            for way in (link.up, link.down):
                if (way.source, way.target) == (source, target):
                    self._pump(link, way)

    def carry(self, source: int, target: int, action: Action) -> None:
        """One request or answer, on a connection of its own."""

        def arrive() -> None:
            if self.is_cut(source, target):
                self._held.setdefault((source, target), []).append(action)
            else:
                action()

        self._timeline.after_ms(self.delay_ms(source, target), arrive)

    # ---- connections

    def connect(self, source: int, target: int) -> Link:
        """Who connects sets what is done with messages before the first one comes."""
        self._number += 1
        link = Link(self._number, Way(source, target), Way(target, source))
        self.links[link.number] = link
        return link

    def send(self, link: Link, host: int, message: object) -> None:
        way = link.way_from(host)
        if not link.way_to(host).open:
            return
        self.sent += 1
        way.ready_us = max(way.ready_us, self._timeline.now_us + int(1000 * self.delay_ms(way.source, way.target)))
        way.waiting.append((way.ready_us, message))
        self._timeline.at_us(way.ready_us, lambda: self._pump(link, way))

    def close(self, link: Link, host: int, *, silently: bool = False) -> None:
        """This end neither sends nor hears any more."""
        if not link.way_to(host).open:
            return
        if not silently:
            self.send(link, host, END)
        link.way_to(host).open = False
        if not link.up.open and not link.down.open:
            self.links.pop(link.number, None)

    def reset(self, link: Link) -> None:
        """The connection breaks: what is under way is lost, both ends are told."""
        for way in (link.up, link.down):
            way.waiting.clear()
            if way.open:
                way.ready_us = self._timeline.now_us + int(1000 * self.delay_ms(way.source, way.target))
                way.waiting.append((way.ready_us, END))
                self._timeline.at_us(way.ready_us, partial(self._pump, link, way))

    def of(self, host: int) -> list[Link]:
        return [link for link in self.links.values() if host in (link.up.source, link.up.target)]

    def _pump(self, link: Link, way: Way) -> None:
        while way.waiting and way.waiting[0][0] <= self._timeline.now_us and not self.is_cut(way.source, way.target):
            _, message = way.waiting.popleft()
            if way.open:
                way.deliver(message)
            elif message is not END and way.alive():
                way.waiting.clear()
                back = link.way_from(way.target)
                if back.open:  # "connection reset by peer"
                    back.ready_us = max(back.ready_us, self._timeline.now_us + 1000)
                    back.waiting.append((back.ready_us, END))
                    self._timeline.at_us(back.ready_us, partial(self._pump, link, back))
