"""The workload of the chaos runs, on one node that is killed once: it goes on, drains, and its history is clean."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.checking import Report, check, check_history
from tests.chaos.history import load
from tests.integration.node import ROOT, Node, environment

READY_S = 60.0
FLAGS = ("--transaction-check-after-s", "1", "--transaction-check-every-s", "1")
HAS_OFFICIAL = importlib.util.find_spec("rocketmq") is not None


class Workload:
    def __init__(self, node: Node, history: Path, *options: str) -> None:
        self.history = history
        arguments = ["--native", node.address, "--history", str(history), "--drain-s", "60", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.workload", *arguments],
            cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_until_running(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "running\n"

    def sends(self) -> int:
        """How many were acknowledged so far."""
        return sum(file.read_bytes().count(b'"place":[') for file in self.history.glob("native-*.jsonl"))

    def wait_for_sends(self, more: int) -> None:
        wanted, deadline = self.sends() + more, time.monotonic() + READY_S
        while self.sends() < wanted:
            assert time.monotonic() < deadline, "nothing is sent any more"
            time.sleep(0.1)

    def end(self) -> Report:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(90) == 0
        report = check(self.history)
        assert report.ok, str(report)
        return report


@contextmanager
def workload(node: Node, history: Path, *options: str) -> Iterator[Workload]:
    made = Workload(node, history, *options)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.wait(30)
        assert made.process.stdout is not None
        made.process.stdout.close()


def test_a_node_is_killed(tmp_path: Path) -> None:
    """Native clients of all kinds. The same history without the deliveries of a message is found to be at fault."""
    with Node(tmp_path / "data", *FLAGS) as node, workload(node, tmp_path / "h", "--rate", "10") as work:
        work.wait_until_running()
        node.kill()
        with Node(tmp_path / "data", *FLAGS, port=node.port):
            work.wait_for_sends(100)
            report = work.end()
    facts = {verdict.name: verdict.facts for verdict in report.verdicts}
    for checker, fact in (
        ("total queue", "sent"), ("total queue", "received"), ("message groups", "lanes"), ("offsets", "commits"),
        ("offsets", "looks"), ("places", "places"), ("receipts", "receipts"), ("timers", "delayed"),
        ("transactions", "committed"), ("transactions", "asked"), ("metadata", "operations"),
    ):  # fmt: skip
        assert facts[checker][fact] > 0, (checker, fact)
    history = load(tmp_path / "h")
    sent = next(send for send in reversed(history.sends) if send.span.ok and history.topics[send.topic] == "normal")
    history.deliveries = [delivery for delivery in history.deliveries if delivery.body != sent.body]
    assert any(sent.body in fault for fault in check_history(history).faults)


@pytest.mark.skipif(not HAS_OFFICIAL, reason="NO OFFICIAL CLIENT: pip install rocketmq-python-client")
def test_the_official_client(tmp_path: Path) -> None:
    with Node(tmp_path / "data", *FLAGS) as node:
        official = node.urls["official gRPC"]
        with workload(node, tmp_path / "h", "--rate", "5", "--kinds", "fifo,official", "--official", official) as work:
            work.wait_until_running()
            report = work.end()
    assert "official-fifo" in report.gaps_s
    assert os.listdir(tmp_path / "h" / "official-home")
    assert len(list((tmp_path / "h").glob("official-push-fifo-*.jsonl"))) >= 2  # a fresh one for the drain


def test_stopped_before_it_could_begin(tmp_path: Path) -> None:
    """Where no server is there nothing is known, and that is not called well."""
    with Node(tmp_path / "data") as node:
        address = node.address
    assert address
    with workload(node, tmp_path / "h") as work:
        deadline = time.monotonic() + READY_S
        while not list((tmp_path / "h").glob("*.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        work.process.send_signal(signal.SIGTERM)
        assert work.process.wait(60) == 2
    assert "nothing was ever acknowledged" in check(tmp_path / "h").faults
