"""``kourou send --delay``, ``receive --shared`` and ``message recall`` as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command import Shell
from tests.integration.node import Node


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    directory: Path = tmp_path_factory.mktemp("cli")
    with Node(directory / "data") as node:
        yield Shell(node.address, directory)


def test_receive_shared_acknowledges(shell: Shell) -> None:
    shell.done("topic", "create", "shared", "--queues", "1")
    shell.done("send", "shared", "--file", "-", "--tag", "t", stdin=b"one\ntwo\nthree\n")
    receive = ("receive", "shared", "--shared", "--group", "g")
    (line,) = shell.done(*receive, "--count", "1").lines
    assert line.endswith("attempt 1  one")
    found = shell.done(*receive, "--timeout", "0.5", "-o", "json").lines
    assert len(found) == 2
    assert all('"attempt":1' in line.replace(" ", "") for line in found)
    assert "0 of 1" in shell.fails(*receive, "--count", "1", "--timeout", "0.3")
    assert shell.done("receive", "shared", "--shared", "--group", "sql", "--sql", "TAGS = 'x'", "--timeout", "0.3").out == ""


def test_delay_and_recall(shell: Shell) -> None:
    shell.done("topic", "create", "delays", "--type", "delay", "--queues", "1")
    gone = shell.json("send", "delays", "gone", "--delay", "1h")
    at = shell.done("send", "delays", "at", "--deliver-at", "2020-01-31T12:00")
    assert "recall handle" in at.out
    shell.done("send", "delays", "soon", "--delay", "300ms")
    assert gone["id"] in shell.done("message", "recall", "delays", gone["recall_handle"]).out
    assert "no longer waiting" in shell.fails("message", "recall", "delays", gone["recall_handle"])
    received = shell.done("receive", "delays", "--shared", "--group", "g", "--count", "2", "-o", "body")
    assert received.lines == ["at", "soon"]


def test_what_does_not_go_together(shell: Shell) -> None:
    shell.all_fail(
        [
            ("send t x --delay 1 --deliver-at 2030-01-01", "not both"),
            ("send t x --delay soon", "length of time"),
            ("receive t --group g --shared --broadcast", "--broadcast"),
            ("receive t --group g --sql 'a = 1'", "--shared"),
        ],
        status=2,
    )
