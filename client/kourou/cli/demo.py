"""``kourou demo``: streams a file tree, line by line, through a topic to two consumers of one group, and checks the result.

Each line is a message: key and message group are the file's path, the tag is its extension, and a property numbers the
lines of a file. What must come out is what went in: every line once, the lines of a file in order, the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kourou.cli.asking import Output, Server, client
from kourou.cli.failures import CommandFailed
from kourou.cli.output import note, print_facts, print_json, print_table, progress

if TYPE_CHECKING:
    from kourou.client import Client, Consumer

LINES_MIN = 20_000  # a smaller tree is gone through again
QUEUES = 8
CONSUMERS = 2
CHUNK = 500  # lines between two turns of the other tasks
ASSIGNED_S = 15.0
SILENCE_S = 15.0  # without a message before what is missing counts as lost
KEY_BYTES_MAX = 63  # of a message group
SKIPPED = frozenset({"__pycache__", "node_modules", "build", "dist", "kourou-data"})
BYTES_MAX = 1024 * 1024  # larger files are left out, and so are binary ones


def demo(
    path: Annotated[Path | None, Parameter(help="A file or directory (default: Kourou's own sources).")] = None,
    /,
    *,
    topic: Annotated[str, Parameter(help="A fifo topic; created if need be.")] = "demo",
    group: Annotated[str, Parameter(help="The group of the two consumers.")] = "demo",
    server: Server = None,
    output: Output = "table",
) -> None:
    """Stream a file tree through a topic to two consumers and check the result. Exit status 1 if anything is wrong."""
    tree = list(source_files(path if path is not None else own_sources()))
    if not tree:
        raise CommandFailed(f"there is no text file in {path}")
    run = Run(topic, group, read_lines(tree))
    asyncio.run(_stream(run, server))
    if output == "json":
        print_json(run.summary())
    else:
        _show(run)
    if run.faults:
        raise CommandFailed(f"the demo found {len(run.faults)} faults; the first: {run.faults[0]}")


# ---- what is streamed


def own_sources() -> Path:
    """The checkout that this runs from, else the installed packages."""
    import kourou.core

    root = Path(__file__).resolve().parents[3]
    if (root / "pyproject.toml").is_file():
        return root
    return Path(kourou.core.__file__).resolve().parents[1]


def source_files(path: Path) -> Iterator[tuple[str, Path]]:
    """(key, file) of every text file of a tree, by name."""
    if not path.exists():
        raise CommandFailed(f"{path} does not exist")
    if path.is_file():
        yield key_of(path.name), path
        return
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if any(part in SKIPPED or part.startswith(".") or part.endswith(".egg-info") for part in relative.parts):
            continue
        if file.is_file() and file.stat().st_size <= BYTES_MAX:
            yield key_of(relative.as_posix()), file


def key_of(name: str) -> str:
    """The path, short enough to be a message group: a long one keeps its end, made unique by a checksum of the whole."""
    if len(name.encode()) <= KEY_BYTES_MAX and name.isprintable():
        return name
    clean = "".join(c if c.isprintable() else "?" for c in name)
    end = clean.encode()[-(KEY_BYTES_MAX - 9) :].decode(errors="ignore")
    return f"{zlib.crc32(name.encode(errors='surrogateescape')):08x}~{end}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    key: str
    tag: str
    lines: list[bytes]


def read_lines(tree: list[tuple[str, Path]]) -> list[SourceFile]:
    found = []
    for key, path in tree:
        data = path.read_bytes()
        if data and b"\0" not in data:
            found.append(SourceFile(key, path.suffix.removeprefix(".") or "none", data.splitlines()))
    return found


# ---- the run and its books


@dataclass(slots=True)
class Tally:
    """Lines of one key: how many, and a checksum over them in their order."""

    count: int = 0
    checksum: int = 0

    def add(self, body: bytes) -> None:
        self.count += 1
        self.checksum = zlib.crc32(body, self.checksum)


@dataclass(slots=True)
class Run:
    """One run's books: what was sent, what came, what was wrong. Pure, so that a test can cook them."""

    topic: str
    group: str
    files: list[SourceFile]
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    sent: dict[str, Tally] = field(default_factory=dict)
    received: dict[str, Tally] = field(default_factory=dict)
    by_consumer: list[int] = field(default_factory=lambda: [0] * CONSUMERS)
    queues: list[int] = field(default_factory=lambda: [0] * CONSUMERS)
    faults: list[str] = field(default_factory=list)
    sent_count: int = 0
    sent_bytes: int = 0
    received_count: int = 0
    foreign: int = 0  # of earlier runs
    send_s: float = 0.0
    total_s: float = 0.0

    @property
    def total(self) -> int:
        lines = sum(len(file.lines) for file in self.files)
        return lines * self.rounds

    @property
    def rounds(self) -> int:
        lines = sum(len(file.lines) for file in self.files)
        return max(1, -(-LINES_MIN // lines)) if lines else 0

    def count_sent(self, key: str, body: bytes) -> int:
        """The number of the line within its key."""
        tally = self.sent.setdefault(key, Tally())
        tally.add(body)
        self.sent_count += 1
        self.sent_bytes += len(body)
        return tally.count - 1

    def count_received(self, consumer: int, key: str | None, properties: dict[str, str], body: bytes) -> None:
        if properties.get("run") != self.name:
            self.foreign += 1
            return
        tally = self.received.setdefault(key or "", Tally())
        number = int(properties["line"])
        if number != tally.count:
            kind = "twice or too late" if number < tally.count else "too early"
            self.faults.append(f"line {number} of {key} came {kind}: line {tally.count} was due")
        tally.add(body)
        self.received_count += 1
        self.by_consumer[consumer] += 1

    def check(self) -> None:
        """Compare the books once everything is over."""
        for key, sent in self.sent.items():
            received = self.received.get(key, Tally())
            if received.count != sent.count:
                self.faults.append(f"of {key} {sent.count} lines were sent and {received.count} received")
            elif received.checksum != sent.checksum:
                self.faults.append(f"the lines of {key} were received changed or in another order")
        for key in self.received.keys() - self.sent.keys():
            self.faults.append(f"{key} was received and never sent")

    def summary(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "group": self.group,
            "files": len(self.files),
            "keys": len(self.sent),
            "sent": self.sent_count,
            "received": self.received_count,
            "bytes": self.sent_bytes,
            "by_consumer": self.by_consumer,
            "sent_per_s": round(self.sent_count / max(self.send_s, 1e-9)),
            "received_per_s": round(self.received_count / max(self.total_s, 1e-9)),
            "seconds": round(self.total_s, 3),
            "exactly_once_in_order": not self.faults,
            "faults": self.faults[:20],
        }


# ---- streaming


async def _stream(run: Run, server: str | None) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(client(server))
        await first.create_topic(run.topic, type="fifo", queues=QUEUES)
        await first.create_group(run.group, shape="stream")
        consumers: list[Consumer] = []
        for _ in range(CONSUMERS):  # each with a client of its own, as two processes would have
            own = await stack.enter_async_context(client(server))
            consumers.append(await stack.enter_async_context(own.consumer(run.topic, group=run.group)))
        with progress(*_columns()) as bars:
            sending = bars.add_task("sent", total=run.total, rate="")
            receiving = bars.add_task("received", total=run.total, rate="")
            everything = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                readers = [
                    tasks.create_task(_consume(run, number, consumer, everything))
                    for number, consumer in enumerate(consumers)
                ]
                await _until_assigned(run, consumers)
                started = time.monotonic()
                meter = tasks.create_task(_meter(run, bars, sending, receiving, started))
                await _produce(run, first)
                run.send_s = time.monotonic() - started
                await _until_received(run, everything)
                run.total_s = time.monotonic() - started
                for task in (*readers, meter):
                    task.cancel()
            _update(run, bars, sending, receiving, run.total_s)
        for number, consumer in enumerate(consumers):
            run.queues[number] = len(consumer.assignment)
    run.check()


async def _until_assigned(run: Run, consumers: list[Consumer]) -> None:
    """Both consumers have queues, and together all: a move in mid-stream could make a line come twice."""
    deadline = time.monotonic() + ASSIGNED_S
    while not (all(c.assignment for c in consumers) and sum(len(c.assignment) for c in consumers) == QUEUES):
        if time.monotonic() > deadline:
            raise CommandFailed(f"group {run.group}: the two consumers were not given the {QUEUES} queues in time")
        await asyncio.sleep(0.02)


async def _produce(run: Run, client: Client) -> None:
    async with client.producer() as producer:
        for _ in range(run.rounds):
            for file in run.files:
                for number, line in enumerate(file.lines):
                    place = run.count_sent(file.key, line)
                    await producer.post(
                        run.topic,
                        line,
                        key=file.key,
                        tag=file.tag,
                        message_group=file.key,
                        properties={"run": run.name, "line": str(place)},
                    )
                    if number % CHUNK == CHUNK - 1:
                        await asyncio.sleep(0)
                await asyncio.sleep(0)
        await producer.flush()


async def _consume(run: Run, number: int, consumer: Consumer, everything: asyncio.Event) -> None:
    async for batch in consumer.batches():
        for message in batch.messages():
            run.count_received(number, message.key, message.properties, message.body)
        if run.received_count >= run.total:
            everything.set()


async def _until_received(run: Run, everything: asyncio.Event) -> None:
    """All is there, or nothing has come for a while: then the books tell what is missing."""
    before = -1
    while run.received_count != before:
        before = run.received_count
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await everything.wait()
            return
    note(f"nothing has come for {SILENCE_S:.0f} s")


# ---- what is shown


def _columns() -> tuple[Any, ...]:
    from rich.progress import BarColumn, TextColumn

    return (
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:>9,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[rate]}"),
    )


async def _meter(run: Run, bars: Any, sending: Any, receiving: Any, started: float) -> None:
    while True:
        await asyncio.sleep(0.1)
        _update(run, bars, sending, receiving, time.monotonic() - started)


def _update(run: Run, bars: Any, sending: Any, receiving: Any, seconds: float) -> None:
    sent_s = run.send_s or seconds
    bars.update(sending, completed=run.sent_count, rate=f"{run.sent_count / max(sent_s, 1e-9):>9,.0f}/s")
    bars.update(receiving, completed=run.received_count, rate=f"{run.received_count / max(seconds, 1e-9):>9,.0f}/s")


def _show(run: Run) -> None:
    summary = run.summary()
    print_table(
        ("CONSUMER", "QUEUES", "MESSAGES"),
        [(str(n + 1), run.queues[n], run.by_consumer[n]) for n in range(CONSUMERS)],
        title=f"{summary['files']} files through fifo topic {run.topic!r} ({QUEUES} queues) to group {run.group!r}",
    )
    lost = [fault for fault in run.faults if "were sent and" in fault]
    print_facts(
        (
            ("sent", f"{run.sent_count:,} lines, {run.sent_bytes:,} bytes, {summary['sent_per_s']:,}/s"),
            ("received", f"{run.received_count:,} lines, {summary['received_per_s']:,}/s"),
            ("took", f"{run.total_s:.2f} s"),
            ("sent = received, each once", not lost and run.sent_count == run.received_count),
            ("order kept for each key", not run.faults),
        )
    )
    if not run.faults:
        print(f"\ntry: kourou topic describe {run.topic}    kourou group describe {run.group}")
