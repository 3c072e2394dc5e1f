"""A directory in memory that forgets as a disk does: the same ``Files`` as the real one, with faults on request.

Every file has two contents: what was written (the page cache) and what was made durable (the platter). ``kill`` is
kill -9: all that was written stays. ``power_loss`` is the plug: of each page that was not synced either the old or the
new content stays, one of them torn at a 512-byte sector; the size is anything between durable and written; and of the
names that were made, renamed or removed since the folder's last sync only the first few are so. That is more than most
file systems lose, on purpose.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from kourou.broker.store.files import File, Usage
from kourou.core.errors import Busy, DamagedLog, DiskFull, FlushFailed
from kourou.core.frame import Buffer

PAGE = 4096
SECTOR = 512


@dataclass
class Node:
    """What a name refers to."""

    written: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    dirty: set[int] = field(default_factory=set)  # pages written since the last sync
    reserved: int = 0

    @property
    def size(self) -> int:
        return max(len(self.written), self.reserved)

    def write(self, offset: int, data: bytes) -> None:
        if len(self.written) < offset:
            self.written += bytes(offset - len(self.written))
        self.written[offset : offset + len(data)] = data
        if data:
            self.dirty.update(range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1))

    def sync(self) -> None:
        self.durable = bytes(self.written)
        self.dirty.clear()

    def lose_power(self, random: Random) -> None:
        size = random.choice((len(self.durable), len(self.written), self._between(random)))
        content = bytearray(self.durable[:size].ljust(size, b"\0"))
        torn = random.choice(sorted(self.dirty)) if self.dirty else None
        for page in sorted(self.dirty):
            start = page * PAGE
            new = self.written[start : min(start + PAGE, size)]
            if page == torn:
                new = new[: random.randrange(0, PAGE // SECTOR + 1) * SECTOR]
            elif random.random() < 0.5:
                continue
            content[start : start + len(new)] = new
        self.written = content[:size]
        self.sync()

    def _between(self, random: Random) -> int:
        low, high = sorted((len(self.durable), len(self.written)))
        return random.randint(low, high)


class SimDisk:
    """The disk; ``files()`` is a process's view of it."""

    def __init__(self, *, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.names: dict[str, Node] = {}
        self._durable_names: dict[str, Node] = {}
        self._pending: list[tuple[str, dict[str, Node | None]]] = []  # folder, what an operation did to its names
        self.owner: SimFiles | None = None
        self.generation = 0  # handles of an earlier one are dead
        self.syncs = 0
        self.fail_syncs = False
        self.cached = True  # reads find everything in the page cache
        self.write_limit: int | None = None  # bytes that may still be written before the disk says it is full

    def files(self) -> SimFiles:
        return SimFiles(self)

    # ---- faults

    def kill(self) -> None:
        """The process is gone, the machine goes on."""
        self.generation += 1
        self.owner = None

    def power_loss(self, random: Random) -> None:
        self.kill()
        self.fail_syncs = False
        names = dict(self._durable_names)
        for folder in sorted({folder for folder, _ in self._pending}):
            done = [change for at, change in self._pending if at == folder]
            for change in done[: random.randint(0, len(done))]:
                _apply(names, change)
        self._pending.clear()
        self.names, self._durable_names = dict(names), names
        for node in {id(node): node for node in names.values()}.values():
            node.lose_power(random)

    def delete(self, name: str) -> None:
        """Somebody has removed a file, and that is on the platter."""
        self.names.pop(name, None)
        self._durable_names.pop(name, None)

    def flip(self, name: str, offset: int, bit: int = 0) -> None:
        """Bit rot, on the platter and in what reads see."""
        node = self.names[name]
        node.written[offset] ^= 1 << bit
        durable = bytearray(node.durable)
        if offset < len(durable):
            durable[offset] ^= 1 << bit
            node.durable = bytes(durable)

    def fork(self) -> SimDisk:
        """A copy, to try several fates from one state."""
        return copy.deepcopy(self)

    # ---- what views call

    @property
    def used(self) -> int:
        return sum(node.size for node in {id(node): node for node in self.names.values()}.values())

    def room(self, wanted: int, what: str) -> None:
        if self.write_limit is not None:
            if wanted > self.write_limit:
                raise DiskFull(f"no room on the disk: {what}")
            self.write_limit -= wanted
        if self.used + wanted > self.capacity:
            raise DiskFull(f"no room on the disk: {what}")

    def change(self, name: str, change: dict[str, Node | None]) -> None:
        _apply(self.names, change)
        self._pending.append((name.rpartition("/")[0], change))

    def sync_folder(self, folder: str) -> None:
        if self.fail_syncs:
            raise FlushFailed(f"fsync of the folder {folder or '.'} failed: simulated")
        for at, change in self._pending:
            if at == folder:
                _apply(self._durable_names, change)
        self._pending = [(at, change) for at, change in self._pending if at != folder]


def _apply(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class SimFile:
    def __init__(self, disk: SimDisk, name: str, node: Node) -> None:
        self._disk, self._name, self.node = disk, name, node
        self._generation = disk.generation
        self._closed = False
        self.size = node.size

    def _alive(self) -> None:
        if self._closed or self._generation != self._disk.generation:
            raise DamagedLog(f"{self._name} is closed")

    def append(self, parts: Sequence[Buffer]) -> None:
        self._alive()
        data = b"".join(parts)
        self._disk.room(len(data), f"append to {self._name}")
        self.node.write(self.size, data)
        self.size += len(data)

    def overwrite(self, offset: int, data: Buffer) -> None:
        self._alive()
        self._disk.room(max(0, offset + len(data) - self.size), f"write to {self._name}")
        self.node.write(offset, bytes(data))
        self.size = max(self.size, offset + len(data))

    def read(self, offset: int, size: int) -> bytes:
        self._alive()
        return bytes(self.node.written[offset : offset + size])

    def forget(self, offset: int, size: int) -> None:
        """It knows no memory."""

    def read_cached(self, offset: int, size: int) -> bytes | None:
        data = self.read(offset, size)
        return data if self._disk.cached and len(data) == size else None

    def sync(self) -> None:
        self._alive()
        self._disk.syncs += 1
        if self._disk.fail_syncs:
            self.node.dirty.clear()  # as Linux does: the pages count as clean, the next fdatasync succeeds
            raise FlushFailed(f"fdatasync of {self._name} failed: simulated")
        self.node.sync()

    def truncate(self, size: int) -> None:
        self._alive()
        del self.node.written[size:]
        self.node.dirty = {page for page in self.node.dirty if page * PAGE < size}
        if size:
            self.node.dirty.add((size - 1) // PAGE)
        self.size = size

    def close(self) -> None:
        self._closed = True


class SimFiles:
    """One process's view. A second one of the same disk is a second process."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk

    def open(self, name: str) -> File:
        node = self.disk.names.get(name)
        if node is None:
            node = Node()
            self.disk.change(name, {name: node})
        return SimFile(self.disk, name, node)

    def list(self, folder: str) -> list[str]:
        inside = f"{folder}/" if folder else ""
        found = {name[len(inside) :].partition("/")[0] for name in self.disk.names if name.startswith(inside)}
        return sorted(found)

    def read(self, name: str, offset: int, size: int) -> bytes:
        node = self.disk.names.get(name)
        if node is None:
            raise FileNotFoundError(name)
        return bytes(node.written[offset : offset + size])

    def read_all(self, name: str) -> bytes | None:
        node = self.disk.names.get(name)
        return bytes(node.written) if node is not None else None

    def size(self, name: str) -> int | None:
        node = self.disk.names.get(name)
        return node.size if node is not None else None

    def write_atomic(self, name: str, parts: Sequence[Buffer]) -> None:
        data = b"".join(parts)
        self.disk.room(len(data), f"write {name}")
        if self.disk.fail_syncs:
            raise FlushFailed(f"fsync of {name} failed: simulated")
        node = Node()
        node.write(0, data)
        node.sync()
        self.disk.change(name, {name: node})
        self.disk.sync_folder(name.rpartition("/")[0])

    def remove(self, name: str) -> None:
        if name in self.disk.names:
            self.disk.change(name, {name: None})

    def rename(self, name: str, new_name: str) -> None:
        self.disk.change(name, {new_name: self.disk.names[name], name: None})

    def reserve(self, name: str, size: int) -> None:
        self.remove(name)
        self.disk.room(size, f"reserve {size} bytes")
        self.disk.change(name, {name: Node(reserved=size)})

    def sync_folder(self, folder: str) -> None:
        self.disk.sync_folder(folder)

    def usage(self) -> Usage:
        used = self.disk.used
        return Usage(used, max(0, self.disk.capacity - used))

    def lock(self) -> None:
        if self.disk.owner is not None:
            raise Busy("the data directory is in use by process 1")
        self.disk.owner = self

    def check(self, name: str, file: File) -> None:
        assert isinstance(file, SimFile)
        if self.disk.names.get(name) is not file.node:
            raise FlushFailed(f"{name} is gone: simulated")

    def unlock(self) -> None:
        if self.disk.owner is self:
            self.disk.owner = None
