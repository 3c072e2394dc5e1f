"""Who waits for which queue: reads that found nothing and want to be told, for a bounded time.

A waiter is known by a token that its owner chose. It waits for one or more queue keys and is told once: whatever wakes it
(arrival, deadline, removal) takes it out. Nothing here is durable; a restart answers nobody.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from kourou.core.errors import TooManyRequests

Token = TypeVar("Token", bound=Hashable)
WAITING_MAX = 100_000
STALE_MIN = 64  # deadlines of waiters that are gone; the heap is rebuilt when there are more of them than of the others


class WaitingReads(Generic[Token]):
    def __init__(self, *, waiting_max: int = WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._keys: dict[Token, tuple[tuple[int, ...], int]] = {}  # token -> queue keys, serial
        self._waiters: dict[int, dict[Token, None]] = {}  # queue key -> who waits, longest first
        self._deadlines: list[tuple[int, int, Token]] = []  # (deadline, serial, token); serials are unique
        self._serial = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, token: Token, keys: Iterable[int], *, deadline_ms: int) -> None:
        """Wait for any of the queues. Raises TooManyRequests at the bound; the token must not be waiting already."""
        assert token not in self._keys, token
        if len(self._keys) >= self._waiting_max:
            raise TooManyRequests(f"{len(self._keys)} reads wait already; that is the limit", retry_after_ms=1_000)
        self._serial += 1
        wanted = tuple(dict.fromkeys(keys))
        self._keys[token] = (wanted, self._serial)
        for key in wanted:
            self._waiters.setdefault(key, {})[token] = None
        heappush(self._deadlines, (deadline_ms, self._serial, token))

    def arrived(self, keys: Iterable[int]) -> list[Token]:
        """Something came into these queues: whom to wake, each once, in the order of the queues and of waiting."""
        woken: list[Token] = []
        for key in keys:
            for token in list(self._waiters.get(key, ())):
                self.remove(token)
                woken.append(token)
        return woken

    def expire(self, now_ms: int) -> list[Token]:
        """Whose time is over, in the order of their deadlines."""
        expired: list[Token] = []
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            _, serial, token = heappop(self._deadlines)
            if self._lives(token, serial):
                self.remove(token)
                expired.append(token)
        return expired

    def remove(self, token: Token) -> None:
        """The waiter has gone, or is being told. Of one that does not wait: nothing to do."""
        known = self._keys.pop(token, None)
        if known is None:
            return
        for key in known[0]:
            waiters = self._waiters[key]
            del waiters[token]
            if not waiters:
                del self._waiters[key]
        if len(self._deadlines) > 2 * len(self._keys) + STALE_MIN:
            self._deadlines = [entry for entry in self._deadlines if self._lives(entry[2], entry[1])]
            heapify(self._deadlines)

    def deadline_ms(self) -> int | None:
        """When ``expire`` wants to run next."""
        while self._deadlines and not self._lives(self._deadlines[0][2], self._deadlines[0][1]):
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _lives(self, token: Token, serial: int) -> bool:
        known = self._keys.get(token)
        return known is not None and known[1] == serial
