"""The readers of the runners' reports: a result that is misread would make a broken server look good."""

from __future__ import annotations

from pathlib import Path

from tests.compat.outcome import Outcome, from_go, from_junit, from_tap, go_text

TAP = """\
TAP version 13
# Subtest: S
    # Subtest: a - b
    ok 1 - a - b
      ---
      duration_ms: 0.7
      ...
    not ok 2 - fails
      ---
      duration_ms: 0.2
      failureType: 'testCodeFailure'
      ...
    ok 3 - left out # SKIP why
      ---
      duration_ms: 0.1
      ...
    ok 4 - not asked for # SKIP test name does not match pattern
      ---
      duration_ms: 0.1
      ...
not ok 1 - S
  ---
  duration_ms: 2.4
  type: 'suite'
  ...
"""

JUNIT = """\
<testsuites><testsuite><testcase name="good"/><testcase name="bad"><failure>x</failure></testcase>
<testcase name="broken"><error>x</error></testcase><testcase name="not"><skipped/></testcase></testsuite></testsuites>
"""

GO = """\
{"Action":"run","Test":"TestGood"}
{"Action":"run","Test":"TestGood/part"}
{"Action":"output","Test":"TestGood","Output":"hello\\n"}
{"Action":"fail","Test":"TestGood/part"}
{"Action":"pass","Test":"TestGood"}
{"Action":"run","Test":"TestNeverOver"}
panic: out of the blue
{"Action":"run","Test":"TestBad"}
{"Action":"fail","Test":"TestBad"}
{"Action":"skip","Test":"TestNot"}
{"Action":"fail"}
"""


def test_tap(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text(TAP)
    assert from_tap(file) == Outcome(1, ["fails"], ["left out"])


def test_junit(tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    file.write_text(JUNIT)
    assert from_junit([file]) == Outcome(1, ["bad", "broken"], ["not"])


def test_a_junit_report_that_is_cut_or_missing_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    file.write_text(JUNIT[:60])
    outcome = from_junit([file, tmp_path / "none.xml"])
    assert (outcome.passed, len(outcome.failed)) == (0, 2)


def test_go(tmp_path: Path) -> None:
    """Parts of a test don't count; a test that never ended has failed."""
    file = tmp_path / "log"
    file.write_text(GO)
    assert from_go(file) == Outcome(1, ["TestBad", "TestNeverOver"], ["TestNot"])
    assert go_text(file) == "hello\npanic: out of the blue\n"
