"""What has still to come: journals read as they grow."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.history import Group

OWED = ("", "c", "u")


@dataclass(slots=True)
class Tail:
    """The whole lines of one file, once each."""

    file: Path
    _read: int = 0

    def fresh(self) -> list[dict[str, Any]]:
        with self.file.open("rb") as stream:
            stream.seek(self._read)
            data = stream.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        return [json.loads(line) for line in data.splitlines()]


@dataclass(slots=True)
class Progress:
    """Of one run. Streams and push consumers have what they were handed; in shared groups a message is settled when an ack
    has ended that may have had an effect: else it comes again."""

    directory: Path
    run: str
    groups: dict[str, Group]
    quiet: set[str] = field(default_factory=set)  # processes whose producers have ended
    received_count: int = 0
    _tails: dict[Path, Tail] = field(default_factory=dict)
    _under_way: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    _missing: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by group
    _early: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # settled before the send's end was read

    def read(self, *names: str) -> None:
        """What these processes, and those that they started, have written meanwhile."""
        for name in names:
            for pattern in (f"{name}-{self.run}-*.jsonl", f"{name}-*-{self.run}-*.jsonl"):
                for file in self.directory.glob(pattern):
                    for line in self._tails.setdefault(file, Tail(file)).fresh():
                        self.take(name, line, file.name)

    def take(self, name: str, line: dict[str, Any], file: str = "") -> None:
        """One line of a process, or of a file of those that it started: each counts its operations by itself."""
        match line["e"]:
            case "invoke":
                self._under_way[file or name, line["n"]] = line
            case "ok" | "refused" | "unknown":
                self._ended(self._under_way.pop((file or name, line["n"])), line)
            case "quiet":
                self.quiet.add(name)

    def _ended(self, invoked: dict[str, Any], ended: dict[str, Any]) -> None:
        match invoked["f"]:
            case "send" if ended["e"] == "ok" and invoked["fate"] in OWED:
                for group in self.groups.values():
                    if group.topic == invoked["topic"]:
                        self._owed(group.name, invoked["body"])
            case "receive":
                self.received_count += 1
                if self.groups[invoked["group"]].shape != "shared":
                    for one in ended["got"]:
                        self._settled(invoked["group"], one["body"])
            case "ack" if ended["e"] != "refused":
                self._settled(invoked["group"], invoked["body"])

    def _owed(self, group: str, body: str) -> None:
        if body in self._early[group]:
            self._early[group].discard(body)
        else:
            self._missing[group].add(body)

    def _settled(self, group: str, body: str) -> None:
        if body in self._missing[group]:
            self._missing[group].discard(body)
        else:
            self._early[group].add(body)

    def missing(self) -> dict[str, int]:
        """How many messages each group still lacks."""
        return {group: len(bodies) for group, bodies in self._missing.items() if bodies}
