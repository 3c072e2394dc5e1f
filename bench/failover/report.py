"""The tables of the failover benchmark: results in, markdown out. Pure.

A figure is the median, the 99th percentile and the greatest of all rounds; with fewer than a hundred rounds the last two are
the same. A failed round counts nowhere but in the list of failures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.failover.measures import FIRST_OK_S
from bench.failover.sends import quantile

Result = dict[str, Any]
OURS = "kourou"


@dataclass(frozen=True)
class Row:
    """One line: a field of one measure or of several taken together."""

    title: str
    measures: tuple[str, ...]
    field: str
    unit: str
    goal: str = ""
    met: Callable[[float, float], bool] | None = None  # of the median and the 99th percentile
    total: bool = False  # the sum over all rounds is what counts
    ours: str = OURS  # whose goal it is


ROWS = (
    Row("kill -9 of the master, first OK", ("kill",), "first_ok", "ms", "p50 < 300, p99 < 1,000", lambda m, p: m < 300 and p < 1_000),
    Row("SIGSTOP of the master, first OK", ("freeze",), "first_ok", "ms", "p50 < 3,200, p99 < 4,000", lambda m, p: m < 3_200 and p < 4_000),
    Row("master cut off, first OK", ("cut",), "first_ok", "ms", "p50 < 3,200, p99 < 4,000", lambda m, p: m < 3_200 and p < 4_000),
    Row("SIGSTOP or cut, first OK, with D = 2", ("freeze", "cut"), "first_ok", "ms", "p99 < 3,000", lambda m, p: p < 3_000, ours="kourou-d2"),
    Row("all unplanned, mixed, first OK", ("kill", "freeze", "cut"), "first_ok", "ms", "p50 < 2,000, p99 < 5,000", lambda m, p: m < 2_000 and p < 5_000),
    Row("unplanned, failed sends", ("kill", "freeze", "cut"), "failed", "a fault"),
    Row("planned switchover, gap", ("switchover",), "gap", "ms", "p50 < 100, p99 < 300", lambda m, p: m < 100 and p < 300),
    Row("planned switchover, failed sends", ("switchover",), "failed", "in all", "0", lambda m, p: p == 0, total=True),
    Row("follower killed, gap", ("kill_follower",), "gap", "ms", "< 300", lambda m, p: p < 300),
    Row("follower frozen, gap", ("freeze_follower",), "gap", "ms", "< 3,200", lambda m, p: p < 3_200),
    Row("leader of the electing servers killed, gap", ("coordinator",), "gap", "ms"),
    Row("leader of the electing servers killed, failed sends", ("coordinator",), "failed", "in all", "0", lambda m, p: p == 0, total=True),
    Row("electing servers down, gap", ("coordinators_down",), "gap", "ms"),
    Row("electing servers down, failed sends", ("coordinators_down",), "failed", "in all", "0", lambda m, p: p == 0, total=True),
    Row("follower far behind, in sync again", ("far_behind",), "caught_up_s", "s", "< 180 with 10 GiB", lambda m, p: p < 180),
    Row("… p99 of sends meanwhile", ("far_behind",), "p99_meanwhile", "ms"),
    Row("… p99 of sends before", ("far_behind",), "p99_before", "ms"),
    Row("… meanwhile / before", ("far_behind",), "p99_times", "x", "< 2", lambda m, p: m < 2),
    Row("follower killed -9 and started, serves", ("restart_one",), "ready_s", "s", "< 2 with 10 GiB", lambda m, p: p < 2),
    Row("all killed -9 and started, all serve", ("restart_all",), "ready_s", "s"),
    Row("all killed -9 and started, first OK", ("restart_all",), "first_ok", "ms"),
    Row("whole again after kill -9 of the master", ("kill",), "whole_s", "s"),
)  # fmt: skip


class Results:
    def __init__(self, files: Sequence[Result]) -> None:
        self.files = files
        self.info: dict[str, dict[str, Any]] = {}
        for file in files:
            self.info.update(file["contestants"])
        self.runs = [run for file in files for run in file["runs"]]
        present = {run["contestant"] for run in self.runs}
        self.names = [name for name in self.info if name in present]

    def of(self, contestant: str, row: Row) -> list[float]:
        return sorted(
            run[row.field]
            for run in self.runs
            if run["contestant"] == contestant
            and run["measure"] in row.measures
            and run["ok"]
            and run.get(row.field) is not None
        )


def figure(row: Row, values: Sequence[float]) -> str:
    if not values:
        return "-"
    if row.total:
        return f"{sum(values):,.0f} in {len(values)}"
    middle, tail, most = median(values), quantile(values, 0.99) or 0.0, values[-1]

    def shown(value: float) -> str:
        text = f"{value:,.2f}" if row.unit in ("s", "x") else f"{value:,.0f}"
        return f"over {text}" if row.field == "first_ok" and value >= FIRST_OK_S * 1e3 else text

    if len(values) == 1:
        return f"{shown(middle)} (n=1)"
    spread = f"max {shown(most)}" if tail == most else f"p99 {shown(tail)}, max {shown(most)}"
    return f"{shown(middle)}, {spread} (n={len(values)})"


def verdict(row: Row, values: Sequence[float]) -> str:
    if row.met is None or not values:
        return ""
    middle, tail = (sum(values), sum(values)) if row.total else (median(values), quantile(values, 0.99) or 0.0)
    return "yes" if row.met(middle, tail) else "NO"


def lines(files: Sequence[Result]) -> list[str]:
    results = Results(files)
    found = [
        f"{file['host']['cores']} cores, {file['host']['memory_gib']:.0f} GiB, Linux {file['host']['kernel']}, "
        f"Python {file['host']['python']}; {file['started']} .. {file.get('ended', 'not ended')}; "
        f"{file['options']['rate']:,} sends/s of 1 KiB; {'a network namespace for each host' if file['netns'] else 'all on loopback'}."
        for file in files
    ]
    found += ["", "Cells: median, greatest (number of rounds).", ""]
    for name in results.names:
        info = results.info[name]
        found.append(f"- **{name}**: {info['server']}; client: {info['client']}; planned: {info['switchover']}")
    found += ["", *_table(["measure", "unit", *results.names, "goal", "met"], _rows(results)), ""]
    found += [
        "Every message that was acknowledged is looked for at the end of each round:",
        "",
        *_checks(results, files),
        "",
    ]
    failures = [run for run in results.runs if not run["ok"]]
    if failures:
        found += ["Measures that failed:", ""]
        found += [f"- round {run['round']}, {run['contestant']}, {run['measure']}: {run['error']}" for run in failures]
    for file in files:
        if file.get("replication"):
            found += ["", "One broker beside a master with one slave, `--ack all --min-isr 2` (bench/replication.py):", ""]
            found += [f"    {line}" for line in file["replication"]]
    return found


def _rows(results: Results) -> list[list[str]]:
    rows = []
    for row in ROWS:
        values = {name: results.of(name, row) for name in results.names}
        if any(values.values()) and (row.ours == OURS or values.get(row.ours)):
            cells = [figure(row, values[name]) for name in results.names]
            rows.append([row.title, row.unit, *cells, row.goal, verdict(row, values.get(row.ours, []))])
    return rows


def _checks(results: Results, files: Sequence[Result]) -> list[str]:
    rows = []
    for name in results.names:
        checks = [check for file in files for check in file["checks"] if check["contestant"] == name]
        sums = [sum(check[field] for check in checks) for field in ("acknowledged", "failed", "lost", "twice", "unexpected")]
        rows.append([name, str(len(checks)), *(f"{value:,}" for value in sums)])
    return _table(
        ["contestant", "rounds", "acknowledged", "failed", "acknowledged and lost", "there twice", "unexpected"], rows
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]
