"""Indexes that turn out to be damaged while they are in use: made anew from their segments, away from the log's thread.

Only the head of an .idx is looked at when it is taken up; damage to the rest is met by whoever reads it. He is told to
come again (``Busy``), the owner of the store runs a job in a thread, and the next read finds the new file. Where that
fails, or is needed again and again, the index is given up and readers are told so (``DamagedLog``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kourou.broker.store.commitlog import CommitLog, index_name
from kourou.broker.store.files import File, Files
from kourou.broker.store.indexfile import BlockCache, DamagedIndex, IndexFile
from kourou.broker.store.indexrebuild import IndexRebuild, frame_entry
from kourou.broker.store.logindex import LogIndex
from kourou.broker.store.scan import Invalid, find_next, scan
from kourou.broker.store.segmentmap import Segment
from kourou.core.errors import Busy, DamagedLog, DiskFull, KourouError

RETRY_MS = 200  # what readers are told; a segment of 256 MiB takes a second or two
TRIES = 3  # a disk that damages what was just written is not helped by writing more
CACHE_BYTES = 1024 * 1024

Notice = Callable[[str, dict[str, object]], None]


class MendJob:
    """Makes the index of a sealed segment anew. ``run`` is *blocking*."""

    def __init__(self, files: Files, file: File, old: IndexFile, older: Sequence[Segment], end: int) -> None:
        self.base = old.base
        self.old = old
        self.cut = False  # a truncation has reached the segment since: the index is worthless
        self.failure: KourouError | None = None
        self._files = files
        self._file = file
        self._older = older
        self._end = end

    def run(self) -> None:
        """A failure is kept, for ``Mending.finish``."""
        try:
            making = IndexRebuild(self.base, [self._own(segment) for segment in self._older])
            self._scan(making)
            parts = making.build(self._end)
            self._file.sync()  # an index says that its segment is durable
            if not self.cut:
                self._files.write_atomic(index_name(self.base), parts)
        except KourouError as failure:
            self.failure = failure

    def _own(self, segment: Segment) -> Segment:
        """A second view of an index file: the cache of the first belongs to another thread."""
        if isinstance(segment, IndexFile):
            return IndexFile(self._files, BlockCache(CACHE_BYTES), index_name(segment.base), segment.base)
        return segment

    def _scan(self, making: IndexRebuild) -> None:
        at: int | None = self.base
        while at is not None:
            following = None
            for item in scan(self._file, self.base, at):
                if isinstance(item, Invalid):
                    following = find_next(self._file, self.base, item.log_offset + 1)
                    break
                making.add(*frame_entry(item))
            at = following


def mend(files: Files, log: CommitLog, index: LogIndex, base: int) -> None:
    """*Blocking*. Make an index anew now, and older ones that it links to where they are damaged too."""
    mended: set[int] = set()
    while True:
        old = index.sealed_file(base)
        assert old is not None, base
        job = MendJob(files, log.file(base), old, index.older_than(base), log.segment_end(base))
        job.run()
        failure = job.failure
        if isinstance(failure, DamagedIndex) and failure.base not in (base, *mended):
            mended.add(failure.base)
            mend(files, log, index, failure.base)
            continue
        if failure is not None:
            raise failure
        index.load_sealed(base)
        return


class Mending:
    """Which indexes are damaged. Belongs to the thread of the store."""

    def __init__(self, files: Files, log: CommitLog, index: LogIndex, *, notice: Notice) -> None:
        self._files = files
        self._log = log
        self._index = index
        self._notice = notice
        self._wanted: dict[int, str] = {}  # damaged indexes by base, in the order in which they were met
        self._tries: dict[int, int] = {}
        self._hopeless: dict[int, str] = {}
        self._job: MendJob | None = None
        index.report = self._met

    def _met(self, base: int, text: str) -> KourouError:
        """An index was found damaged: what the reader is told."""
        hopeless = self._hopeless.get(base)
        if hopeless is not None:
            return DamagedLog(f"{text}, and could not be made anew: {hopeless}; stop the node and run `kourou log rebuild`")
        if base not in self._wanted:
            self._wanted[base] = text
            self._notice("index_damaged", {"segment": base, "reason": text})
        return Busy(f"{text}; it is being made anew, come again", retry_after_ms=RETRY_MS)

    def renew(self, base: int, reason: str) -> None:
        """The segment is another one than when its index was made."""
        self._hopeless.pop(base, None)
        self._tries.pop(base, None)
        self._wanted.setdefault(base, reason)

    def take(self) -> MendJob | None:
        """The next job. Run it, then ``finish``; one at a time."""
        while self._wanted and self._job is None:
            base = next(iter(self._wanted))
            old = self._index.sealed_file(base)
            if old is None:
                del self._wanted[base]  # cut or deleted since
                continue
            older = self._index.older_than(base)
            self._job = MendJob(self._files, self._log.file(base), old, older, self._log.segment_end(base))
            return self._job
        return None

    def finish(self, job: MendJob) -> None:
        """The job has run: answer from the new file. Raises what it failed with; after DiskFull it can be taken again."""
        assert job is self._job, "one job at a time"
        self._job = None
        if self._index.sealed_file(job.base) is not job.old:
            self._wanted.pop(job.base, None)
            if job.base not in self._log.bases[:-1]:
                self._files.remove(index_name(job.base))
            return
        failure = job.failure
        if isinstance(failure, DiskFull):
            raise failure
        if isinstance(failure, DamagedIndex) and failure.base != job.base:  # an older one, which this one links to
            self._met(failure.base, str(failure))
            self._wanted[job.base] = self._wanted.pop(job.base)  # it comes first
            if failure.base not in self._hopeless:
                return
        del self._wanted[job.base]
        self._tries[job.base] = self._tries.get(job.base, 0) + 1
        try:
            if failure is not None:
                raise failure
            self._index.load_sealed(job.base)
        except KourouError as reason:
            self._hopeless[job.base] = str(reason)
            raise
        if self._tries[job.base] == TRIES:
            self._hopeless[job.base] = "it was made anew too often"
        self._notice("index_rebuilt", {"segment": job.base, "reason": "it was damaged"})

    def run(self) -> None:
        """*Blocking*. All that is wanted."""
        while (job := self.take()) is not None:
            job.run()
            self.finish(job)

    def cut(self, offset: int) -> None:
        """The log was cut there."""
        if self._job is not None and self._log.segment_end(self._job.base) > offset:
            self._job.cut = True
