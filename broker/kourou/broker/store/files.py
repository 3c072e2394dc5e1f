"""The disk, as the store sees it. Only this module, ``osfile`` and ``ownership`` touch the operating system's files.

``Files`` is blocking; whoever calls decides in which thread. OSError is translated here and nowhere else: no room becomes
DiskFull, anything else that a write or sync meets becomes FlushFailed, which is final for the file (an fsync that failed
once must not be believed later: the kernel has dropped the dirty pages).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kourou.broker.store.osfile import OsFile, translate
from kourou.broker.store.ownership import Ownership
from kourou.core.errors import DamagedLog, FlushFailed
from kourou.core.frame import Buffer


@dataclass(frozen=True, slots=True)
class Usage:
    used: int
    available: int  # to us, without what the system keeps for root

    @property
    def ratio(self) -> float:
        total = self.used + self.available
        return self.used / total if total else 1.0


class File(Protocol):
    """One append-only file. It can be read on after its name is removed, and closes when it is forgotten."""

    size: int

    def append(self, parts: Sequence[Buffer]) -> None:
        """Write all parts behind the end, or nothing: what a failed or short write left is cut off again."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from an offset; fewer only at the end of the file."""
        ...

    def read_cached(self, offset: int, size: int) -> bytes | None:
        """The same if no disk has to be waited for, else None."""
        ...

    def forget(self, offset: int, size: int) -> None:
        """What is there need not stay in memory; it is as it was otherwise."""
        ...

    def overwrite(self, offset: int, data: Buffer) -> None:
        """Write in place, for small files of fixed slots, and for what of the log was damaged. Not durable by itself."""
        ...

    def sync(self) -> None:
        """Make what was written durable. Raises FlushFailed."""
        ...

    def truncate(self, size: int) -> None: ...

    def close(self) -> None: ...


class Files(Protocol):
    """A directory. Names are relative, with '/' between folder and file."""

    def open(self, name: str) -> File:
        """Open for appending; created when missing."""
        ...

    def list(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when there is no such folder."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """FileNotFoundError when there is no such file."""
        ...

    def read_all(self, name: str) -> bytes | None:
        """None when there is no such file."""
        ...

    def size(self, name: str) -> int | None:
        """None when there is no such file."""
        ...

    def write_atomic(self, name: str, parts: Sequence[Buffer]) -> None:
        """Afterwards the file has this content, durably; before, or if it fails, it has its old one."""
        ...

    def remove(self, name: str) -> None:
        """No file of this name is fine too. Durable after ``sync_folder``."""
        ...

    def rename(self, name: str, new_name: str) -> None:
        """Within a folder; durable after ``sync_folder``."""
        ...

    def reserve(self, name: str, size: int) -> None:
        """Take up room on the disk. Raises DiskFull."""
        ...

    def sync_folder(self, folder: str) -> None: ...

    def usage(self) -> Usage: ...

    def lock(self) -> None:
        """One process owns the directory. Raises Busy, naming the process that has it."""
        ...

    def check(self, name: str, file: File) -> None:
        """Nobody has removed or replaced the locked directory, or this file in it. Quick. Raises FlushFailed."""
        ...

    def unlock(self) -> None: ...


class OsFiles:
    """A real directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ownership = Ownership(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise translate(failure, f"create {root}") from failure

    def open(self, name: str) -> File:
        path = self._root / name
        try:
            self._make_folder(path.parent)
            return OsFile(path)
        except OSError as failure:
            raise translate(failure, f"open {name}") from failure

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._root / folder))
        except FileNotFoundError:
            return []
        except OSError as failure:
            raise DamagedLog(f"the folder {folder!r} can't be listed: {failure.strerror}") from failure

    def read(self, name: str, offset: int, size: int) -> bytes:
        try:
            with open(self._root / name, "rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:
            raise
        except OSError as failure:
            raise DamagedLog(f"{name} can't be read: {failure.strerror}") from failure

    def read_all(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise DamagedLog(f"{name} can't be read: {failure.strerror}") from failure

    def size(self, name: str) -> int | None:
        try:
            return os.stat(self._root / name).st_size
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise DamagedLog(f"{name} can't be looked at: {failure.strerror}") from failure

    def write_atomic(self, name: str, parts: Sequence[Buffer]) -> None:
        path = self._root / name
        temporary = path.with_name(path.name + ".tmp")
        try:
            self._make_folder(path.parent)
            with open(temporary, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            self._sync_directory(path.parent)
        except OSError as failure:
            try:
                os.unlink(temporary)
            except OSError:
                pass  # it is swept at the next start
            raise translate(failure, f"write {name}") from failure

    def remove(self, name: str) -> None:
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as failure:
            raise translate(failure, f"delete {name}") from failure

    def rename(self, name: str, new_name: str) -> None:
        try:
            os.replace(self._root / name, self._root / new_name)
        except OSError as failure:
            raise translate(failure, f"rename {name}") from failure

    def reserve(self, name: str, size: int) -> None:
        try:
            with open(self._root / name, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as failure:
            self.remove(name)
            raise translate(failure, f"reserve {size} bytes") from failure

    def sync_folder(self, folder: str) -> None:
        try:
            self._sync_directory(self._root / folder)
        except OSError as failure:
            raise FlushFailed(f"fsync of the folder {folder or '.'} failed: {failure.strerror}") from failure

    def _make_folder(self, path: Path) -> None:
        """A folder that a power cut can take away again would take its files along."""
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            self._sync_directory(path.parent)

    @staticmethod
    def _sync_directory(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def usage(self) -> Usage:
        try:
            numbers = os.statvfs(self._root)
        except OSError as failure:
            raise translate(failure, f"look at the file system of {self._root}") from failure
        return Usage((numbers.f_blocks - numbers.f_bfree) * numbers.f_frsize, numbers.f_bavail * numbers.f_frsize)

    def lock(self) -> None:
        self._ownership.take()

    def check(self, name: str, file: File) -> None:
        assert isinstance(file, OsFile)
        self._ownership.check(name, file)

    def unlock(self) -> None:
        self._ownership.release()
