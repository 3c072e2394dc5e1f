"""Which failures are said in one line, and which are bugs whose traceback is wanted."""

from __future__ import annotations

import asyncio

import pytest

from kourou.cli.failures import FAILED, INTERRUPTED, PIPE_CLOSED, USAGE, CommandFailed, explain
from kourou.cli.values import BadValue
from kourou.core.errors import IllegalName, NotConnected, TopicNotFound


@pytest.mark.parametrize(
    ("failure", "status", "line"),
    [
        (KeyboardInterrupt(), INTERRUPTED, ""),
        (asyncio.CancelledError(), INTERRUPTED, ""),
        (BrokenPipeError(), PIPE_CLOSED, ""),
        (CommandFailed("two\n  lines"), FAILED, "two lines"),
        (CommandFailed("wrong", status=USAGE), USAGE, "wrong"),
        (TopicNotFound("no topic"), FAILED, "no topic"),
        (NotConnected(""), FAILED, "NotConnected"),
        (BadValue("no size"), USAGE, "no size"),
        (IllegalName("no name"), USAGE, "no name"),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [TopicNotFound("deep")])]), FAILED, "deep"),
        (ModuleNotFoundError("", name="grpc.aio"), USAGE, "grpc is not installed; run: pip install 'kourou[server]'"),
        (ModuleNotFoundError("", name="rich"), USAGE, "rich is not installed; run: pip install 'kourou[cli]'"),
        (FileNotFoundError(2, "No such file", "x"), FAILED, "x: No such file"),
        (OSError(28, "No space left on device"), FAILED, "No space left on device"),
        (TimeoutError(), FAILED, "timed out"),
        (OSError(), FAILED, "input or output failed"),
    ],
)
def test_expected(failure: BaseException, status: int, line: str) -> None:
    assert explain(failure) == (status, line)


def test_a_lazily_imported_command_without_its_extra() -> None:
    failure = ImportError("can't import")
    failure.__cause__ = ModuleNotFoundError("", name="numpy")
    assert explain(failure) == (USAGE, "numpy is not installed; run: pip install 'kourou[server]'")


@pytest.mark.parametrize(
    "failure", [ValueError("x"), KeyError("x"), ModuleNotFoundError("", name="kourou.x"), AssertionError()]
)
def test_bugs(failure: Exception) -> None:
    assert explain(failure) is None
