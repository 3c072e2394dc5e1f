"""The part of a broker that delivers delayed messages, on any disk, with a clock moved by hand and no threads."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from kourou.broker.machines.timers import Timers
from kourou.broker.services.journal import FrameJob, Journal
from kourou.broker.services.moves import Mover
from kourou.broker.services.records import DecodedFrame, RecordReader, StoredMessage
from kourou.broker.services.state import BrokerState
from kourou.broker.services.timers import TimerService
from kourou.broker.services.upkeep import Upkeep
from kourou.broker.store.columns import check_columns
from kourou.broker.store.files import Files
from kourou.broker.store.recovery import open_store
from kourou.broker.store.store import Appended, CheckedFrame, StoreConfig
from kourou.core.clock import ManualClock
from kourou.core.errors import DamagedLog, KourouError
from kourou.core.frame import MOVED, PREFIX_SIZE, Column, Kind, check_frame, parse_sealed, seal
from kourou.core.records import Field, iterate_fields
from kourou.core.route import TopicType

SMALL = StoreConfig(segment_bytes=16 * 1024, full_ratio=1.0, reserve_bytes=0)
PAGE = 4
TOPIC = "delays"


class Inline(Executor):
    """Runs everything at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as failure:
            future.set_exception(failure)
        return future


@dataclass
class Notes:
    """A log that remembers."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = error = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == event]


@dataclass(slots=True)
class Copy:
    """A delivered message."""

    text: str
    due_ms: int
    store_ms: int
    queue: int
    message_id: str


class TimerNode:
    """``open`` inside a running loop."""

    def __init__(
        self, files: Files, clock: ManualClock, *, config: StoreConfig = SMALL, pages_max: int = 2, pages_full: int = 64
    ) -> None:
        self.clock = clock
        self._sequence = count()
        self.notes = Notes()
        self.files = files
        self.state = BrokerState(broker="b")
        self.state.timers = Timers(page_size=PAGE)
        files.lock()
        self.recovered = open_store(
            files,
            config,
            restore=self.state.restore,
            apply=self.state.recovered,
            notice=lambda event, fields: self.notes.warning(event, **fields),
        )
        self.store = self.recovered.store
        self.store.begin_epoch(self.store.epoch + 1, store_ms=clock.wall_ms())
        inline = Inline()
        self.failures: list[str] = []
        self.journal = Journal(
            self.store, self.state, clock=clock, sync_flush=True, sync_executor=inline, on_failure=self.failures.append
        )
        self.timers = TimerService(
            self.store,
            self.state,
            self.journal,
            RecordReader(self.store, self.journal, read_executor=inline),
            Mover(self.journal),
            read_executor=inline,
            write_executor=inline,
            clock=clock,
            log=self.notes,
            delay_ms_max=40 * 86_400_000,
            pages_max=pages_max,
            pages_full=pages_full,
        )
        self.upkeep = Upkeep(
            self.store,
            self.state,
            self.journal,
            executor=inline,
            clock=clock,
            log=self.notes,
            snapshot_bytes=1,
            retention_ms=72 * 3_600_000,
            retention_bytes=0,
            release=self.timers.keeper.release,
        )
        self.timers.keeper.open()

    async def create(self, name: str = TOPIC) -> None:
        if self.state.topics.find(name) is None:
            await self.journal.write(
                [
                    {
                        "t": "topic",
                        "name": name,
                        "type": TopicType.DELAY.value,
                        "placement": [["b", 4]],
                        "i": len(self.state.topics.all()) + 1,
                        "ms": self.clock.wall_ms(),
                    }
                ]
            )

    async def store_timers(self, texts: list[str], ahead_ms: list[int], *, queue: int = 0, topic: str = TOPIC) -> Appended:
        """One frame of delayed messages; the body says when each is due."""
        now_ms = self.clock.wall_ms()
        due = array("q", [now_ms + each for each in ahead_ms])
        records = [f"{text} {due_ms}".encode() for text, due_ms in zip(texts, due, strict=True)]
        sealed = seal(
            topic=topic, queue_id=queue, records=records, born_ms=now_ms, producer_id=self.store.epoch,
            sequence=next(self._sequence), columns={Column.DUE_TIMES: due},
        )  # fmt: skip
        header = parse_sealed(sealed)
        incarnation = self.state.topics.get(topic).incarnation
        checked = CheckedFrame(
            sealed, header, int.from_bytes(sealed[-4:], "little"), incarnation, check_columns(sealed, 0, header)
        )
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

        def done(result: Appended | None, duplicate: bool, failure: KourouError | None) -> None:
            if failure is not None:
                future.set_exception(failure)
            else:
                assert result is not None
                future.set_result(result)

        self.journal.submit(FrameJob(checked, done))
        return await future

    async def pass_ms(self, ms: int) -> None:
        self.clock.advance(ms)
        await self.timers.fire()

    async def snapshot(self) -> None:
        await self.upkeep.seal()
        await self.upkeep.snapshot()

    def copies(self) -> list[Copy]:
        """What consumers see, in log order."""
        found: list[Copy] = []
        log = self.store.log
        for offset in log.frames(log.start, log.end):
            try:
                data = self.store.read_frame(offset)
            except DamagedLog:
                continue
            prefix, header = check_frame(data)
            if header.kind != Kind.MESSAGES or not header.attributes & MOVED:
                continue
            decoded = DecodedFrame(prefix, header, data, PREFIX_SIZE)
            for number in range(header.record_count):
                message = StoredMessage(decoded, number)
                text, _, due = message.body.decode().rpartition(" ")
                ids = [value.decode() for which, value in iterate_fields(message.block) if which == Field.MESSAGE_ID]
                found.append(Copy(text, int(due), prefix.store_ms, header.queue_id, *ids))
        return found

    def stop(self) -> None:
        self.timers.stop()

    def close(self) -> None:
        self.stop()
        self.store.close()
