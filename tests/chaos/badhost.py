"""Bad disks and wrong wall clocks of single processes: a small library that is loaded before libc, and what it is told."""

from __future__ import annotations

import shutil
import struct
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.chaos.claim import CommandFailed, command

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = shutil.which("gcc") or shutil.which("cc")
LAYOUT = struct.Struct("<iiiiq")  # struct faults in badhost.c


def build(folder: Path) -> Path | None:
    """The library; None where no compiler can make it."""
    if COMPILER is None:
        return None
    library = folder / "badhost.so"
    try:
        command(COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl")
    except CommandFailed:
        return None
    return library


@dataclass(frozen=True, slots=True)
class Ills:
    """What is wrong with a host. The order of the fields is that of the layout."""

    slow_ms: int = 0
    sync_fails: bool = False
    no_room: bool = False
    torn: bool = False
    clock_s: int = 0


SOUND = Ills()


class BadHost:
    """The ills of one process; they count from the moment they are written, and for its next incarnation too."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.ills = SOUND
        file.write_bytes(LAYOUT.pack(*astuple(SOUND)))
        self.env = {"LD_PRELOAD": str(library), "KOUROU_CHAOS_FAULTS": str(file)}

    def be(self, ills: Ills) -> None:
        self.ills = ills
        with self._file.open("r+b", buffering=0) as file:  # in place: it is mapped
            file.write(LAYOUT.pack(*astuple(ills)))
