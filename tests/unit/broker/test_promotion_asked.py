"""What a member of an elected group does when an operator wants it to lead: when it asks its master, and how often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kourou.app import failover
from kourou.app.failover import FailoverProcess
from kourou.core.errors import Fenced, NotConnected, NotMaster, OutcomeUnknown

ME = 1


class Group:
    """The election as member 1 sees it. ``then`` says what comes of each request: who leads next."""

    def __init__(self, *then: int | OutcomeUnknown, in_sync: tuple[int, ...] = (0, 1, 2)) -> None:
        self.epoch, self.master, self.in_sync = 5, 0, in_sync
        self.barred: str | None = None
        self.then = list(then)
        self.requests: list[str] = []
        self.process = SimpleNamespace(
            _election=self, node=SimpleNamespace(master=None, epoch=5), options=SimpleNamespace(broker_id=ME)
        )

    def group(self) -> tuple[int, int | None, tuple[int, ...]]:
        return self.epoch, self.master, self.in_sync

    async def request(self, kind: str, to: int) -> None:
        assert to == ME
        self.requests.append(kind)
        found = self.then.pop(0) if self.then else self.master
        if isinstance(found, OutcomeUnknown):
            raise found
        if found != self.master:
            self.epoch, self.master = self.epoch + 1, found
        if found == ME:
            self.process.node = SimpleNamespace(master=object(), epoch=self.epoch, store=SimpleNamespace(end_offset=100))

    async def promote(self, *, accept_loss: bool = False) -> dict[str, Any]:
        return await FailoverProcess._promote(cast(FailoverProcess, self.process), accept_loss, 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "PROMOTE_S", 1.0)
    monkeypatch.setattr(failover, "PROMOTE_PAUSE_S", 0.001)


async def test_it_asks_once() -> None:
    group = Group(ME)
    assert await group.promote() == {"epoch": 6, "log_offset": 100}
    assert group.requests == ["switchover"]


async def test_it_asks_again_when_others_are_faster_but_not_for_ever() -> None:
    group = Group(2, ME)
    assert (await group.promote())["epoch"] == 7
    assert group.requests == ["switchover"] * 2
    unlucky = Group(2, 0, 2, 0, 2, 0)
    with pytest.raises(NotMaster, match=r"member 2 leads epoch 8, in sync are \[0, 1, 2\]; it did not hand over"):
        await unlucky.promote()
    assert len(unlucky.requests) == failover.PROMOTE_TRIES


async def test_a_member_that_is_barred_asks_nobody() -> None:
    """Its master would hand over to it in vain."""
    group = Group(ME)
    group.barred = "its log is damaged"
    with pytest.raises(Fenced, match="this member does not lead: its log is damaged"):
        await group.promote()
    assert group.requests == []


async def test_a_member_that_is_not_in_sync_waits() -> None:
    late = Group(in_sync=(0, 2))
    with pytest.raises(NotMaster, match="1 can't lead before it is in sync"):
        await late.promote()
    assert late.requests == []


async def test_what_etcd_did_not_answer_is_asked_again() -> None:
    group = Group(OutcomeUnknown("no answer"), ME)
    assert (await group.promote())["epoch"] == 6
    never = Group(*[OutcomeUnknown("no answer")] * 1_000)
    with pytest.raises(NotConnected, match="no answer"):
        await never.promote()


async def test_with_a_loss_accepted_it_asks_at_once_and_once() -> None:
    group = Group(in_sync=())
    with pytest.raises(NotMaster):
        await group.promote(accept_loss=True)
    assert group.requests == ["elect"]
