"""What a suite's own report says, whichever runner wrote it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Outcome:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.passed + len(self.failed) + len(self.skipped)

    def add(self, name: str, result: str) -> None:
        if result == "passed":
            self.passed += 1
        else:
            (self.failed if result == "failed" else self.skipped).append(name)


def from_junit(files: Iterable[Path]) -> Outcome:
    """JUnit's XML, as pytest and JUnit itself write it. A file cut short counts as a failure."""
    outcome = Outcome()
    for file in files:
        try:
            root = ET.parse(file).getroot()
        except (OSError, ET.ParseError) as error:
            outcome.failed.append(f"{file.name}: no readable report ({error})")
            continue
        for case in root.iter("testcase"):
            tags = {child.tag for child in case}
            result = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
            outcome.add(case.get("name", "?"), result)
    return outcome


TAP_LINE = re.compile(r"\s*(?P<bad>not )?ok \d+ - (?P<name>.*?)(?P<skipped> # SKIP\b(?P<why>.*))?$")


def from_tap(file: Path) -> Outcome:
    """What `node --test --test-reporter=tap` wrote, without its suites. (Its junit file is cut short by a forced exit.)"""
    outcome = Outcome()
    lines = file.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        found = TAP_LINE.match(line)
        if found is None or any("type: 'suite'" in following for following in lines[number + 1 : number + 4]):
            continue
        if found["skipped"]:
            if "does not match pattern" not in found["why"]:
                outcome.skipped.append(found["name"])
        else:
            outcome.add(found["name"], "failed" if found["bad"] else "passed")
    return outcome


def from_go(file: Path) -> Outcome:
    """The lines of `go test -json`: top-level tests; one that never ended has failed."""
    outcome = Outcome()
    running: set[str] = set()
    for line in file.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        name = event.get("Test", "") if isinstance(event, dict) else ""
        if not name or "/" in name:
            continue
        if event["Action"] == "run":
            running.add(name)
        elif event["Action"] in ("pass", "fail", "skip"):
            running.discard(name)
            outcome.add(name, {"pass": "passed", "fail": "failed", "skip": "skipped"}[event["Action"]])
    outcome.failed += sorted(running)
    return outcome


def go_text(file: Path) -> str:
    """What `go test` would have printed without -json."""
    words: list[str] = []
    for line in file.read_text(errors="replace").splitlines(keepends=True):
        try:
            words.append(json.loads(line).get("Output", ""))
        except (ValueError, AttributeError):
            words.append(line)
    return "".join(words)
