"""Closing a full segment for good: made durable, then given its index file, away from the thread that appends."""

from __future__ import annotations

from kourou.broker.store.commitlog import index_name
from kourou.broker.store.files import File, Files
from kourou.broker.store.logindex import LogIndex
from kourou.core.errors import KourouError


class SealJob:
    """Makes a full segment durable and writes its index. ``run`` is *blocking*."""

    def __init__(self, base: int, file: File, files: Files, index: LogIndex) -> None:
        self.base = base
        self.cut = False  # a truncation has reached the segment since: the index is worthless
        self.failure: KourouError | None = None
        self._file = file
        self._files = files
        self._index = index

    def run(self) -> None:
        """Raises DiskFull, then the job can be taken again; FlushFailed."""
        try:
            self._file.sync()
            if not self.cut:
                self._files.write_atomic(index_name(self.base), self._index.build_sealed(self.base))
        except KourouError as failure:
            self.failure = failure
            raise
        except KeyError:  # the index knows the segment no more
            assert self.cut, f"the segment at {self.base} is sealed but was never closed"
