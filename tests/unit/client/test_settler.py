"""What those are told who acknowledge, when answers are lost and brokers are away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from kourou.client.cluster import Cluster
from kourou.client.shared.settler import Settler
from kourou.core.errors import DeadlineExceeded, KourouError, NotConnected, OutcomeUnknown


class FakeCluster:
    """A broker that loses some answers, and is away afterwards."""

    def __init__(self, *answers: KourouError) -> None:
        self.rng = random.Random(1)
        self.answers = list(answers)
        self.tasks: list[asyncio.Task[Any]] = []

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))
        return self.tasks[-1]

    def connected(self, broker: str) -> FakeCluster | None:
        return self if self.answers else None

    async def broker(self, broker: str) -> FakeCluster:
        if self.answers:
            return self
        raise NotConnected("nobody is there")

    async def ask(self, code: int, **asked: object) -> None:
        raise self.answers.pop(0)


def settler_of(cluster: FakeCluster) -> Settler:
    return Settler(cast(Cluster, cluster), "b", "g", asyncio.get_running_loop())


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([], (NotConnected, DeadlineExceeded)),
        ([NotConnected("closed")], (NotConnected, DeadlineExceeded)),
        ([OutcomeUnknown("the connection ended")], OutcomeUnknown),
        ([OutcomeUnknown("the connection ended"), NotConnected("closed")], OutcomeUnknown),
    ],
)
async def test_after_a_lost_answer_nobody_is_told_that_nothing_happened(
    answers: list[KourouError], told: type[KourouError] | tuple[type[KourouError], ...]
) -> None:
    """A consumer that hears of a failure expects the message again; it never comes when the first attempt was stored."""
    for act in ("ack", "bury"):
        settler = settler_of(FakeCluster(*answers))
        with pytest.raises(told):
            if act == "ack":
                await settler.ack(b"handle", timeout_s=0.2)
            else:
                await settler.bury(b"handle", "bad", timeout_s=0.2)
        await settler.drain(5)
