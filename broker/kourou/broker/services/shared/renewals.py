"""Keeping delivered messages invisible while their consumer lives, so that it may take its time.

A message that was received with renewal has a short lease, which is renewed before it is over, in steps that grow, up to
a limit. When the client has gone its messages come back at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kourou.broker.services.shared.request import Delivery
from kourou.broker.services.shared.service import SharedService
from kourou.core.clock import Clock
from kourou.core.errors import KourouError

AHEAD_MS = 10_000  # renewed when the lease is over so soon
STEPS_MS = (60_000, 180_000, 300_000, 600_000, 1_800_000, 3_600_000)
AGE_MS_MAX = 3 * 3_600_000  # then it comes back, whatever its consumer does
RELEASED_MS = 1_000
A_TURN = 256

Place = tuple[str, int, int, int]  # group, incarnation, queue, queue offset


@dataclass(slots=True)
class _Held:
    client: str
    serial: int
    since_ms: int
    due_ms: int
    steps: int = 0


class Renewals:
    """``tick`` is called every few seconds."""

    def __init__(self, shared: SharedService, *, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._held: dict[Place, _Held] = {}
        self._clients: dict[str, set[Place]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, group: str, incarnation: int, client: str, found: list[Delivery], serials: list[int]) -> None:
        now_ms = self._clock.wall_ms()
        places = self._clients.setdefault(client, set())
        for delivery, serial in zip(found, serials, strict=True):
            place = group, incarnation, delivery.queue, delivery.message.queue_offset
            old = self._held.get(place)
            if old is not None and old.client != client:
                self._forget(place)
            self._held[place] = _Held(client, serial, now_ms, delivery.due_ms)
            places.add(place)

    def released(self, client: str) -> None:
        """The client has gone."""
        now_ms = self._clock.wall_ms()
        for place in list(self._clients.get(client, ())):
            held = self._held[place]
            try:
                self._shared.renew(*place, held.serial, min(held.due_ms, now_ms + RELEASED_MS))
            except KourouError:
                pass  # its lease will be over some time
            self._forget(place)

    def _forget(self, place: Place) -> None:
        held = self._held.pop(place, None)
        if held is not None:
            places = self._clients.get(held.client)
            if places is not None:
                places.discard(place)
                if not places:
                    del self._clients[held.client]

    async def tick(self) -> None:
        now_ms = self._clock.wall_ms()
        done = 0
        for place, held in list(self._held.items()):
            if self._held.get(place) is not held:
                continue  # released, or received anew, meanwhile
            if not self._shared.holds(*place, held.serial):
                self._forget(place)
                continue
            if held.due_ms - now_ms > AHEAD_MS:
                continue
            if now_ms - held.since_ms > AGE_MS_MAX:
                self._forget(place)
                continue
            due_ms = now_ms + STEPS_MS[min(held.steps, len(STEPS_MS) - 1)]
            try:
                if self._shared.renew(*place, held.serial, due_ms):
                    held.due_ms, held.steps = due_ms, held.steps + 1
                else:
                    self._forget(place)
            except KourouError:
                return  # the disk is full, say: the next tick tries again
            done += 1
            if done % A_TURN == 0:
                await asyncio.sleep(0)
