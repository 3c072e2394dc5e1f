"""The log: segments of frames, named by the log offset of their first byte. A frame never spans two segments."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from kourou.broker.store.files import File, Files
from kourou.core.errors import DamagedLog
from kourou.core.frame import PREFIX_SIZE, Buffer, check_frame, parse_prefix

FOLDER = "log"


def segment_name(base: int) -> str:
    return f"{FOLDER}/{base:020d}.seg"


def index_name(base: int) -> str:
    return f"{FOLDER}/{base:020d}.idx"


class CommitLog:
    """Appends to the last segment, reads from all. What is durable is the store's matter."""

    def __init__(self, files: Files, *, segment_bytes: int) -> None:
        self._files = files
        self._segment_bytes = segment_bytes
        self._bases: list[int] = []
        self._segments: dict[int, File] = {}
        for name in files.list(FOLDER):
            if name.endswith(".tmp"):
                files.remove(f"{FOLDER}/{name}")
            elif name.endswith(".seg") and name[:-4].isdigit():
                self._bases.append(int(name[:-4]))
        for base in self._bases:
            self._segments[base] = files.open(segment_name(base))
        for base, following in pairwise(self._bases):
            if base + self._segments[base].size != following:
                raise DamagedLog(
                    f"the log has a hole: segment {base} ends at {base + self._segments[base].size}, "
                    f"the next starts at {following}"
                )
        if not self._bases:
            self.roll(0)

    @property
    def bases(self) -> Sequence[int]:
        return self._bases

    @property
    def end(self) -> int:
        return self._bases[-1] + self._segments[self._bases[-1]].size

    @property
    def start(self) -> int:
        return self._bases[0]

    def segment_end(self, base: int) -> int:
        return base + self._segments[base].size

    def file(self, base: int) -> File:
        return self._segments[base]

    def fits(self, size: int) -> bool:
        """Whether the last segment has room; an empty one always has."""
        used = self._segments[self._bases[-1]].size
        return used == 0 or used + size <= self._segment_bytes

    def append(self, parts: Sequence[Buffer]) -> None:
        """Behind the end of the last segment; all or nothing."""
        self._segments[self._bases[-1]].append(parts)

    def roll(self, base: int) -> None:
        """Begin a segment at ``base``, the end of the log."""
        self._segments[base] = self._files.open(segment_name(base))
        self._bases.append(base)

    def locate(self, offset: int) -> tuple[File, int]:
        """The segment that holds a log offset, and the place in it."""
        number = bisect_right(self._bases, offset) - 1
        if number < 0 or offset >= self.end:
            raise DamagedLog(f"log offset {offset} is not in the log, which is {self.start} to {self.end}")
        base = self._bases[number]
        return self._segments[base], offset - base

    def read_span(self, offset: int, size: int, *, cached_only: bool) -> bytes | None:
        """Bytes within one segment; None when ``cached_only`` and the disk would have to be waited for."""
        file, at = self.locate(offset)
        if cached_only:
            return file.read_cached(at, size)
        data = file.read(at, size)
        if len(data) != size:
            raise DamagedLog(f"the log ends at {offset + len(data)} within a frame that should reach {offset + size}")
        return data

    def read_frame(self, offset: int) -> bytes:
        """One whole frame, both checksums verified. Raises DamagedLog."""
        file, at = self.locate(offset)
        prefix = parse_prefix(file.read(at, PREFIX_SIZE))
        data = file.read(at, prefix.size)
        check_frame(data)
        return data

    def truncate(self, offset: int) -> list[int]:
        """Cut at a frame's start; the bases of segments that are gone altogether."""
        gone: list[int] = []
        while len(self._bases) > 1 and self._bases[-1] >= offset:
            base = self._bases.pop()
            self._segments.pop(base).close()
            self._files.remove(segment_name(base))
            gone.append(base)
        base = self._bases[-1]
        if offset < base + self._segments[base].size:
            self._segments[base].truncate(max(0, offset - base))
        return gone

    def drop(self, base: int) -> None:
        """Retention: delete the oldest segment."""
        assert base == self._bases[0]
        assert len(self._bases) > 1
        self._bases.pop(0)
        self._segments.pop(base).close()
        self._files.remove(segment_name(base))

    def close(self) -> None:
        for file in self._segments.values():
            file.close()

    def frames(self, start: int, end: int) -> Iterator[int]:
        """Log offsets of the frames from ``start`` on, by their prefixes alone (``log`` commands)."""
        while start < end:
            file, at = self.locate(start)
            yield start
            start += parse_prefix(file.read(at, PREFIX_SIZE)).size
