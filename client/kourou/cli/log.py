"""``kourou log``: looks into a broker's data directory, checks it, writes its indexes anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kourou.cli.asking import Output
from kourou.cli.failures import FAILED, CommandFailed
from kourou.cli.output import note, print_json, print_json_line, print_table, progress
from kourou.cli.values import format_size, format_time

if TYPE_CHECKING:
    from kourou.broker.store.files import Files

Directory = Annotated[Path, Parameter(help="The data directory of a broker.")]
FRAME_FIELDS = ("log_offset", "size", "epoch", "store_ms", "kind", "topic", "queue_id", "queue_offset", "records")
ROWS_MAX = 1_000  # of a table


def inspect(
    directory: Directory,
    /,
    *,
    frames: Annotated[bool, Parameter(negative=(), help="Show every frame, not only the segments.")] = False,
    start: Annotated[int | None, Parameter(help="Log offset of the first frame to show.")] = None,
    limit: Annotated[int | None, Parameter(help=f"Frames at most (default: {ROWS_MAX:,} in a table, all in JSON).")] = None,
    output: Output = "table",
) -> None:
    """Show the segments, or (with --frames) the frames. Reads only; a running broker is not disturbed."""
    files = _open(directory)
    from kourou.broker.store import inspect as store

    if frames or start is not None:
        _show_frames(store.frames(files, start=start), limit, output)
        return
    segments = store.segments(files)
    if output == "json":
        print_json(segments)
        return
    rows = [
        (s["segment"], s["end"], format_size(s["bytes"]), format_size(s["index_bytes"]) if s["index_bytes"] else None)
        for s in segments
    ]
    print_table(("SEGMENT", "END", "SIZE", "INDEX"), rows)


def _show_frames(frames: Any, limit: int | None, output: str) -> None:
    if output == "json":
        for number, frame in enumerate(frames):
            if limit is not None and number >= limit:
                return
            print_json_line(frame)
        return
    limit = ROWS_MAX if limit is None else limit
    rows: list[tuple[object, ...]] = []
    for frame in frames:
        if len(rows) == limit:
            note(f"there are more: --start {frame.get('log_offset', frame.get('damaged'))}")
            break
        rows.append(_row(frame))
    print_table(("LOG OFFSET", "BYTES", "EPOCH", "STORED", "KIND", "TOPIC", "QUEUE", "QUEUE OFFSET", "RECORDS"), rows)


def _row(frame: dict[str, Any]) -> tuple[object, ...]:
    if "damaged" in frame:
        return (frame["damaged"], frame["end"] - frame["damaged"], None, None, f"DAMAGED: {frame['reason']}", *[None] * 4)
    values = [frame[name] for name in FRAME_FIELDS]
    values[3] = format_time(values[3])
    return tuple(values)


def position(directory: Directory, /, *, output: Output = "table") -> None:
    """Show whose directory it is, and the epoch and the end of its log. Reads only.

    Of stopped members of a broker group, the one with the highest epoch, and of those the longest log, has most.
    """
    files = _open(directory)
    from kourou.broker.store.position import position as position_of

    found = position_of(files)
    if output == "json":
        print_json(found)
    else:
        header = ("BROKER", "ID", "EPOCH", "END", "PROMISED", "LAST ROLE")
        row = (found["broker"], str(found["broker_id"]), str(found["epoch"]), found["end"], found["promised"], found["role"])
        print_table(header, [row])


def verify(directory: Directory, /, *, output: Output = "table") -> int:
    """Check every frame, index and snapshot. Reads only. Exit status 1 if anything is wrong."""
    files = _open(directory)
    from kourou.broker.store import inspect as store

    with progress() as bars:
        task = bars.add_task("verifying", total=None, note="")

        def shown(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, note=f"{format_size(done)} of {format_size(total)}")

        problems = list(store.verify(files, progress=shown))
    if output == "json":
        print_json([dataclasses.asdict(problem) for problem in problems])
    elif problems:
        print_table(("FILE", "FROM", "TO", "WHAT"), [(p.file, p.start, p.end, p.text) for p in problems])
    else:
        total = sum(segment["bytes"] for segment in store.segments(files))
        print(f"{directory}: {format_size(total)} of log verified, nothing is wrong")
    if problems:
        note(f"error: {len(problems)} problems in {directory}")
    return FAILED if problems else 0


def rebuild(
    directory: Directory,
    /,
    *,
    every: Annotated[bool, Parameter(name="--all", negative=(), help="Also those that are sound.")] = False,
    output: Output = "table",
) -> None:
    """Write indexes that are missing or damaged anew, from the log. The broker must not be running."""
    files = _open(directory)
    from kourou.broker.store import inspect as store

    with progress() as bars:
        task = bars.add_task("rebuilding", total=None, note="")
        made = store.rebuild(files, every=every, progress=lambda done, total: bars.update(task, completed=done, total=total))
    if output == "json":
        print_json({"rebuilt": made})
    else:
        print(f"{directory}: {len(made)} indexes written" if made else f"{directory}: every index is there and sound")


def _open(directory: Path) -> Files:
    if not (directory / "log").is_dir():
        raise CommandFailed(f"{directory} is not the data directory of a broker: it has no log/")
    from kourou.broker.store.files import OsFiles

    return OsFiles(directory)
