"""Processes that have a push consumer can be got rid of, whatever they do."""

from __future__ import annotations

import sys
import threading

from tests.chaos.workers.pushprocess import PushProcess

WAIT_S = 30.0


def running(program: str) -> tuple[PushProcess, threading.Event]:
    received = threading.Event()
    return PushProcess([sys.executable, "-c", program], received=received.set), received


def test_one_that_hangs_is_killed() -> None:
    process, received = running("print('received', flush=True); import threading; threading.Event().wait()")
    assert received.wait(WAIT_S)
    assert process.end(grace_s=0.1) is None
    assert process.status == -9


def test_one_that_ends_in_good_order() -> None:
    process, received = running("import sys; print('received', flush=True); sys.stdin.read(); sys.exit(3)")
    assert received.wait(WAIT_S)
    assert process.end(grace_s=WAIT_S) is None
    assert process.status == 3


def test_one_that_ended_by_itself() -> None:
    process, received = running("print('received', flush=True); import os; os._exit(4)")
    assert received.wait(WAIT_S)
    process.wait(WAIT_S)
    assert process.end() == 4


def test_nothing_is_received_before_it_says_so() -> None:
    process, received = running("import sys; sys.stdin.read()")
    process.end(grace_s=WAIT_S)
    assert process.status == 0
    assert not received.is_set()
