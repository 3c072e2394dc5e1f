"""Which processes have run on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from kourou.broker.store.files import OsFiles
from kourou.broker.store.incarnation import KEPT, NAME, Incarnations
from kourou.core.errors import DamagedLog


def test_a_disk_remembers_its_processes(tmp_path: Path) -> None:
    files = OsFiles(tmp_path)
    assert Incarnations.load(files) == Incarnations((), "", True)
    Incarnations.load(files).begun(files, "a", "boot-1")
    found = Incarnations.load(files)
    assert found == Incarnations(("a",), "boot-1", False)
    found.closed(files)
    assert Incarnations.load(files).clean
    again = Incarnations.load(files).begun(files, "b", "boot-2")
    assert again == Incarnations.load(files) == Incarnations(("a", "b"), "boot-2", False)


def test_it_remembers_a_bounded_number(tmp_path: Path) -> None:
    files = OsFiles(tmp_path)
    found = Incarnations.load(files)
    for number in range(KEPT + 5):
        found = found.begun(files, str(number), "boot")
    assert len(Incarnations.load(files).nonces) == KEPT
    assert found.nonces[-1] == str(KEPT + 4)


def test_rubbish_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"nonces": 7}')
    with pytest.raises(DamagedLog):
        Incarnations.load(OsFiles(tmp_path))
