"""What commands print: tables for people, JSON for scripts. Standard output holds results, standard error the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Format = Literal["table", "json"]

PIPE_WIDTH = 240  # characters of a table that nobody's terminal bounds


def console(*, error: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=error, width=width, highlight=False, emoji=False, markup=False)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Columns whose cells are all numbers are set to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, header in enumerate(headers):
        column = [row[number] for row in cells]
        numeric = bool(column) and all(isinstance(cell, int | float) or cell is None for cell in column)
        table.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    out = console()
    if title is not None:
        out.print(title, style="bold")
    out.print(table)


def print_facts(facts: Iterable[tuple[str, object]], *, title: str | None = None) -> None:
    """Name and value, one a line."""
    lines = [(name, _cell(value)) for name, value in facts]
    width = max((len(name) for name, _ in lines), default=0)
    if title is not None:
        print(title)
    for name, value in lines:
        print(f"{name:<{width}}  {value}".rstrip())


def note(text: str) -> None:
    """A remark for people, beside the results."""
    print(text, file=sys.stderr, flush=True)


def progress(*columns: Any) -> Progress:
    """Live bars on standard error; nothing where that is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = columns or (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    return Progress(*shown, console=console(error=True), disable=not sys.stderr.isatty(), transient=False)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)
