"""What all connections of a process have under way, and whose turn it is: memory and the loop's time are shared out here.

Three things can be short, and each has its own line to wait in:

- **Requests** that are received and not answered. Who goes over its own bound, or adds more than a little when the bound
  of all is reached, is not read from until half of it is settled.
- **Parts of messages** that are not whole yet. When these and the requests together are over the bound of all, whoever
  has much of a message waits, but for one: it may go on until its message is whole, so somebody always gets on. Who is
  allowed to go on and says nothing for a while is cut off.
- **The loop's time.** What one read brought is handled for ``SLICE_S`` at most; the rest, and whatever else its sender
  has sent, waits for a turn, and all who wait share one slice in each turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

SLICE_S = 0.002
LATE_S = 0.004  # a turn of the loop that took longer had too many tasks started in it
STARTS_MAX = 32  # tasks that a slice may start: what they do until they first wait happens in the next turn
SMALL_BYTES = 16 * 1024  # who has no more under way never waits for others; an idle receive buffer takes as much


class Waiting(Protocol):
    """A connection, as far as it waits here."""

    in_flight: int  # bytes of its requests that are not settled
    partial: int  # bytes of its message that is not whole

    def work(self, until: float) -> None:
        """Handle what was received; get in line again when it isn't all done by then."""

    def release(self) -> None:
        """Receive again."""


class Load:
    def __init__(self, *, own_max: int, total_max: int, now: Callable[[], float]) -> None:
        self.in_flight = 0
        self.partial = 0
        self.starts = STARTS_MAX
        self.own_max = own_max
        self.total_max = total_max
        self._now = now
        self._held: dict[Waiting, None] = {}  # for their requests
        self._unfinished: dict[Waiting, None] = {}  # for their parts of messages; the first goes on next
        self._going_on: Waiting | None = None
        self._behind: deque[Waiting] = deque()
        self._coming = False  # a turn for those behind
        self._turned_at = 0.0  # of the last turn, while there is one after the other

    # ---- memory

    @property
    def short(self) -> bool:
        """Whether who has much of a message has to wait."""
        return self.in_flight + self.partial > self.total_max

    def must_wait(self, peer: Waiting) -> bool:
        """Whether a connection that has received something must not receive more; ``release`` follows then."""
        if peer.in_flight > self.own_max or (self.in_flight > self.total_max and peer.in_flight > SMALL_BYTES):
            self._held[peer] = None
            return True
        if peer.partial <= SMALL_BYTES or not self.short:
            return False
        if self._going_on is None:
            self._going_on = peer
        if self._going_on is peer:
            return False
        self._unfinished[peer] = None
        return True

    def portion(self, peer: Waiting, buffer: memoryview) -> memoryview:
        """How much may be received at once while memory is short: many together would go far over the bound else."""
        return buffer if peer is self._going_on else buffer[:SMALL_BYTES]

    def settled(self, peer: Waiting) -> None:
        """A connection that waits, or waited, has answered something: it may go on, or others may."""
        if peer in self._held and peer.in_flight <= self.own_max // 2 and self.in_flight <= self.total_max:
            del self._held[peer]
            peer.release()
        self.relieve()

    def whole(self, peer: Waiting) -> None:
        """A message has become whole, or never will: the next in line goes on with its own."""
        if self._going_on is peer:
            self._going_on = None
            if self._unfinished:
                self._going_on = following = next(iter(self._unfinished))
                del self._unfinished[following]
                following.release()

    def gone(self, peer: Waiting) -> None:
        self.in_flight -= peer.in_flight
        self.partial -= peer.partial
        peer.in_flight = peer.partial = 0
        self._held.pop(peer, None)
        self._unfinished.pop(peer, None)
        self.whole(peer)
        self.relieve()

    def relieve(self) -> None:
        """Let those go on for whom there is room again."""
        half = self.total_max // 2
        if self._held and self.in_flight <= half:
            for peer in [peer for peer in self._held if peer.in_flight <= self.own_max // 2]:
                del self._held[peer]
                peer.release()
        if self._unfinished and self.in_flight + self.partial <= half:
            waiting, self._unfinished = self._unfinished, {}
            for peer in waiting:
                peer.release()

    # ---- the loop's time

    def get_in_line(self, peer: Waiting) -> None:
        """A connection has more to handle than fits its slice."""
        self._behind.append(peer)
        if not self._coming:
            self._coming = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        now = self._now()
        late = self._turned_at and now - self._turned_at > LATE_S
        self.starts = max(1, self.starts // 2) if late else min(STARTS_MAX, self.starts + 1)
        self._turned_at = now
        until = now + SLICE_S
        for _ in range(len(self._behind)):
            self._behind.popleft().work(until)
            if self._now() >= until:
                break
        self._coming = bool(self._behind)
        if self._coming:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._turned_at = 0.0
