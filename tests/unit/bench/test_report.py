"""The sums behind the tables of bench/report.py, on planted results."""

from __future__ import annotations

from typing import Any

import pytest

from bench.report import TARGETS, Results, Target, is_ours, judge, lines, spread, table


def run(round_: int, contestant: str, workload: str, **figures: Any) -> dict[str, Any]:
    return {"round": round_, "contestant": contestant, "workload": workload, "ok": True, **figures}


def failed(round_: int, contestant: str, workload: str, error: str) -> dict[str, Any]:
    return {"round": round_, "contestant": contestant, "workload": workload, "ok": False, "error": error, "msg_s": 1.0}


def planted(*runs: dict[str, Any]) -> dict[str, Any]:
    probe = {"fdatasync_p50_us": 100, "fdatasync_p99_us": 200, "echo_p50_us": 20, "others_cpu": 0.01, "load": [0.5, 0, 0]}
    what: dict[str, Any] = {"server": "s", "client": "c", "durability": "d", "fsync": None, "versions": {}}
    return {
        "host": {"cores": 2, "cpu": "x", "mem_gib": 4.0, "kernel": "6", "python": "3.11", "java": "no java"},
        "started": "then",
        "ended": "later",
        "contestants": {run["contestant"]: what for run in runs},
        "probes": [{"round": 1, **probe}],
        "runs": list(runs),
    }


W1 = Target("W1", "kourou", "w1", "msg_s", 3.0, True, "best")


def test_spread_is_median_and_range() -> None:
    assert spread([]) == "-"
    assert spread([None, None]) == "-"
    assert spread([1500.0]) == "1,500"
    assert spread([3, None, 1, 2]) == "2 [1..3]"
    assert spread([1, 2, 3, 10], "{:.1f}") == "2.5 [1.0..10.0]"
    assert spread([7, 7, 7]) == "7"


def test_failed_runs_count_in_no_figure_but_are_named() -> None:
    results = Results(
        [planted(run(1, "nats", "w1", msg_s=10.0), failed(2, "nats", "w1", "it broke"), run(3, "nats", "w1", msg_s=30.0))]
    )
    assert results.of("nats", "w1", "msg_s") == [10.0, 30.0]
    assert [one["error"] for one in results.failed()] == ["it broke"]


def test_a_round_in_which_one_side_failed_has_no_ratio() -> None:
    """Ratios pair what ran in the same round; the best rival is chosen in each round anew."""
    results = Results([
        planted(
            run(1, "kourou", "w1", msg_s=300.0), run(1, "nats", "w1", msg_s=50.0), run(1, "redis", "w1", msg_s=100.0),
            run(2, "kourou", "w1", msg_s=400.0), run(2, "nats", "w1", msg_s=50.0), failed(2, "redis", "w1", "gone"),
            failed(3, "kourou", "w1", "oops"), run(3, "nats", "w1", msg_s=50.0), run(3, "redis", "w1", msg_s=100.0),
            run(4, "kourou", "w1", msg_s=500.0), failed(4, "nats", "w1", "gone"), failed(4, "redis", "w1", "gone"),
        )
    ])  # fmt: skip
    assert judge(results, W1) == [3.0, 8.0]


def test_rounds_of_different_files_are_different_rounds() -> None:
    first = planted(run(1, "kourou", "w1", msg_s=100.0), run(1, "redis", "w1", msg_s=50.0))
    second = planted(run(1, "kourou", "w1", msg_s=100.0), run(1, "redis", "w1", msg_s=25.0))
    assert judge(Results([first, second]), W1) == [2.0, 4.0]


def test_our_own_variants_are_no_rivals() -> None:
    results = Results(
        [
            planted(
                run(1, "kourou", "w1", msg_s=60.0), run(1, "kourou-post", "w1", msg_s=90.0), run(1, "nats", "w1", msg_s=20.0)
            )
        ]
    )
    assert judge(results, W1) == [3.0]
    assert is_ours("kourou")
    assert is_ours("kourou-post")
    assert not is_ours("kouroux")


def test_latency_is_compared_with_the_least_of_the_others() -> None:
    results = Results([
        planted(
            run(1, "kourou", "w4", p50_us=90.0),
            run(1, "redis", "w4", p50_us=60.0),
            run(1, "nats", "w4", p50_us=180.0),
            run(1, "kafka", "w4", p50_us=450.0),
        )
    ])  # fmt: skip
    assert judge(results, Target("", "kourou", "w4", "p50_us", 1.7, others="redis")) == [1.5]
    assert judge(results, Target("", "kourou", "w4", "p50_us", 1.0, others="best but redis")) == [0.5]


def test_cost_is_a_quotient_of_the_same_run() -> None:
    file = planted(
        run(1, "kourou", "w1", server_cpu_s=1.0, n_msgs=1_000_000), run(1, "nats", "w1", server_cpu_s=1.0, n_msgs=100_000)
    )
    results = Results([file])
    assert results.of("nats", "w1", "server_cpu_s/n_msgs") == [10.0]
    assert judge(results, Target("", "kourou", "w1", "server_cpu_s/n_msgs", 1 / 3, others="best")) == pytest.approx([0.1])


def test_only_runs_on_a_quiet_machine() -> None:
    file = planted(run(1, "nats", "w1", msg_s=1.0, other_cpu=0.9), run(2, "nats", "w1", msg_s=5.0, other_cpu=0.1))
    assert Results([file], quiet=0.3).of("nats", "w1", "msg_s") == [5.0]


def test_tables_line_up() -> None:
    assert table("t", ["a", "b"], [["long", "1"]])[3:] == ["| a    | b |", "|------|---|", "| long | 1 |"]
    assert table("t", ["a"], []) == []


def test_the_whole_report() -> None:
    file = planted(
        run(
            1,
            "kourou",
            "w1",
            msg_s=400_000.0,
            mb_s=400.0,
            n_msgs=1000,
            server_cpu_s=0.001,
            client_cpu_s=0.001,
            server_rss_mb=160,
        ),
        run(1, "nats", "w1", msg_s=20_000.0, mb_s=20.0, n_msgs=1000, server_cpu_s=0.01, client_cpu_s=0.04, server_rss_mb=66),
        failed(1, "nats", "w2", "missing 3, bad 0"),
    )
    text = "\n".join(lines([file]))
    assert "400,000" in text
    assert "- r1 nats w2: missing 3, bad 0" in text
    targets = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in text.splitlines() if line.count("|") == 7}
    assert targets["W1 produce 1 KiB, send_many"] == "yes"
    assert targets["W6 peak RSS under W1, MB"] == "NO"
    assert "W4 p50" not in targets  # not measured: nothing is said


def test_every_target_names_something_that_is_measured() -> None:
    assert {target.workload for target in TARGETS} <= {"w1", "w2", "w3p", "w3c", "w4", "w4s", "w5", "w7"}
    assert all(is_ours(target.ours) for target in TARGETS)
