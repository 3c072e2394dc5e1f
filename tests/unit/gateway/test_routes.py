"""In which order clients are told of queues."""

from __future__ import annotations

import pytest

from kourou.core.route import BrokerRoute, TopicRoute, TopicType
from kourou.gateway.routes import ordered_queues

BROKERS = (BrokerRoute("a", 2, 1, None), BrokerRoute("b", 3, 1, None))


@pytest.mark.parametrize("kind", [kind for kind in TopicType if kind is not TopicType.FIFO])
def test_brokers_take_turns(kind: TopicType) -> None:
    queues = ordered_queues(TopicRoute("t", kind, 1, BROKERS))
    assert queues == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2)]


def test_message_groups_keep_their_queues() -> None:
    route = TopicRoute("t", TopicType.FIFO, 1, BROKERS)
    assert ordered_queues(route) == list(route.queues)
