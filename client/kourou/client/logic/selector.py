"""Whose turn it is: which queue of a topic gets the next batch. Pure.

Brokers take turns in proportion to their queues, interleaved (smooth weighted round robin, as nginx has it since 1.3.1),
and within a broker its queues go round. A choice costs O(brokers), whatever the number of queues.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kourou.client.logic.batch import QueueName
from kourou.core.route import TopicRoute

UNUSABLE, AVOIDED, GOOD = 0, 1, 2  # what a broker is ranked


class _Turn:
    __slots__ = ("broker", "credit", "next", "queues", "rank")

    def __init__(self, broker: str, queues: int, first: int) -> None:
        self.broker = broker
        self.queues = queues
        self.next = first
        self.credit = 0
        self.rank = UNUSABLE


class Selector:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._topics: dict[str, tuple[TopicRoute, list[_Turn]]] = {}
        self._declared: dict[str, tuple[TopicRoute, tuple[QueueName, ...]]] = {}

    def choose(self, route: TopicRoute, rank: Callable[[str], int]) -> QueueName | None:
        """The next queue in turn whose broker can take a batch; one of an avoided broker only when there is no other."""
        turns = self._turns(route)
        best = UNUSABLE
        for turn in turns:
            turn.rank = rank(turn.broker)
            best = max(best, turn.rank)
        if best == UNUSABLE:
            return None
        chosen: _Turn | None = None
        total = 0
        for turn in turns:
            if turn.rank == best:
                turn.credit += turn.queues
                total += turn.queues
                if chosen is None or turn.credit > chosen.credit:
                    chosen = turn
        assert chosen is not None
        chosen.credit -= total
        queue = chosen.next
        chosen.next = (queue + 1) % chosen.queues
        return chosen.broker, queue

    def _turns(self, route: TopicRoute) -> list[_Turn]:
        known = self._topics.get(route.topic)
        if known is not None and known[0] is route:
            return known[1]
        before = {turn.broker: turn for turn in known[1]} if known is not None else {}
        turns: list[_Turn] = []
        for place in route.brokers:
            if place.queues:
                old = before.get(place.broker)
                first = old.next if old is not None and old.next < place.queues else self._rng.randrange(place.queues)
                turns.append(_Turn(place.broker, place.queues, first))
        self._topics[route.topic] = (route, turns)
        return turns

    def declared(self, route: TopicRoute) -> tuple[QueueName, ...]:
        """All queues of a topic in their stable order, which message groups are hashed over."""
        known = self._declared.get(route.topic)
        if known is None or known[0] is not route:
            known = self._declared[route.topic] = (route, route.queues)
        return known[1]

    def forget(self, topic: str) -> None:
        self._topics.pop(topic, None)
        self._declared.pop(topic, None)
