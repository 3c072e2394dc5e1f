"""Nodes for process tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A standalone node shared by the tests of a module; each uses topics of its own."""
    data: Path = tmp_path_factory.mktemp("node")
    with Node(data) as running:
        yield running
