"""The wall clock steps back by an hour: nothing is refused, lost or deleted too early, look-ups by time stay right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from kourou.app.node import BrokerNode
from kourou.app.options import BrokerOptions
from kourou.broker.services.produce import FrameResult
from kourou.core.clock import ManualClock
from kourou.core.frame import seal
from kourou.core.route import Placement, TopicType

HOUR_MS = 3_600_000


class Nodes:
    """A broker without sockets, on a clock that is moved by hand."""

    def __init__(self, data: Path, clock: ManualClock, **options: Any) -> None:
        self.node = BrokerNode(BrokerOptions(data=data, **options), log=structlog.get_logger(), on_failure=self.failed)
        self.node.clock = clock  # type: ignore[assignment]
        self.node.open()

    def failed(self, reason: str) -> None:
        raise AssertionError(reason)

    def produce(self, body: bytes) -> FrameResult:
        found: list[FrameResult] = []
        sealed = seal(topic="t", queue_id=0, records=[body], born_ms=self.node.clock.wall_ms())
        self.node.produce.produce(memoryview(sealed), 1, found.extend)
        self.node.journal._commit_turn()
        (result,) = found
        assert result.error is None
        return result


async def test_the_wall_clock_steps_back(tmp_path: Path) -> None:
    clock = ManualClock()
    nodes = Nodes(tmp_path / "data", clock, segment_bytes=64 * 1024, snapshot_bytes=64 * 1024, retention_hours=2)
    node = nodes.node
    await node.admin.create_topic("t", TopicType.NORMAL, (Placement("broker-a", 1),), automatic=False)
    key = node.state.topics.get("t").incarnation << 32
    for number in range(20):
        assert nodes.produce(bytes(10_000)).queue_offset == number
        clock.advance(60_000)
    before_ms = clock.wall_ms()
    clock.jump_wall(-HOUR_MS)
    for number in range(20, 40):
        assert nodes.produce(bytes(10_000)).queue_offset == number
        clock.advance(60_000)
    await node.upkeep.seal()
    await node.upkeep.snapshot()
    nodes.produce(b"x")
    await node.upkeep.snapshot()
    await node.upkeep.retain()
    assert node.positions.bounds(key) == (0, 41)  # nobody is two hours old yet
    assert node.store.offset_at_time(key, before_ms - HOUR_MS // 2) <= 20  # never behind what was stored since then
    assert len((await node.fetch.fetch("t", 0, 0, bytes_max=1 << 20, wait_ms=0)).data) > 400_000
    clock.advance(3 * HOUR_MS)
    nodes.produce(b"y")
    for _ in range(20):
        await node.upkeep.retain()
    low, high = node.positions.bounds(key)
    assert high == 42
    assert 0 < low <= 41
    await node.close()


async def test_it_opens_again_after_a_step_back(tmp_path: Path) -> None:
    clock = ManualClock()
    nodes = Nodes(tmp_path / "data", clock)
    await nodes.node.admin.create_topic("t", TopicType.NORMAL, (Placement("broker-a", 1),), automatic=False)
    nodes.produce(b"one")
    await nodes.node.close()
    clock.jump_wall(-24 * HOUR_MS)
    again = Nodes(tmp_path / "data", clock)
    assert again.produce(b"two").queue_offset == 1
    assert again.node.store.epoch == 2
    await again.node.close()
