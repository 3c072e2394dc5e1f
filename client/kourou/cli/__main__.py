"""The ``kourou`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

SERVER_COMMANDS = frozenset({"standalone", "nameserver", "broker", "cluster", "log"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 when it is done, 1 when it failed, 2 when it was asked wrongly, 130 on Ctrl-C."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed()
    try:
        status = run(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        status = _pipe_closed()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def run(tokens: list[str]) -> int:
    """Run a command; its exit status. Expected failures are printed, bugs are raised."""
    try:
        from cyclopts import CycloptsError
        from rich import get_console
    except ModuleNotFoundError:
        wanted = "server" if tokens and tokens[0] in SERVER_COMMANDS else "cli"
        print(f"error: the kourou command is not installed; run: pip install 'kourou[{wanted}]'", file=sys.stderr)
        return 2
    from kourou.cli import failures
    from kourou.cli.app import app, read_docstring

    assert get_console is not None
    try:
        read_docstring(tokens)
        result = app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as failure:
        print(f"error: {failures.usage(failure)}", file=sys.stderr)
        return failures.USAGE
    except BrokenPipeError:
        return _pipe_closed()
    except BaseException as failure:
        explained = failures.explain(failure)
        if explained is None:
            raise
        status, line = explained
        if status == failures.PIPE_CLOSED:
            return _pipe_closed()
        if line:
            print(f"error: {line}", file=sys.stderr)
        return status
    return result if isinstance(result, int) else failures.DONE


def _open_closed() -> None:
    """There is no sys.stdout where the shell closed it (``>&-``): what is written goes nowhere."""
    import os

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False))  # noqa: SIM115  for good


def _pipe_closed() -> int:
    """Whoever read our output has gone (``| head``): leave quietly, and keep the interpreter from flushing again."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


if __name__ == "__main__":
    main()
