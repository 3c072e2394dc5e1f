"""What can go wrong in a command that is not a bug: one line on standard error, and an exit status."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kourou.cli.values import BadValue
from kourou.core.errors import IllegalName, KourouError

if TYPE_CHECKING:
    from cyclopts import CycloptsError

DONE = 0
FAILED = 1
USAGE = 2  # wrong arguments, or something to install
INTERRUPTED = 130
PIPE_CLOSED = 141
DISK_FAILED = 74  # of a server; EX_IOERR of sysexits.h

CLI_MODULES = frozenset({"cyclopts", "rich"})
SERVER_MODULES = frozenset(
    {"google", "grpc", "numpy", "prometheus_client", "structlog", "tenacity", "uvloop", "grpc_status"}
)


class CommandFailed(Exception):
    """The command could not do what was asked; the text is the whole message."""

    def __init__(self, message: str, *, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def one_line(text: str) -> str:
    return " ".join(text.split())


def usage(failure: CycloptsError) -> str:
    """What was wrong with the command line, and where to read how it is right."""
    from cyclopts.exceptions import UnusedCliTokensError

    if isinstance(failure, UnusedCliTokensError) and failure.unused_tokens:
        text = f"unexpected: {' '.join(failure.unused_tokens)}"
    else:
        text = re.sub(r"(?<!\.)\.$", "", one_line(str(failure)))
    return f"{text} (see: {' '.join(('kourou', *(failure.command_chain or ()), '--help'))})"


def explain(failure: BaseException) -> tuple[int, str] | None:
    """(exit status, line for the user) of a failure that is expected; None for a bug, whose traceback is wanted."""
    for leaf in _leaves(failure):
        if isinstance(leaf, KeyboardInterrupt | asyncio.CancelledError):
            return INTERRUPTED, ""
        if isinstance(leaf, BrokenPipeError):
            return PIPE_CLOSED, ""
        if isinstance(leaf, CommandFailed):
            return leaf.status, one_line(str(leaf))
        if isinstance(leaf, BadValue | IllegalName):
            return USAGE, one_line(str(leaf))
        if isinstance(leaf, KourouError):
            return FAILED, one_line(str(leaf)) or type(leaf).__name__
        if isinstance(leaf, ModuleNotFoundError) and leaf.name is not None:
            missing = leaf.name.partition(".")[0]
            if missing in CLI_MODULES:
                return USAGE, f"{missing} is not installed; run: pip install 'kourou[cli]'"
            if missing in SERVER_MODULES:
                return USAGE, f"{missing} is not installed; run: pip install 'kourou[server]'"
        if isinstance(leaf, OSError):
            return FAILED, _os_error(leaf)
    return None


def _leaves(failure: BaseException) -> Iterator[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        for inner in failure.exceptions:
            yield from _leaves(inner)
        return
    yield failure
    if isinstance(failure, ImportError) and failure.__cause__ is not None:  # lazily registered commands wrap it
        yield from _leaves(failure.__cause__)


def _os_error(failure: OSError) -> str:
    reason = failure.strerror or one_line(str(failure))
    reason = reason or ("timed out" if isinstance(failure, TimeoutError) else "input or output failed")
    return f"{failure.filename}: {reason}" if failure.filename is not None else reason
