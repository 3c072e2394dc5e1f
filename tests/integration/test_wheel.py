"""The wheel in a clean environment: the client works without any dependency, and what is missing is said."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.integration.node import ROOT, Node


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but our wheel, installed without any extra."""
    place = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, ROOT)
    if built.returncode:
        pytest.fail(f"the wheel was not built:\n{built.stdout}\n{built.stderr}")
    (wheel,) = place.glob("kourou-*.whl")
    venv.create(place / "venv", with_pip=True)
    found = place / "venv/bin/python"
    installed = run(found, "-m", "pip", "install", "--no-index", "--disable-pip-version-check", wheel)
    assert installed.returncode == 0, installed.stderr
    return found


def test_the_client_needs_nothing_else(python: Path, node: Node) -> None:
    program = f"""
import sys
from kourou.client.blocking import Client
with Client({node.address!r}) as client:
    receipt = client.producer().send("wheel", b"hello", key="k")
    with client.consumer("wheel", group="wheel") as consumer:
        for message in consumer:
            assert message.id == receipt.id
            break
for name in ("grpc", "google.protobuf", "numpy", "uvloop", "structlog", "rich", "cyclopts"):
    assert name not in sys.modules, name
print("done", len(sys.modules))
"""
    done = run(python, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done")


@pytest.mark.parametrize(
    "module", ["kourou.client", "kourou.client.blocking", "kourou.core.frame", "kourou.transport.server"]
)
def test_base_imports(python: Path, module: str) -> None:
    done = run(python, "-c", f"import {module}")
    assert done.returncode == 0, done.stderr


def test_the_command_says_what_to_install(python: Path) -> None:
    done = run(python.parent / "kourou", "topic", "list")
    assert done.returncode == 2
    assert "pip install 'kourou[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_says_what_a_server_needs(python: Path) -> None:
    done = run(python.parent / "kourou", "standalone")
    assert done.returncode == 2
    assert "pip install 'kourou[" in done.stderr
