"""In which queue a lite topic lies: asked of its broker, remembered for a while.

All messages of a lite topic go to one broker, chosen by its name, so that they stay in order. The broker is asked again from
time to time: that tells it that the lite topic is in use.
"""

from __future__ import annotations

import asyncio

from kourou.client.cluster import Cluster, is_retryable
from kourou.client.logic.batch import QueueName
from kourou.core.backoff import Backoff
from kourou.core.errors import KourouError, OutcomeUnknown, TopicTypeMismatch
from kourou.core.names import check_lite_topic
from kourou.core.route import TopicRoute
from kourou.core.siphash import message_group_index
from kourou.core.wire import Code

KEPT_S = 60.0
KEPT_MAX = 100_000


class LiteQueues:
    """One of a producer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[tuple[str, int, str], tuple[QueueName, float]] = {}  # topic, version of the route, name

    def known(self, route: TopicRoute, name: str) -> QueueName | None:
        found = self._known.get((route.topic, route.version, name))
        if found is None or found[1] < asyncio.get_running_loop().time():
            return None
        return found[0]

    def place(self, route: TopicRoute, name: str) -> QueueName:
        """Of one that was found just now."""
        return self._known[route.topic, route.version, name][0]

    async def find(self, route: TopicRoute, name: object, *, deadline: float) -> QueueName:
        """Raises IllegalName, TopicTypeMismatch and what the broker answers."""
        if name is None:
            raise TopicTypeMismatch(f"topic {route.topic} has type lite: every message needs a lite_topic")
        lite_topic = check_lite_topic(name)
        found = self.known(route, lite_topic)
        if found is not None:
            return found
        loop = asyncio.get_running_loop()
        brokers = [place.broker for place in route.brokers if place.queues]
        broker = brokers[message_group_index(lite_topic, len(brokers))]
        backoff = Backoff(self._cluster.rng)
        while True:
            try:
                value = {"topic": route.topic, "names": [lite_topic]}
                (queue,) = (await self._cluster.ask_broker(broker, Code.LITE_QUEUES, value))["queues"]
                break
            except KourouError as failure:
                again = is_retryable(failure) or isinstance(failure, OutcomeUnknown)  # asking twice does no harm
                if not again or loop.time() >= deadline:
                    raise
            await asyncio.sleep(backoff.next_ms() / 1000)
        if len(self._known) >= KEPT_MAX:
            self._known.clear()
        place = broker, int(queue)
        self._known[route.topic, route.version, lite_topic] = place, loop.time() + KEPT_S
        return place
