"""The tables of `bench.py report`, and the sums behind them. Pure: results in, text out.

Results are JSON files of `bench.py run`: `contestants` (name -> what it is), `probes`, and `runs`, one entry for each
contestant, round and workload, with `ok` false where it failed. A failed run counts nowhere but in the list of failures.

Figures are medians over the rounds. Ratios to other systems are taken within a round, where the machine was the same, and
the median of these ratios is reported; a round in which one side failed has no ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Run = dict[str, Any]
Result = dict[str, Any]
OURS = "kourou"


def is_ours(contestant: str) -> bool:
    return contestant == OURS or contestant.startswith(OURS + "-")


def spread(values: Sequence[float | None], form: str = "{:,.0f}") -> str:
    """median [min..max], of what is there."""
    found = sorted(value for value in values if value is not None)
    if not found:
        return "-"
    middle = form.format(median(found))
    return middle if found[0] == found[-1] else f"{middle} [{form.format(found[0])}..{form.format(found[-1])}]"


class Results:
    """The runs of one or more files, asked by contestant, workload and field."""

    def __init__(self, files: Sequence[Result], *, quiet: float | None = None) -> None:
        """``quiet``: only runs during which the rest of the machine used less than so many cores."""
        self.files = files
        self.info: dict[str, dict[str, Any]] = {}
        self.runs: list[tuple[tuple[int, int], Run]] = []  # ((file, round), run)
        for number, file in enumerate(files):
            self.info.update(file["contestants"])
            for run in file["runs"]:
                if quiet is None or run.get("other_cpu", 0) < quiet:
                    self.runs.append(((number, run["round"]), run))
        present = {run["contestant"] for _, run in self.runs}
        self.names = [name for name in self.info if name in present]

    def of(self, contestant: str, workload: str, field: str) -> list[float]:
        return [value for _, value in sorted(self.by_round(contestant, workload, field).items())]

    def by_round(self, contestant: str, workload: str, field: str) -> dict[tuple[int, int], float]:
        """The figure of each round that did not fail. A field ``a/b`` is a quotient in millionths."""
        found: dict[tuple[int, int], float] = {}
        top, _, bottom = field.partition("/")
        for key, run in self.runs:
            if run["contestant"] == contestant and run["workload"] == workload and run.get("ok"):
                value = run.get(top)
                if bottom and value is not None:
                    value = value / run[bottom] * 1e6
                if value is not None:
                    found[key] = value
        return found

    def ratios(
        self, ours: str, workload: str, field: str, others: Sequence[str], *, best: Callable[[list[float]], float]
    ) -> list[float]:
        """Ours over the best of the others, for each round in which both are there."""
        columns = [self.by_round(other, workload, field) for other in others]
        found: list[float] = []
        for key, value in sorted(self.by_round(ours, workload, field).items()):
            rivals = [column[key] for column in columns if key in column]
            if rivals and best(rivals):
                found.append(value / best(rivals))
        return found

    def failed(self) -> list[Run]:
        return [run for _, run in self.runs if not run.get("ok")]


@dataclass(frozen=True, slots=True)
class Target:
    """What ours has to reach: a ratio to the others (or to one of them), or a figure of its own (``others`` empty)."""

    text: str
    ours: str
    workload: str
    field: str
    bound: float
    at_least: bool = False
    others: str = ""  # "best", or a contestant's name


TARGETS = (
    Target("W1 produce 1 KiB, send_many", "kourou", "w1", "msg_s", 3.0, True, "best"),
    Target("W3 produce 100 B, send_many", "kourou", "w3p", "msg_s", 3.0, True, "best"),
    Target("W2 consume 1 KiB by batches", "kourou", "w2", "msg_s", 2.0, True, "best"),
    Target("W2 the same without the sink", "kourou-nosink", "w2", "msg_s", 2.0, True, "best"),
    Target("W3 consume 100 B by batches", "kourou", "w3c", "msg_s", 2.0, True, "best"),
    Target("W3 the same without the sink", "kourou-nosink", "w3c", "msg_s", 2.0, True, "best"),
    Target("W2 message by message", "kourou-send", "w2", "msg_s", 1.0, True, "best"),
    Target("W3 message by message", "kourou-send", "w3c", "msg_s", 1.0, True, "best"),
    Target("W4 p50", "kourou", "w4", "p50_us", 1.7, others="redis"),
    Target("W4 p50, all but Redis", "kourou", "w4", "p50_us", 1.0, others="best but redis"),
    Target("W4 p99", "kourou", "w4", "p99_us", 2.0, others="redis"),
    Target("W4 fsync p50", "kourou", "w4s", "p50_us", 1.7, others="redis"),
    Target("W4 fsync p50, all but Redis", "kourou", "w4s", "p50_us", 1.0, others="best but redis"),
    Target("W5 p50", "kourou", "w5", "p50_us", 1.0, others="best"),
    Target("W5 p99", "kourou", "w5", "p99_us", 1.0, others="best"),
    Target("W6 server CPU a message", "kourou", "w1", "server_cpu_s/n_msgs", 1 / 3, others="best"),
    Target("W6 peak RSS under W1, MB", "kourou", "w1", "server_rss_mb", 150),
    Target("W6 RSS after start, MB", "kourou", "w7", "idle_rss_mb", 80),
    Target("W7 start to first ack, s", "kourou", "w7", "fresh_s", 0.6),
)


def judge(results: Results, target: Target) -> list[float]:
    """The figures (of each round) that are compared with a target's bound."""
    if not target.others:
        return results.of(target.ours, target.workload, target.field)
    if target.others.startswith("best"):
        left_out = target.others.removeprefix("best").removeprefix(" but ").split()
        others = [name for name in results.names if not is_ours(name) and name not in left_out]
    else:
        others = [target.others]
    best: Callable[[list[float]], float] = max if target.at_least else min
    return results.ratios(target.ours, target.workload, target.field, others, best=best)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["", f"### {title}", ""]
    for number, row in enumerate([header, *rows]):
        lines.append("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


Column = tuple[str, str, str, str]  # heading, workload, field, format
TABLES: tuple[tuple[str, tuple[Column, ...]], ...] = (
    (
        "W1 produce / W2 consume, 1 KiB, one process each",
        (
            ("messages", "w1", "n_msgs", "{:,.0f}"),
            ("W1 msg/s", "w1", "msg_s", "{:,.0f}"),
            ("W1 MB/s", "w1", "mb_s", "{:,.1f}"),
            ("W2 msg/s", "w2", "msg_s", "{:,.0f}"),
            ("W2 dups", "w2", "dups", "{:,.0f}"),
            ("first msg s", "w2", "first_s", "{:.2f}"),
        ),
    ),
    (
        "W3 100 B",
        (
            ("W3 produce msg/s", "w3p", "msg_s", "{:,.0f}"),
            ("W3 consume msg/s", "w3c", "msg_s", "{:,.0f}"),
            ("dups", "w3c", "dups", "{:,.0f}"),
        ),
    ),
    (
        "W4 serial produce latency, 1 KiB, us",
        (
            ("p50", "w4", "p50_us", "{:,.0f}"),
            ("p99", "w4", "p99_us", "{:,.0f}"),
            ("fsync p50", "w4s", "p50_us", "{:,.0f}"),
            ("fsync p99", "w4s", "p99_us", "{:,.0f}"),
        ),
    ),
    (
        "W5 end-to-end latency at 1,000 msg/s, 1 KiB, us",
        (
            ("p50", "w5", "p50_us", "{:,.0f}"),
            ("p99", "w5", "p99_us", "{:,.0f}"),
            ("max", "w5", "max_us", "{:,.0f}"),
            ("dups", "w5", "dups", "{:,.0f}"),
            ("producer late max ms", "w5", "late_max_ms", "{:.1f}"),
        ),
    ),
    (
        "W6 cost of W1 and W2 (server: whole process tree)",
        (
            ("RSS after start MB", "w7", "idle_rss_mb", "{:,.0f}"),
            ("W1 peak RSS MB", "w1", "server_rss_mb", "{:,.0f}"),
            ("of it anonymous", "w1", "server_anon_mb", "{:,.0f}"),
            ("W1 server us/msg", "w1", "server_cpu_s/n_msgs", "{:.2f}"),
            ("W1 client us/msg", "w1", "client_cpu_s/n_msgs", "{:.2f}"),
            ("W2 server us/msg", "w2", "server_cpu_s/n_msgs", "{:.2f}"),
            ("W2 client us/msg", "w2", "client_cpu_s/n_msgs", "{:.2f}"),
            ("others' CPU cores", "w1", "other_cpu", "{:.2f}"),
        ),
    ),
    ("W7 start-up, s", (("fresh + topic", "w7", "fresh_s", "{:.2f}"), ("restart", "w7", "restart_s", "{:.2f}"))),
)


def lines(files: Sequence[Result], *, quiet: float | None = None) -> list[str]:
    """The whole report."""
    results = Results(files, quiet=quiet)
    found = _head(files)
    for title, columns in TABLES:
        workloads = {workload for _, workload, _, _ in columns}
        rows = []
        for name in results.names:
            seen = [run for _, run in results.runs if run["contestant"] == name and run["workload"] in workloads]
            if seen:
                ok = sum(bool(run.get("ok")) for run in seen)
                cells = [spread(results.of(name, workload, field), form) for _, workload, field, form in columns]
                rows.append([name, f"{ok}/{len(seen)}", *cells])
        found += table(title, ["contestant", "runs ok", *(heading for heading, _, _, _ in columns)], rows)
    found += _targets(results)
    found += ["", "### What an acknowledgement means", ""]
    for name in results.names:
        what = results.info[name]
        fsync = what["fsync"] or "no setting of its own"
        found.append(
            f"- {name}: {what['server']}; client {what['client']}; {what['durability']}; fsync: {fsync}; {what['versions']}"
        )
    failed = results.failed()
    if failed:
        found += ["", "### Failed runs", ""]
        found += [f"- r{run['round']} {run['contestant']} {run['workload']}: {run.get('error')}" for run in failed]
    for _, run in results.runs:
        if run.get("errors"):
            found.append(f"- errors seen in r{run['round']} {run['contestant']} {run['workload']}: {run['errors']}")
    return found


def _head(files: Sequence[Result]) -> list[str]:
    host = files[0]["host"]
    found = [
        f"{host['cores']} cores ({host['cpu']}), {host['mem_gib']:.0f} GiB, Linux {host['kernel']}, Python {host['python']}, "
        f"{host['java']}; {files[0]['started']} .. {files[-1].get('ended', '(running)')}. Cells: median [min..max] over the rounds."
    ]
    for file in files:
        for probe in file["probes"]:
            found.append(
                f"  probe r{probe['round']}: fdatasync p50 {probe['fdatasync_p50_us']:.0f} p99 {probe['fdatasync_p99_us']:.0f} us, "
                f"python loopback echo p50 {probe['echo_p50_us']:.0f} us, others' CPU {probe['others_cpu']:.2f} cores, "
                f"load {probe['load'][0]:.2f}"
            )
    return found


def _targets(results: Results) -> list[str]:
    rows = []
    for target in TARGETS:
        figures = judge(results, target)
        if not figures:
            continue
        middle = median(figures)
        met = middle >= target.bound if target.at_least else middle <= target.bound
        against = {"": "-", "best": "best other"}.get(target.others, target.others)
        sign = "at least" if target.at_least else "at most"
        times = "" if not target.others else " x"
        rows.append([
            target.text, target.ours, against, f"{sign} {target.bound:.3g}{times}", spread(figures, "{:.3g}"), "yes" if met else "NO",
        ])  # fmt: skip
    return table("Targets (ratios within a round)", ["what", "ours", "against", "target", "measured", "met"], rows)
