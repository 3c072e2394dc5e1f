"""The elector's driver, two of them over one model of etcd; the rest of the broker is a list of what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from kourou.broker.machines.election import Candidate, ElectionOptions, Position
from kourou.broker.machines.electionstate import Keys
from kourou.broker.services.election.election import Election
from kourou.broker.services.election.roles import Follow, Lead
from kourou.core.errors import NotConnected
from kourou.runtime.clock import BootClock
from tests.sim.coordination import ModelCoordination, Truth

LIMIT_S = 30.0


class Silent:
    def info(self, event: str, **fields: Any) -> None: ...

    warning = error = info


class Rest:
    """``Roles`` that remember."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.asked: list[int] = []
        self.answers_pledges = False

    def fence(self, reason: str) -> None:
        self.told.append(f"fenced: {reason}")

    async def quiet(self) -> Position:
        self.told.append("quiet")
        return Position(0, 0)

    async def lead(self, term: Lead) -> None:
        self.told.append(term)

    async def follow(self, master: Follow) -> None:
        self.told.append(master)

    async def wait(self, reason: str) -> None:
        self.told.append(reason)

    def decided(self, epoch: int, sss: tuple[int, ...], elr: tuple[int, ...]) -> None:
        self.told.append((epoch, sss, elr))

    def renewed(self) -> None: ...

    async def drain(self, to: int | None) -> bool:
        self.told.append(f"drain to {to}")
        return True

    def resume(self) -> None:
        self.told.append("resume")

    async def ask_pledge(self, replica: int, address: str, epoch: int) -> bool:
        self.asked.append(replica)
        if not self.answers_pledges:
            raise NotConnected("away")
        return True

    def position(self) -> Position:
        return Position(0, 0)

    def load(self) -> dict[str, float]:
        return {}

    def halt(self, reason: str) -> None:
        self.told.append(f"halt: {reason}")


class One:
    def __init__(self, replica: int, truth: Truth) -> None:
        self.store = ModelCoordination(truth)
        self.rest = Rest()
        self.bugs: list[str] = []
        self.deadlines: list[int | None] = []
        me = Candidate(replica, f"disk-{replica}", f"nonce-{replica}", frozenset(), f"h{replica}:1", False, Position(0, 0))
        self.election = Election(
            self.store, me, Keys("c", "g"), ElectionOptions(), self.rest, clock=BootClock(), log=Silent(),
            on_bug=self.bugs.append, on_deadline=self.deadlines.append,
        )  # fmt: skip
        self.election.start()

    def leads(self) -> bool:
        return any(isinstance(told, Lead) for told in self.rest.told)


@asynccontextmanager
async def members(count: int) -> AsyncIterator[list[One]]:
    truth = Truth()
    made: list[One] = []
    try:
        for replica in range(count):
            made.append(One(replica, truth))
            await until(made[0].leads)
            await until(lambda: len(made[0].election.elector.view.replicas) == len(made))
        yield made
    finally:
        for one in made:
            await one.election.close()
            assert one.bugs == []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_first_leads_and_hands_over_when_it_leaves() -> None:
    async with members(2) as (first, second):
        await until(lambda: any(isinstance(told, Follow) and told.master == 0 for told in second.rest.told))
        assert first.election.leads()
        assert first.rest.told[-1].sss == (0,)
        first.election.set_wanted(1, frozenset({0, 1}), {1: "disk-1.nonce-1"})
        await until(lambda: (1, (0, 1), ()) in first.rest.told)
        await first.election.leave(LIMIT_S)
        assert "drain to 1" in first.rest.told
        assert "fenced: it hands over to 1" in first.rest.told
        await until(second.leads)
        assert second.rest.told.index("quiet") < len(second.rest.told) - 1
        assert second.election.status()["epoch"] == 2


async def test_a_lost_answer_does_not_matter() -> None:
    async with members(2) as (first, _):
        first.store.lose_next = True
        first.election.set_wanted(1, frozenset({0, 1}), {1: "disk-1.nonce-1"})
        await until(lambda: (1, (0, 1), ()) in first.rest.told)


async def test_without_etcd_it_asks_for_pledges_and_then_stops() -> None:
    async with members(2) as (first, _):
        first.election.set_wanted(1, frozenset({0, 1}), {1: "disk-1.nonce-1"})
        await until(lambda: (1, (0, 1), ()) in first.rest.told)
        first.store.away = True
        await until(lambda: first.rest.asked == [1] or len(first.rest.asked) > 1)
        await until(lambda: any(str(told).startswith("fenced") for told in first.rest.told))
        assert not first.election.leads()
