"""The log: segments of frames, named by the log offset of their first byte. A frame never spans two segments.

One thread appends, cuts and drops; others may read meanwhile. What they look at is therefore replaced whole (``_bases``)
or only added to. A segment that is deleted is not closed here but forgotten: whoever reads it still holds its file, which
closes when the last one lets go, and only then the disk gets its room back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from kourou.broker.store.files import File, Files
from kourou.core.errors import BadChecksum, DamagedLog, FrameInvalid, UnsupportedVersion
from kourou.core.frame import PREFIX_SIZE, Buffer, check_frame, parse_prefix

FOLDER = "log"
OFFSET_MAX = 2**63 - 1


def segment_name(base: int) -> str:
    return f"{FOLDER}/{base:020d}.seg"


def index_name(base: int) -> str:
    return f"{FOLDER}/{base:020d}.idx"


def list_bases(files: Files, suffix: str) -> list[int]:
    """Log offsets in the names of segments (``.seg``) or indexes (``.idx``), ascending. Other names are not ours."""
    found = (parse_name(name, suffix) for name in files.list(FOLDER))
    return [base for base in found if base is not None]


def parse_name(name: str, suffix: str) -> int | None:
    """The offset in a name of 20 digits and a suffix."""
    digits = name.removesuffix(suffix)
    if len(digits) != 20 or len(name) != 20 + len(suffix) or not (digits.isascii() and digits.isdigit()):
        return None
    offset = int(digits)
    return offset if offset <= OFFSET_MAX else None


class CommitLog:
    """Appends to the last segment, reads from all. What is durable is the store's matter."""

    def __init__(self, files: Files, *, segment_bytes: int) -> None:
        self._files = files
        self._segment_bytes = segment_bytes
        self._bases: tuple[int, ...] = tuple(list_bases(files, ".seg"))
        self._segments: dict[int, File] = {base: files.open(segment_name(base)) for base in self._bases}
        if not self._bases:
            self.roll(0)

    @property
    def bases(self) -> Sequence[int]:
        return self._bases

    @property
    def end(self) -> int:
        base = self._bases[-1]
        return base + self._segments[base].size

    @property
    def start(self) -> int:
        return self._bases[0]

    @property
    def room(self) -> int:
        """Bytes that the last segment still takes; an empty one takes a frame of any size."""
        return self._segment_bytes - self._segments[self._bases[-1]].size

    def holes(self) -> list[tuple[int, int]]:
        """(where a segment ends, where the next one starts) when these differ."""
        ends = [base + self._segments[base].size for base in self._bases]
        return [(end, start) for end, start in zip(ends, self._bases[1:], strict=False) if end != start]

    def segment_end(self, base: int) -> int:
        """Where the next segment starts; of the last one, where it ends."""
        bases = self._bases
        number = bisect_right(bases, base)
        return bases[number] if number < len(bases) else base + self._segments[base].size

    def base_of(self, offset: int) -> int | None:
        """The segment that a log offset is in, or behind; None before the first."""
        number = bisect_right(self._bases, offset) - 1
        return self._bases[number] if number >= 0 else None

    def file(self, base: int) -> File:
        return self._segments[base]

    def append(self, parts: Sequence[Buffer]) -> None:
        """Behind the end of the last segment; all or nothing."""
        self._segments[self._bases[-1]].append(parts)

    def roll(self, base: int) -> None:
        """Begin a segment at ``base``, the end of the log."""
        self._segments[base] = self._files.open(segment_name(base))
        self._bases = (*self._bases, base)

    def locate(self, offset: int) -> tuple[File, int]:
        """The segment that holds a log offset, and the place in it."""
        bases = self._bases
        number = bisect_right(bases, offset) - 1
        file = self._segments.get(bases[number]) if number >= 0 else None
        if file is None or offset - bases[number] >= file.size:
            raise DamagedLog(f"log offset {offset} is not in the log, which is {self.start} to {self.end}")
        return file, offset - bases[number]

    def read_frame(self, offset: int) -> bytes:
        """One whole frame, both checksums verified. Raises DamagedLog."""
        file, at = self.locate(offset)
        try:
            data = file.read(at, parse_prefix(file.read(at, PREFIX_SIZE)).size)
            prefix, _ = check_frame(data)
        except (FrameInvalid, BadChecksum, UnsupportedVersion) as failure:
            raise DamagedLog(f"no valid frame at log offset {offset}: {failure}") from None
        if prefix.log_offset != offset:
            raise DamagedLog(f"the frame at log offset {offset} says {prefix.log_offset}")
        return data

    def truncate(self, offset: int) -> list[int]:
        """Cut at a frame's start; the bases of segments that are gone altogether, newest first.

        A segment that starts at ``offset`` stays, empty: where a segment starts is not decided anew.
        """
        gone: list[int] = []
        while len(self._bases) > 1 and self._bases[-1] > offset:
            base = self._bases[-1]
            self._bases = self._bases[:-1]
            self._remove(base)
            gone.append(base)
        base = self._bases[-1]
        if offset < base + self._segments[base].size:
            self._segments[base].truncate(max(0, offset - base))
        return gone

    def drop(self, base: int) -> None:
        """Retention: delete the oldest segment."""
        assert base == self._bases[0]
        assert len(self._bases) > 1
        self._bases = self._bases[1:]
        self._remove(base)

    def _remove(self, base: int) -> None:
        self._files.remove(segment_name(base))
        del self._segments[base]

    def close(self) -> None:
        for file in self._segments.values():
            file.close()

    def frames(self, start: int, end: int) -> Iterator[int]:
        """Log offsets of the frames from ``start`` on, by their prefixes alone."""
        while start < end:
            file, at = self.locate(start)
            yield start
            start += parse_prefix(file.read(at, PREFIX_SIZE)).size
