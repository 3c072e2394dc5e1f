"""What ``Files`` promises, held against the real directory and the simulated one alike."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kourou.broker.store.files import Files, OsFiles
from kourou.broker.store.osfile import IOV_MAX
from kourou.core.errors import Busy, DiskFull, FlushFailed
from tests.sim.disk import SimDisk

View = Callable[[], Files]  # each call: another process's view of one directory


@pytest.fixture(params=["os", "sim"])
def view(request: pytest.FixtureRequest, tmp_path: Path) -> View:
    if request.param == "os":
        return lambda: OsFiles(tmp_path / "data")
    return SimDisk().files


def test_append_and_read(view: View) -> None:
    file = view().open("log/a")
    file.append([b"abc", bytearray(b"de"), memoryview(b"xfgx")[1:3]])
    file.append([])
    assert (file.size, file.read(0, 100), file.read(2, 3), file.read(7, 5)) == (7, b"abcdefg", b"cde", b"")
    assert view().open("log/a").size == 7
    assert view().read("log/a", 1, 2) == b"bc"
    assert view().size("log/a") == 7


def test_cached_reads_are_whole_or_none(view: View) -> None:
    file = view().open("a")
    file.append([b"0123456789" * 1000])
    assert file.read_cached(10, 5000) == (b"0123456789" * 500)
    assert file.read_cached(9_000, 2_000) is None  # the end is within


def test_append_takes_more_parts_than_one_system_call(view: View) -> None:
    file = view().open("a")
    parts = [bytes([number % 251]) for number in range(3 * IOV_MAX + 7)]
    file.append(parts)
    assert file.read(0, len(parts) + 1) == b"".join(parts)


def test_truncate_and_go_on(view: View) -> None:
    file = view().open("a")
    file.append([b"abcdef"])
    file.truncate(2)
    assert file.size == 2
    file.append([b"X"])
    file.sync()
    assert view().read_all("a") == b"abX"


def test_overwrite(view: View) -> None:
    file = view().open("a")
    file.overwrite(4, b"late")
    assert (file.size, file.read(0, 8)) == (8, b"\0\0\0\0late")
    file.overwrite(0, b"soon")
    assert file.read(0, 8) == b"soonlate"


def test_names(view: View) -> None:
    files = view()
    assert files.list("log") == []
    for name in ("log/b", "log/a", "top"):
        files.open(name).close()
    files.sync_folder("log")
    assert files.list("log") == ["a", "b"]
    assert "top" in files.list("")
    files.rename("log/a", "log/c")
    files.remove("log/b")
    files.remove("log/b")
    assert files.list("log") == ["c"]
    assert files.read_all("log/b") is None
    assert files.size("log/b") is None
    with pytest.raises(FileNotFoundError):
        files.read("log/b", 0, 1)


def test_reading_on_after_removal(view: View) -> None:
    files = view()
    file = files.open("a")
    file.append([b"abc"])
    files.remove("a")
    assert (file.read(0, 3), file.read_cached(1, 2), files.list("")) == (b"abc", b"bc", [])


def test_forgotten_files_are_closed(tmp_path: Path) -> None:
    files = OsFiles(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        files.open(f"{number}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_write_atomic_replaces(view: View) -> None:
    files = view()
    files.write_atomic("snapshots/x", [b"one"])
    files.write_atomic("snapshots/x", [b"t", b"wo"])
    assert files.read_all("snapshots/x") == b"two"
    assert files.list("snapshots") == ["x"]


def test_reserve_takes_room(view: View) -> None:
    files = view()
    before = files.usage()
    files.reserve("reserve", 4 * 1024 * 1024)
    assert files.size("reserve") == 4 * 1024 * 1024
    assert 0 <= before.ratio <= 1
    files.remove("reserve")


def test_one_process_has_the_lock(view: View) -> None:
    first, second = view(), view()
    first.lock()
    with pytest.raises(Busy, match="in use by process"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_lock_names_its_owner(tmp_path: Path) -> None:
    first = OsFiles(tmp_path)
    first.lock()
    with pytest.raises(Busy, match=f"process {os.getpid()}$"):
        OsFiles(tmp_path).lock()
    first.unlock()


def test_a_deleted_lock_lets_nobody_in(tmp_path: Path) -> None:
    """People delete what looks stale: the directory itself is locked too."""
    first = OsFiles(tmp_path)
    first.lock()
    (tmp_path / "lock").unlink()
    with pytest.raises(Busy, match="in use by process"):
        OsFiles(tmp_path).lock()
    first.unlock()
    second = OsFiles(tmp_path)
    second.lock()
    with pytest.raises(Busy, match=f"process {os.getpid()}$"):
        first.lock()
    second.unlock()


def test_check_notices_that_a_file_is_gone_or_another(view: View) -> None:
    files = view()
    files.lock()
    file = files.open("log/a")
    files.check("log/a", file)
    files.remove("log/a")
    with pytest.raises(FlushFailed, match="log/a"):
        files.check("log/a", file)
    files.open("log/a")
    with pytest.raises(FlushFailed, match="log/a"):
        files.check("log/a", file)


@pytest.mark.parametrize("fate", ["removed", "moved", "replaced", "a file"])
def test_check_notices_that_the_directory_is_gone_or_another(tmp_path: Path, fate: str) -> None:
    data = tmp_path / "data"
    files = OsFiles(data)
    files.lock()
    file = files.open("log/a")
    files.check("log/a", file)
    if fate == "removed":
        shutil.rmtree(data)
    else:
        data.rename(tmp_path / "elsewhere")
    if fate == "replaced":
        shutil.copytree(tmp_path / "elsewhere", data)
    if fate == "a file":
        data.touch()
    with pytest.raises(FlushFailed, match="data directory .*/data (is gone|was replaced)"):
        files.check("log/a", file)
    files.unlock()


def test_full_disk_cuts_the_write_off_again(tmp_path: Path) -> None:
    """A real short write at every byte of an append: the limit on a file's size stops it within."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = OsFiles(tmp_path).open("a")
    file.append([b"kept"])
    parts = [b"0123", b"45", b"6789"]
    try:
        for limit in range(4, 14):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(DiskFull):
                file.append(parts)
            assert (file.size, file.read(0, 100), (tmp_path / "a").stat().st_size) == (4, b"kept", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.append(parts)
    assert file.read(0, 100) == b"kept0123456789"
    file.close()


def test_failed_atomic_write_leaves_the_old_content(tmp_path: Path) -> None:
    files = OsFiles(tmp_path)
    files.write_atomic("x", [b"old"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        with pytest.raises(DiskFull):
            files.write_atomic("x", [b"newer"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files.read_all("x") == b"old"
    assert files.list("") == ["x"]
