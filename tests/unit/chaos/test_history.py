"""What is written is what is read, as far as it was written; and what has still to come is known while it grows."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.chaos.check import main as check_main
from tests.chaos.checking import check
from tests.chaos.history import Delivery, Group, History, load
from tests.chaos.journal import Journal
from tests.chaos.workers.plan import Plan, body_of, fate_of
from tests.chaos.workers.progress import Progress

SEND = {"topic": "t", "lane": None, "fate": "", "delay_ms": None, "sequenced": True}
HEAD = {"group": "g", "topic": "t"}


def begun(directory: Path, name: str = "native", *, shape: str = "stream") -> Journal:
    journal = Journal(directory, name, "r")
    journal.note("topic", topic="t", kind="normal")
    journal.note("group", **HEAD, shape=shape, fifo=False)
    return journal


def deliver(journal: Journal, *got: dict[str, object]) -> None:
    journal.done("c", "receive", time.monotonic_ns(), **HEAD, result={"got": list(got)})


def run(directory: Path) -> Journal:
    """A small run with one operation of each kind."""
    journal = begun(directory)
    number = journal.invoke("p", "send", body="a", **SEND)
    journal.ok(number, place=["b", 0, 0])
    deliver(journal, {"body": "a", "place": ["b", 0, 0]})
    number = journal.invoke("c", "commit", **HEAD)
    journal.ok(number, places=[["b", 0, 1]])
    journal.done("l", "look", time.monotonic_ns(), **HEAD, result={"places": [["b", 0, 1]]})
    number = journal.invoke("n", "create", key="k", value="fifo")
    journal.refused(number, ValueError("no"))
    number = journal.invoke("n", "get", key="k")
    journal.ok(number, value=None)
    return journal


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run(tmp_path).note("end", drained=True)
    found = load(tmp_path)
    assert found.groups == {"g": Group("g", "t", "stream")}
    (send,) = found.sends
    assert (send.body, send.place, send.sequenced, send.span.outcome) == ("a", ("b", 0, 0), True, "ok")
    (delivery,) = found.deliveries
    assert isinstance(delivery, Delivery)
    assert delivery.asked <= delivery.at
    assert [(one.looked, one.places) for one in found.offsets] == [(False, ((("b", 0), 1),)), (True, ((("b", 0), 1),))]
    assert [(one.what, one.value, one.span.outcome) for one in found.registers] == [
        ("create", "fifo", "refused"),
        ("get", None, "ok"),
    ]
    report = check(tmp_path)
    assert report.ok, report.faults
    assert report.gaps_s == {"p": 0}
    assert json.loads(json.dumps(report.as_json()))["ok"]


def test_a_killed_worker_s_file_can_be_read(tmp_path: Path) -> None:
    """What was under way is of unknown outcome; a torn line is left out."""
    journal = run(tmp_path)
    journal.invoke("p", "send", body="b", **SEND)
    with journal.file.open("ab") as stream:
        stream.write(b'{"e":"invoke","t":1,"n":99,"wh')
    found = load(tmp_path)
    assert [(send.body, send.span.outcome) for send in found.sends] == [("a", "ok"), ("b", "unknown")]
    assert [fault.partition(":")[0] for fault in check(tmp_path).faults] == [
        "run r has no end",
    ]


def test_of_a_run_without_an_end_nothing_is_called_lost(tmp_path: Path) -> None:
    journal = run(tmp_path)
    journal.ok(journal.invoke("p", "send", body="b", **SEND))
    assert check(tmp_path).faults == ["run r has no end: it was killed, or goes on; nothing is known about what was lost"]
    journal.note("end", drained=False)
    assert check(tmp_path).faults == [
        "run r was not drained in its time",
        "lost: b was acknowledged (None) and never came to g",
    ]


def test_several_processes_make_one_history(tmp_path: Path) -> None:
    run(tmp_path).note("end", drained=True)
    other = Journal(tmp_path, "official", "r")
    number = other.invoke("q", "send", body="z", **SEND)
    other.ok(number)
    assert [send.body for send in load(tmp_path).sends] == ["a", "z"]
    assert check(tmp_path).faults == ["lost: z was acknowledged (None) and never came to g"]


def test_processes_that_one_starts_after_the_other_have_a_file_each(tmp_path: Path) -> None:
    """Each counts from 1, and one that was killed leaves an operation without an end and a torn line."""
    progress = Progress(tmp_path, "r", {"g": Group("g", "t", "push")})
    main = begun(tmp_path, "official", shape="push")
    number = main.invoke("p", "send", body="a", **SEND)
    first = Journal(tmp_path, "official-push-normal", "r")
    first.invoke("c", "receive", **HEAD)
    killed = first.file.rename(tmp_path / "official-push-normal-r-1.jsonl")
    progress.read("official")
    with killed.open("ab") as stream:
        stream.write(b'{"e":"ok","t":1,"n":1,"go')
    second = Journal(tmp_path, "official-push-normal", "r")
    second.invoke("c", "receive", **HEAD)
    progress.read("official")
    main.ok(number)
    progress.read("official")
    assert progress.missing() == {"g": 1}
    second.ok(1, got=[{"body": "a", "attempt": 2}])
    progress.read("official")
    assert progress.missing() == {}
    main.note("end", drained=True)
    assert [delivery.body for delivery in load(tmp_path).deliveries] == ["a"]
    report = check(tmp_path)
    assert report.ok, report.faults


def test_the_command(tmp_path: Path) -> None:
    run(tmp_path).note("end", drained=False)
    assert check_main([str(tmp_path)]) == 1
    assert check_main([str(tmp_path), "--json"]) == 1


def test_an_empty_directory_is_no_success(tmp_path: Path) -> None:
    assert not check(tmp_path).ok
    assert History().runs == set()


# ---- progress


def test_streams_have_what_they_were_handed(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    progress = Progress(tmp_path, "r", {"g": Group("g", "t", "stream")})
    number = journal.invoke("p", "send", body="a", **SEND)
    progress.read("native")
    assert progress.missing() == {}
    journal.ok(number)
    progress.read("native")
    assert progress.missing() == {"g": 1}
    deliver(journal, {"body": "a"})
    progress.read("native")
    assert progress.missing() == {}
    assert progress.received_count == 1


def test_shared_groups_have_what_is_acknowledged(tmp_path: Path) -> None:
    journal = begun(tmp_path, shape="shared")
    progress = Progress(tmp_path, "r", {"g": Group("g", "t", "shared")})
    journal.ok(journal.invoke("p", "send", body="a", **SEND))
    deliver(journal, {"body": "a", "handle": "h"})
    progress.read("native")
    assert progress.missing() == {"g": 1}
    journal.refused(journal.invoke("c", "ack", group="g", body="a", handle="h"), ValueError("too late"))
    progress.read("native")
    assert progress.missing() == {"g": 1}
    journal.unknown(journal.invoke("c", "ack", group="g", body="a", handle="h"), ValueError("no answer"))
    progress.read("native")
    assert progress.missing() == {}


def test_what_is_rolled_back_is_not_waited_for(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    progress = Progress(tmp_path, "r", {"g": Group("g", "t", "stream")})
    for fate in "rnx":
        journal.ok(journal.invoke("p", "send", body=f"half:{fate}", **{**SEND, "fate": fate}))
    progress.read("native")
    assert progress.missing() == {}
    journal.ok(journal.invoke("p", "send", body="half:u", **{**SEND, "fate": "u"}))
    progress.read("native")
    assert progress.missing() == {"g": 1}


def test_processes_say_when_they_send_no_more(tmp_path: Path) -> None:
    journal = begun(tmp_path, "official")
    Journal(tmp_path, "official", "another").note("quiet")
    progress = Progress(tmp_path, "r", {})
    progress.read("official")
    assert progress.quiet == set()
    journal.note("quiet")
    progress.read("official")
    assert progress.quiet == {"official"}


# ---- plan


def test_a_plan() -> None:
    plan = Plan("r", ("plain", "fifo"), official=True)
    assert plan.topics == {"normal": "chaos-r-normal", "fifo": "chaos-r-fifo"}
    assert [(group.name, group.shape, group.fifo) for group in plan.groups] == [
        ("chaos-r-normal-stream", "stream", False),
        ("chaos-r-normal-shared", "shared", False),
        ("chaos-r-normal-simple", "shared", False),
        ("chaos-r-normal-push", "push", False),
        ("chaos-r-fifo-stream", "stream", True),
        ("chaos-r-fifo-shared", "shared", True),
        ("chaos-r-fifo-simple", "shared", True),
        ("chaos-r-fifo-push", "push", True),
    ]
    assert set(Plan("r", ("official",), official=True).topics) == {"normal", "fifo", "delay", "transaction"}
    assert Plan("r", ("topics",), official=False).topics == {}


def test_the_fate_is_in_the_body() -> None:
    assert fate_of(body_of("r", "who", 1, 2, "u")) == "u"
    assert fate_of(body_of("r", "who", 1, 2)) == ""
