"""Having a group read a topic from somewhere else, whatever its shape."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kourou.broker.services.positions import PositionService, Start, chosen
from kourou.broker.services.shared.service import SharedService
from kourou.broker.services.state import BrokerState
from kourou.broker.services.subscriptions import SubscriptionService
from kourou.core.route import GroupShape

PORTION = 1_000  # queues of one record


class Resets:
    def __init__(
        self, state: BrokerState, positions: PositionService, subscriptions: SubscriptionService, shared: SharedService
    ) -> None:
        self._state = state
        self._positions = positions
        self._subscriptions = subscriptions
        self._shared = shared

    async def reset(
        self, group: str, topic: str, queues: Iterable[int] | None, start: Start
    ) -> list[tuple[int, int | None, int]]:
        """(queue, from, to) of each. What a shared group has open is forgotten: handles of it are good no more."""
        if self._state.groups.get(group).shape is not GroupShape.SHARED:
            return await self._subscriptions.reset(group, topic, queues, start)
        known = self._state.topics.get(topic)
        wanted = chosen(known, queues)
        moves: list[tuple[int, int | None, int]] = []
        for first in range(0, len(wanted), PORTION):
            places: list[tuple[int, int]] = []
            for queue in wanted[first : first + PORTION]:
                ledger = self._state.shared.find(group, known.incarnation, queue)
                target = self._positions.resolve(known.incarnation << 32 | queue, start)
                moves.append((queue, ledger.floor if ledger is not None else None, target))
                places.append((queue, target))
            await self._shared.reset(group, known.incarnation, places)
            await asyncio.sleep(0)
        return moves
