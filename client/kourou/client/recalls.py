"""Taking delayed messages back."""

from __future__ import annotations

import asyncio

from kourou.client.cluster import Cluster, is_retryable
from kourou.client.logic.recalls import parse_recall
from kourou.core.backoff import Backoff
from kourou.core.errors import KourouError
from kourou.core.handles import broker_of
from kourou.core.names import check_topic
from kourou.core.wire import Code


async def recall(cluster: Cluster, topic: str, handle: str) -> str:
    """The id of the message that will not be delivered. Raises InvalidRecallHandle when it was, or was recalled before;
    OutcomeUnknown when the answer was lost."""
    place = parse_recall(handle)
    value: dict[str, object] = {"topic": check_topic(topic)}
    if place is not None:
        broker = place.broker
        value |= {"log_offset": place.log_offset, "record": place.record, "due": place.due_ms}
    else:
        broker = broker_of(handle, 2)
        value["handle"] = handle
    await cluster.route(topic)
    deadline = cluster.deadline()
    backoff = Backoff(cluster.rng)
    while True:
        try:
            return str((await cluster.ask_broker(broker, Code.RECALL, value))["id"])
        except KourouError as failure:
            if not is_retryable(failure) or asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(backoff.next_ms() / 1000)
