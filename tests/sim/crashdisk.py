"""A ``SimDisk`` on which a process can die in the middle of what it does: at the n-th change from now."""

from __future__ import annotations

from tests.sim.disk import Node, SimDisk, SimFile, SimFiles


class Crash(Exception):
    """The process ends here."""


class CrashDisk(SimDisk):
    def __init__(self) -> None:
        super().__init__()
        self.steps_left: int | None = None  # None: it does not die

    def step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left <= 0:
                raise Crash

    def files(self) -> SimFiles:
        return CrashFiles(self)

    def kill(self) -> None:
        super().kill()
        self.steps_left = None

    def room(self, wanted: int, what: str) -> None:
        self.step()
        if self.write_limit is not None:  # no sum over all files as long as nothing is limited
            super().room(wanted, what)

    def change(self, name: str, change: dict[str, Node | None]) -> None:
        self.step()
        super().change(name, change)

    def sync_folder(self, folder: str) -> None:
        self.step()
        super().sync_folder(folder)


class CrashFile(SimFile):
    def sync(self) -> None:
        assert isinstance(self._disk, CrashDisk)
        self._disk.step()
        super().sync()

    def truncate(self, size: int) -> None:
        assert isinstance(self._disk, CrashDisk)
        self._disk.step()
        super().truncate(size)


class CrashFiles(SimFiles):
    def open(self, name: str) -> SimFile:
        node = self.disk.names.get(name)
        if node is None:
            node = Node()
            self.disk.change(name, {name: node})
        return CrashFile(self.disk, name, node)
