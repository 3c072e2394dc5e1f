"""The sums of the failover benchmark, on planted sends: first OK, gap, what was lost, and the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.failover.report import ROWS, figure, lines, verdict
from bench.failover.sends import FAILED, OK, RECORD, Send, Sends, Verdict, Window, quantile

MS = 1_000_000


def planted(folder: Path, *sends: tuple[int, int, int, int]) -> Sends:
    """(number, called ms, ended ms, outcome)"""
    path = folder / "sends"
    path.write_bytes(b"".join(RECORD.pack(number, called * MS, ended * MS, how) for number, called, ended, how in sends))
    return Sends(path).refresh()


def test_first_ok_is_the_new_masters(tmp_path: Path) -> None:
    """What was called before the fault may have been answered by the old one; failed ones don't count."""
    sends = planted(
        tmp_path, (0, 90, 103, OK), (1, 101, 150, FAILED), (2, 99, 160, OK), (3, 120, 170, OK), (4, 110, 180, OK)
    )
    assert sends.first_ok(100 * MS) == 170 * MS
    assert sends.first_ok(180 * MS) is None


def test_a_record_that_is_half_written_is_read_later(tmp_path: Path) -> None:
    path = tmp_path / "sends"
    whole = RECORD.pack(1, 1, 2, OK)
    path.write_bytes(whole + whole[:7])
    sends = Sends(path).refresh()
    assert len(sends.all) == 1
    path.write_bytes(whole * 2)
    assert sends.refresh().all == [Send(1, 1, 2, OK)] * 2


def test_sends_that_went_well_since(tmp_path: Path) -> None:
    sends = planted(tmp_path, *((number, number, number + 1, OK if number % 2 else FAILED) for number in range(5_000)))
    assert sends.ok_since(3_999 * MS) == 500
    assert sends.ok_since(5_000 * MS) == 0


def test_a_window_knows_its_longest_gap() -> None:
    sends = [
        Send(0, 0, 90 * MS, OK),
        Send(1, 100 * MS, 110 * MS, OK),
        Send(2, 105 * MS, 300 * MS, OK),
        Send(3, 1, 200 * MS, FAILED),
    ]
    window = Window.of(sends, 100 * MS, 400 * MS)
    assert (window.ok, window.failed, window.gap_ms, window.max_ms) == (2, 1, 190.0, 195.0)
    assert Window.of([], 0, 50 * MS) == Window(0, 0, 50.0, None, None, None)


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(0, 0.5, None), (1, 0.99, 0), (4, 0.5, 1), (100, 0.99, 98), (101, 0.99, 99), (15, 0.99, 14)],
)
def test_quantiles(count: int, share: float, expected: float | None) -> None:
    assert quantile(list(range(count)), share) == expected


def test_what_was_acknowledged_has_to_be_there() -> None:
    sends = [Send(0, 0, 1, OK), Send(1, 0, 1, FAILED), Send(2, 0, 1, OK), Send(3, 0, 1, OK)]
    found = Verdict.of(sends, 5, [0, 1, 3, 3, 9])
    assert found == Verdict(acknowledged=3, failed=1, read=4, lost=(2,), twice=1, unexpected=1)


def run(measure: str, **figures: Any) -> dict[str, Any]:
    return {"round": 1, "contestant": "kourou", "measure": measure, "ok": True, **figures}


def test_tables() -> None:
    result = {
        "started": "then", "netns": True, "options": {"rate": 1_000},
        "host": {"cores": 2, "memory_gib": 4.0, "kernel": "k", "python": "3"},
        "contestants": {"kourou": {"server": "s", "client": "c", "switchover": "p"}},
        "runs": [
            run("kill", first_ok=100.0, failed=0), run("kill", first_ok=200.0, failed=0),
            run("freeze", first_ok=90_000.0, failed=3),
            {"round": 2, "contestant": "kourou", "measure": "cut", "ok": False, "error": "broken"},
        ],
        "checks": [{"contestant": "kourou", "acknowledged": 5, "failed": 3, "lost": 0, "twice": 0, "unexpected": 0}],
    }  # fmt: skip
    text = "\n".join(lines([result]))
    assert "| 150, max 200 (n=2)" in text
    assert "| over 90,000 (n=1)" in text
    assert "round 2, kourou, cut: broken" in text
    killed = next(row for row in ROWS if row.measures == ("kill",) and row.field == "first_ok")
    assert verdict(killed, [100.0, 200.0]) == "yes"
    assert verdict(killed, [100.0, 1_200.0]) == "NO"
    planned = next(row for row in ROWS if row.total and row.measures == ("switchover",))
    assert (figure(planned, [0, 2]), verdict(planned, [0, 2])) == ("2 in 2", "NO")
