"""Lines of files and pipes."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from kourou.cli.lines import CHUNK_BYTES, CHUNKS_AHEAD, LINES_PER_TURN, Lines


async def drained(lines: Lines) -> list[bytes]:
    found: list[bytes] = []
    while turn := await lines.next():
        found += turn
    return found


async def test_a_file_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"\n".join(b"%d\r" % i for i in range(1_200)) + b"\n\nlast")
    with Lines(str(path)) as lines:
        assert lines.size == path.stat().st_size
        assert len(await lines.next()) == LINES_PER_TURN
        rest = await drained(lines)
    assert rest[-3:] == [b"1199", b"", b"last"]
    assert len(rest) == 1_202 - LINES_PER_TURN


async def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with Lines(str(tmp_path / "empty")) as lines:
        assert await lines.next() == []


async def test_lines_of_a_pipe_come_when_they_are_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    keep = os.open(tmp_path / "pipe", os.O_RDWR)
    with Lines(str(tmp_path / "pipe")) as lines:
        os.write(keep, b"one\ntwo\r\nthr")
        assert await lines.next() == [b"one", b"two"]
        os.write(keep, b"ee\n\n")
        assert await lines.next() == [b"three", b""]
        os.write(keep, b"last")
        os.close(keep)
        assert await drained(lines) == [b"last"]


async def test_a_pipe_cut_anywhere(tmp_path: Path) -> None:
    """More than may wait unread; lines longer than a chunk."""
    rng = random.Random(1)
    given = [bytes([97 + i % 26]) * rng.choice((0, 1, 50, 3 * CHUNK_BYTES)) for i in range(3 * CHUNKS_AHEAD)]
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(b"\n".join(given) + b"\n")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with Lines(f"/dev/fd/{reading}") as lines:
        assert await drained(lines) == given
    os.close(reading)
    writer.join()
