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
    _under_way: dict[tuple[Path, int], dict[str, Any]] = field(default_factory=dict)
    _owed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by topic
    _settled: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by group

    def read(self) -> None:
        for file in self.directory.glob(f"*-{self.run}-*.jsonl"):
            for line in self._tails.setdefault(file, Tail(file)).fresh():
                match line["e"]:
                    case "invoke":
                        self._under_way[file, line["n"]] = line
                    case "ok" | "refused" | "unknown":
                        self._ended(self._under_way.pop((file, line["n"])), line)
                    case "quiet":
                        self.quiet.add(file.name.partition("-")[0])

    def _ended(self, invoked: dict[str, Any], ended: dict[str, Any]) -> None:
        match invoked["f"]:
            case "send" if ended["e"] == "ok" and invoked["fate"] in OWED:
                self._owed[invoked["topic"]].add(invoked["body"])
            case "receive":
                self.received_count += 1
                if (group := self.groups[invoked["group"]]).shape != "shared":
                    self._settled[group.name].update(one["body"] for one in ended["got"])
            case "ack" if ended["e"] != "refused":
                self._settled[invoked["group"]].add(invoked["body"])

    def missing(self) -> dict[str, int]:
        """How many messages each group still lacks."""
        lacks = {group.name: len(self._owed[group.topic] - self._settled[group.name]) for group in self.groups.values()}
        return {name: count for name, count in lacks.items() if count}
