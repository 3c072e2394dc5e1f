"""The parts of `make chaos` that need neither root nor processes: plans, gaps, comparing logs, the library of bad hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.chaos import plan
from tests.chaos.badhost import COMPILER, BadHost, Ills, build
from tests.chaos.broker import Broker
from tests.chaos.faults.processes import switchover
from tests.chaos.faults.scene import NotDone, Scene
from tests.chaos.probe import Probe
from tests.chaos.replicas import same_log
from tests.chaos.report import Outcome, Run
from tests.chaos.rounds import Rounds


def test_a_plan_is_the_same_for_the_same_seed_and_has_every_kind() -> None:
    names = list(plan.KINDS)
    steps = plan.draw(7, len(names) * 2, 2, names)
    assert steps == plan.draw(7, len(names) * 2, 2, names)
    assert steps != plan.draw(8, len(names) * 2, 2, names)
    assert sorted(step.kind for step in steps[: len(names)]) == sorted(names)
    assert {step.group for step in steps} == {0, 1}


def test_the_short_run_has_known_kinds() -> None:
    assert set(plan.CI) <= set(plan.KINDS)


def test_a_report_is_a_plan(tmp_path: Path) -> None:
    steps = plan.draw(1, 5, 1, list(plan.KINDS))
    run = Run(1, steps, {}, [Outcome(0, steps[0].kind, "broker-a", "said", 1.0, 2.0, 3.0, 15.0, 0.5)])
    run.write(tmp_path / "1.json")
    assert plan.read(tmp_path / "1.json") == steps
    assert json.loads((tmp_path / "1.json").read_text())["passed"]
    assert steps[0].kind in run.table()


def probe_of(tmp_path: Path, *ended: float) -> Probe:
    file = tmp_path / "probe.jsonl"
    lines = [{"group": "g", "begun": at - 0.1, "ended": at, "ok": True} for at in ended]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"group": "g", "beg')
    probe = Probe(file)
    probe.look()
    return probe


@pytest.mark.parametrize(
    ("begin", "end", "gap"),
    [
        (2.5, 3.5, 6.0),  # begins before the first answer that is late, and ends before it comes
        (9.5, 10.5, 1.0),
        (1.5, 10.5, 6.0),
    ],
)
def test_gaps_reach_beyond_the_fault(tmp_path: Path, begin: float, end: float, gap: float) -> None:
    probe = probe_of(tmp_path, 1, 2, 3, 9, 10, 11)
    assert probe.gap_s("g", begin, end) == pytest.approx(gap)


def test_a_send_counts_when_it_was_begun_later(tmp_path: Path) -> None:
    probe = probe_of(tmp_path, 1, 2)
    assert probe.ok_since("g", 1.85)
    assert not probe.ok_since("g", 1.95)
    assert not probe.ok_since("h", 0)


def log_of(folder: Path, segments: dict[int, bytes]) -> Broker:
    (folder / "log").mkdir(parents=True)
    for base, data in segments.items():
        (folder / "log" / f"{base:020}.seg").write_bytes(data)
    return cast(Broker, SimpleNamespace(name=folder.name, data=folder))


def test_logs_are_compared_where_both_have_something(tmp_path: Path) -> None:
    one = log_of(tmp_path / "one", {0: b"abcd", 4: b"efgh"})
    two = log_of(tmp_path / "two", {4: b"efghij"})
    assert same_log([one, two]) == (4, [])


def test_a_byte_that_differs_is_told(tmp_path: Path) -> None:
    one = log_of(tmp_path / "one", {0: b"abcd", 4: b"efgh"})
    two = log_of(tmp_path / "two", {0: b"abcdefXh"})
    assert same_log([one, two]) == (4, ["logs of ['one', 'two'] differ at 6"])


PROGRAM = """
import errno, os, sys, time
from pathlib import Path
from tests.chaos.badhost import Ills, LAYOUT
from dataclasses import astuple
what, faults, file = sys.argv[1:]
def be(ills):
    with open(faults, "r+b", buffering=0) as out:
        os.pwrite(out.fileno(), LAYOUT.pack(*astuple(ills)), 0)
fd = os.open(file, os.O_RDWR | os.O_CREAT)
def fails(call, *arguments):
    try:
        call(*arguments)
    except OSError as failure:
        return errno.errorcode[failure.errno]
if what == "clock":
    before, monotonic = time.time(), time.monotonic()
    be(Ills(clock_s=3600))
    print(3500 < time.time() - before < 3700, time.monotonic() - monotonic < 100)
elif what == "sync":
    be(Ills(sync_fails=True))
    print(fails(os.fsync, fd), fails(os.fdatasync, fd), os.pwrite(fd, b"x", 0))
elif what == "room":
    be(Ills(no_room=True))
    print(os.pwritev(fd, [b"a" * 50, b"b" * 50], 0), fails(os.pwrite, fd, b"c" * 50, 50), fails(os.write, fd, b"d"))
elif what == "torn":
    be(Ills(torn=True))
    os.pwritev(fd, [b"a" * 50, b"b" * 50], 0)
"""


@pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="NO C COMPILER: bad disks can't be tried here")
@pytest.mark.parametrize(
    ("what", "status", "out", "size"),
    [
        ("clock", 0, "True True", 0),
        ("sync", 0, "EIO EIO 1", 1),
        ("room", 0, "50 ENOSPC ENOSPC", 50),
        ("torn", -9, "", 50),
    ],
)
def test_a_bad_host(tmp_path: Path, what: str, status: int, out: str, size: int) -> None:
    library = build(tmp_path)
    assert library is not None
    bad = BadHost(library, tmp_path / "faults")
    file = tmp_path / "file"
    root = str(Path(__file__).resolve().parents[3])
    env: dict[str, Any] = {**os.environ, **bad.env, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what, str(tmp_path / "faults"), str(file)], env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip(), file.stat().st_size) == (status, out, size), done.stderr


def test_ills_fit_the_layout(tmp_path: Path) -> None:
    bad = BadHost(tmp_path / "none.so", tmp_path / "faults")
    bad.be(Ills(slow_ms=500, clock_s=-3600))
    data = (tmp_path / "faults").read_bytes()
    assert int.from_bytes(data[:4], "little") == 500
    assert int.from_bytes(data[16:24], "little", signed=True) == -3600


class Refusing(Rounds):
    """A campaign whose cluster refuses every second fault."""

    async def _start(self) -> None: ...

    async def _one(self, number: int, step: plan.Step) -> Outcome:
        return Outcome(number, step.kind, "g", "busy", 0.0, 0.0, 0.0, 15.0, 0.0, done=number % 2 == 0)

    async def _end(self) -> None: ...


async def test_a_fault_that_was_refused_is_not_counted(tmp_path: Path) -> None:
    run = Run(1, plan.draw(1, 4, 1, ["switchover"]), {})
    await Refusing(run, probe_of(tmp_path), ["g"], tmp_path).run(minutes=None)
    assert [outcome.number for outcome in run.outcomes] == [0, 2]
    assert run.skipped == ["fault 1, switchover: busy", "fault 3, switchover: busy"]
    assert not run.problems


async def test_a_switchover_that_is_refused_did_not_happen() -> None:
    """Method: a command that ends as ``kourou admin promote`` does then."""
    follower = SimpleNamespace(name="broker-a-1", broker_id=1)

    async def one(group: str = "") -> Any:
        return follower

    world = SimpleNamespace(command=lambda *_: [sys.executable, "-c", "print('too slow'); raise SystemExit(1)"])
    scene = cast(Scene, SimpleNamespace(world=world, group="broker-a", follower=one, master=one))
    with pytest.raises(NotDone, match="broker-a-1 not promoted: too slow"):
        await switchover(scene)
