"""One file of the operating system, and what its errors mean. See ``files`` for the semantics of each method."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from kourou.core.errors import DamagedLog, DiskFull, FlushFailed, KourouError
from kourou.core.frame import Buffer

IOV_MAX = 1024
SCRATCH_BYTES = 1024 * 1024
_scratch: list[bytearray] = []  # for reads, as many as threads read at a time: a fresh MiB costs 256 page faults
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def translate(failure: OSError, what: str) -> KourouError:
    if failure.errno in _NO_ROOM:
        return DiskFull(f"no room on the disk: {what}: {failure.strerror}")
    return FlushFailed(f"the disk failed: {what}: {failure.strerror}")


class OsFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.size = os.fstat(self._fd).st_size

    @property
    def fd(self) -> int:
        return self._fd

    def append(self, parts: Sequence[Buffer]) -> None:
        at = start = self.size
        try:
            for first in range(0, len(parts), IOV_MAX):
                some = parts[first : first + IOV_MAX]
                wanted = sum(map(len, some))
                written = os.pwritev(self._fd, some, at)
                while written < wanted:  # rare: interrupted, or the disk is nearly full
                    rest = memoryview(b"".join(some))[written:]
                    more = os.pwrite(self._fd, rest, at + written)
                    if more == 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    written += more
                at += wanted
        except OSError as failure:
            self._cut(start)
            raise translate(failure, f"append to {self._path.name}") from failure
        self.size = at

    def overwrite(self, offset: int, data: Buffer) -> None:
        view, at = memoryview(data).cast("B"), offset
        try:
            while len(view):
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        except OSError as failure:
            raise translate(failure, f"write to {self._path.name}") from failure
        if at > self.size:
            self.size = at

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as failure:
            raise FlushFailed(f"{self._path.name} could not be cut back after a failed write: {failure}") from failure

    def read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as failure:
            raise DamagedLog(f"{self._path.name} can't be read at {offset}: {failure.strerror}") from failure
        return data

    def read_cached(self, offset: int, size: int) -> bytes | None:
        try:
            buffer = _scratch.pop() if size <= SCRATCH_BYTES else bytearray(size)
        except IndexError:
            buffer = bytearray(SCRATCH_BYTES)
        view = memoryview(buffer)[:size]
        try:
            got = os.preadv(self._fd, [view], offset, os.RWF_NOWAIT)
            return bytes(view) if got == size else None
        except BlockingIOError:
            return None
        except OSError as failure:
            if failure.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system can't tell
                return self.read(offset, size)
            raise DamagedLog(f"{self._path.name} can't be read at {offset}: {failure.strerror}") from failure
        finally:
            if len(buffer) == SCRATCH_BYTES:
                _scratch.append(buffer)

    def forget(self, offset: int, size: int) -> None:
        try:
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass  # then it stays

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as failure:
            raise FlushFailed(f"fdatasync of {self._path.name} failed: {failure.strerror}") from failure

    def truncate(self, size: int) -> None:
        self._cut(size)
        self.size = size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        """A deleted segment is closed when nobody reads it any more: a number must not be reused under a read."""
        self.close()
