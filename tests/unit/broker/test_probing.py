"""Is the process of a master that does not answer gone? One asks for all who want to know."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kourou.app import failover
from kourou.app.failover import FailoverProcess
from kourou.app.options import BrokerOptions
from kourou.broker.machines.election import Follow
from kourou.core.route import Endpoint


class Silent:
    """Where to log."""

    def info(self, event: str, **facts: object) -> None: ...


async def test_one_probe_at_a_time_for_each_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    go_on = asyncio.Event()

    async def has_ended(address: str, refused: Any) -> bool:
        asked.append(address)
        await go_on.wait()
        return False

    monkeypatch.setattr(failover, "has_ended", has_ended)
    options = BrokerOptions(data=tmp_path, nameservers=(Endpoint("127.0.0.1", 1),), failover="etcd", etcd="127.0.0.1:1")
    process = FailoverProcess(options, log=Silent())
    old, new = Follow(5, 0, "h0:1", ()), Follow(6, 2, "h2:1", ())
    for target in (old, old, new, old, new):
        process._look_for(target)
        await asyncio.sleep(0)
    assert asked == ["h0:1", "h2:1"]
    go_on.set()
    while process._works:
        await asyncio.sleep(0)
    process._look_for(old)  # that one was not gone: it is asked again
    while process._works:
        await asyncio.sleep(0)
    assert asked == ["h0:1", "h2:1", "h0:1"]
