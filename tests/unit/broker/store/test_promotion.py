"""A promotion that nobody has confirmed is taken back when the directory is opened again."""

from __future__ import annotations

import pytest

from kourou.broker.store.promotion import withdraw
from kourou.broker.store.standing import MASTER, NAME, PROMOTED, SLAVE, StandingFile
from tests.sim.disk import SimDisk
from tests.sim.store import START_MS, Opened, message, open_disk

BEGUN = 1_200


def promoted(disk: SimDisk) -> tuple[Opened, StandingFile, int]:
    """A slave of epoch 1 that is about to begin another; and where its log ends."""
    opened = open_disk(disk)
    opened.store.begin_epoch(1, store_ms=START_MS)
    opened.append(message(0, 0, 100, 1))
    end = opened.store.end_offset
    standing = StandingFile(opened.store.files)
    standing.note(epoch=1, confirm=end, promised=end, role=SLAVE)
    standing.note(epoch=1, confirm=end, promised=end, role=PROMOTED, begun=BEGUN)
    return opened, standing, end


@pytest.mark.parametrize("begun", [False, True])
def test_it_is_a_slave_again(begun: bool) -> None:
    disk = SimDisk()
    opened, standing, end = promoted(disk)
    if begun:
        opened.store.begin_epoch(BEGUN, store_ms=START_MS)
    assert withdraw(opened.store, standing) is begun
    standing.close()
    opened.store.close()
    again = open_disk(disk)
    standing = StandingFile(again.store.files)
    assert (again.store.epoch, again.store.end_offset) == (1, end)
    assert (standing.epoch, standing.role, standing.confirm, standing.promised) == (1, SLAVE, end, end)
    assert standing.begun == BEGUN  # and no later promotion begins it again
    assert not withdraw(again.store, standing)


@pytest.mark.parametrize("role", [MASTER, SLAVE])
def test_other_roles_stay(role: int) -> None:
    opened, standing, _ = promoted(SimDisk())
    opened.store.begin_epoch(BEGUN, store_ms=START_MS)
    end = opened.store.end_offset
    standing.note(epoch=BEGUN, confirm=end, promised=end, role=role)
    assert not withdraw(opened.store, standing)
    assert (opened.store.end_offset, standing.role, standing.epoch) == (end, role, BEGUN)


def test_a_term_that_has_served_stays() -> None:
    """The slot that says so was lost."""
    opened, standing, _ = promoted(SimDisk())
    opened.store.begin_epoch(BEGUN, store_ms=START_MS)
    opened.append(message(0, 1, 100, 1))
    end = opened.store.end_offset
    assert not withdraw(opened.store, standing)
    assert (opened.store.end_offset, standing.role, standing.epoch) == (end, MASTER, BEGUN)


def test_a_file_from_before_promotions_were_noted() -> None:
    """Epochs were u64 there, and never above a u32."""
    disk = SimDisk().files()
    standing = StandingFile(disk)
    standing.note(epoch=0xFFFF_FFFF, confirm=1, promised=1, role=MASTER)
    standing.close()
    data = disk.read_all(NAME)
    assert data is not None
    assert data[512 + 8 : 512 + 16] == (0xFFFF_FFFF).to_bytes(8, "little")
