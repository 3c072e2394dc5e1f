"""``kourou cluster up``: what it reads out of its children's output."""

from __future__ import annotations

import sys

import pytest

from kourou.cli.cluster import Child


def child(*lines: str) -> Child:
    made = Child("broker-a", 10, lambda: None)
    for line in lines:
        made.line(line)
    return made


def test_addresses_are_read_and_log_lines_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    made = child(
        '{"event": "gRPC           127.0.0.1:1", "level": "info"}',
        "{http  x}",
        "data plane     127.0.0.1:10911",
        '{"level": "warning", "event": "data plane 9"}',
        "official gRPC  127.0.0.1:8081",
        "http           http://127.0.0.1:8088",
        '{"event": "ready"}',
    )
    assert made.urls == {
        "data plane": "127.0.0.1:10911",
        "official gRPC": "127.0.0.1:8081",
        "http": "http://127.0.0.1:8088",
    }
    assert not made.ready.is_set()
    made.line("ready")
    assert made.ready.is_set()
    made.line("http           http://127.0.0.1:1")
    assert made.urls["http"] == "http://127.0.0.1:8088"
    assert capsys.readouterr().out.splitlines()[2] == "broker-a   | data plane     127.0.0.1:10911"


def test_the_last_words() -> None:
    assert child("a", "error: the disk is gone", '{"event": "error in it"}').why() == "the disk is gone"
    assert child("a", "b").why() == "b"
    assert child().why() == "it said nothing"


def test_output_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    stops: list[bool] = []
    made = Child("broker-a", 10, lambda: stops.append(True))
    monkeypatch.setattr(sys, "stdout", Closed())
    made.line("ready")
    assert stops == [True]
    assert made.ready.is_set()
