"""Logging, in processes of its own: it sets the whole process up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CORE = Path(__file__).resolve().parents[3] / "core"
PROGRAM = """
import logging
from kourou.runtime import log
log.configure({level!r}, pretty={pretty})
events = log.logger(node="b1")
events.debug("hidden")
events.info("broker_started", port=10911)
try:
    1 / 0
except ZeroDivisionError as failure:
    events.error("job_crashed", exc_info=failure)
logging.getLogger("asyncio").warning("a task %s", "was lost")
logging.getLogger("asyncio").info("chatter")
"""


def output(*, level: str = "info", pretty: bool = False) -> tuple[str, str]:
    command = [sys.executable, "-W", "error", "-c", PROGRAM.format(level=level, pretty=pretty)]
    env = {**os.environ, "PYTHONPATH": str(CORE)}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout, done.stderr


def test_one_json_object_a_line_on_standard_error() -> None:
    out, err = output()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["broker_started", "job_crashed", "library_logged"]
    assert (lines[0]["node"], lines[0]["port"], lines[0]["level"]) == ("b1", 10911, "info")
    assert lines[0]["timestamp"].endswith("Z")
    assert "ZeroDivisionError" in lines[1]["exception"]
    assert (lines[2]["library"], lines[2]["message"], lines[2]["level"]) == ("asyncio", "a task was lost", "warning")


def test_levels() -> None:
    events = [json.loads(line)["event"] for line in output(level="error")[1].splitlines()]
    assert events == ["job_crashed"]


def test_pretty_is_for_people() -> None:
    err = output(pretty=True)[1]
    assert "broker_started" in err
    assert "ZeroDivisionError" in err
    assert not err.startswith("{")
