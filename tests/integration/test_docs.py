"""The examples of docs/client.md, run one after the other against a real node."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kourou.client import Client
from tests.integration.node import ROOT, Node, environment

FENCE = re.compile(r"^```(\w+)( script)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = (ROOT / "docs" / "client.md").read_text()
EXAMPLES = [(found[1], bool(found[2]), found[3], TEXT[: found.start()].count("\n") + 2) for found in FENCE.finditer(TEXT)]
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node"), env={"KOUROU_LOG_LEVEL": "warning"}) as running:
        yield running


def names(language: str, script: bool) -> list[Any]:
    chosen = [example for example in EXAMPLES if example[:2] == (language, script)]
    assert chosen
    return [pytest.param(text, line, id=f"line-{line}") for _, _, text, line in chosen]


@pytest.mark.parametrize(("text", "line"), names("python", False))
async def test_inside_a_client(node: Node, text: str, line: int) -> None:
    body = "\n" * (line - 2) + "async def example(client):\n" + textwrap.indent(text, "    ")
    space: dict[str, Any] = {}
    exec(compile(body, "docs/client.md", "exec"), space)
    async with Client(node.address) as client:
        async with asyncio.timeout(LIMIT_S):
            await space["example"](client)


@pytest.mark.parametrize(("text", "line"), names("python", True))
def test_scripts(node: Node, text: str, line: int) -> None:
    run([sys.executable, "-W", "error", "-c", text], node)


@pytest.mark.parametrize(("text", "line"), names("sh", False))
def test_commands(node: Node, tmp_path: Path, text: str, line: int) -> None:
    command = tmp_path / "kourou"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m kourou.cli "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    path = os.pathsep.join((str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]))
    run(["bash", "-euxc", text], node, {"PATH": path})


def run(command: list[str], node: Node, env: dict[str, str] | None = None) -> None:
    given = {**environment(), "KOUROU_SERVER": node.address, **(env or {})}
    ended = subprocess.run(command, env=given, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
