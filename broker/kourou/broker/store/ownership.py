"""Owning a data directory: one process at a time, and only as long as the directory is the one that was locked.

Two locks are held. The one on the directory itself can't be taken away by deleting a file; the one on the file ``lock``
also holds where a file system can't lock directories (NFS), and says who the owner is. Both end with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from kourou.broker.store.osfile import OsFile, translate
from kourou.core.errors import Busy, FlushFailed

NAME = "lock"
_CANT_LOCK = {errno.EBADF, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK, errno.ENOSYS}  # this kind of file, here
_TAKEN = {errno.EWOULDBLOCK, errno.EACCES}


class Ownership:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder_fd = self._file_fd = -1
        self._folder_locked = False

    def take(self) -> None:
        """Raises Busy, naming the process that has it."""
        try:
            self._folder_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._lock(self._folder_fd)
                self._folder_locked = True
            except OSError as failure:
                if failure.errno not in _CANT_LOCK:
                    raise
            self._file_fd = os.open(self._root / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._lock(self._file_fd)
        except OSError as failure:
            self.release()
            raise translate(failure, f"lock {self._root}") from failure
        except Busy:
            self.release()
            raise
        try:
            os.ftruncate(self._file_fd, 0)
            os.pwrite(self._file_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # the disk is full: the lock holds without our number in it

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            if failure.errno not in _TAKEN:
                raise
            raise Busy(f"the data directory {self._root} is in use by process {self._owner()}") from None

    def _owner(self) -> str:
        try:
            return (self._root / NAME).read_bytes()[:32].decode("ascii", "replace").strip() or "unknown"
        except OSError:
            return "unknown"  # somebody deleted the file

    def check(self, name: str, file: OsFile) -> None:
        """Raises FlushFailed when what stands under our path, or under a file's name in it, is not what is open here."""
        self._check(self._root, self._folder_fd, f"the data directory {self._root}")
        if not self._folder_locked:
            self._check(self._root / NAME, self._file_fd, f"{self._root / NAME}")
        self._check(self._root / name, file.fd, f"{self._root / name}")

    @staticmethod
    def _check(path: Path, fd: int, what: str) -> None:
        if fd < 0:
            return
        try:
            there = os.stat(path)
        except OSError as failure:
            reason = "is gone" if failure.errno == errno.ENOENT else f"can't be reached ({failure.strerror})"
            raise FlushFailed(f"{what} {reason}: it was removed, moved or unmounted while in use") from None
        if not os.path.samestat(there, os.fstat(fd)):
            raise FlushFailed(f"{what} was replaced by another while in use")

    def release(self) -> None:
        for fd in (self._file_fd, self._folder_fd):
            if fd >= 0:
                os.close(fd)
        self._folder_fd = self._file_fd = -1
        self._folder_locked = False
