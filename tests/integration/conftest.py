"""Nodes for process tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.machine import ROOTFS, Machine
from tests.integration.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A standalone node shared by the tests of a module; each uses topics of its own."""
    data: Path = tmp_path_factory.mktemp("node")
    with Node(data) as running:
        yield running


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A Debian with our sources in it; for tests that are marked ``needs_machine``."""
    with Machine(Path(ROOTFS)).prepared() as prepared:
        yield prepared
