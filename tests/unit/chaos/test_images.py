"""What keeps a machine from running the tests in containers, and what is a fault of ours."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from docker.errors import DockerException  # type: ignore[import-untyped]

from tests.docker import images, run
from tests.docker.engine import Engine, NoEngine


class Nowhere:
    """A registry that can't be reached, and no image is there."""

    def list(self) -> list[Any]:
        return []

    def pull(self, name: str) -> None:
        raise DockerException("no route to host")


def engine_of(folder: Path, docker: str) -> Engine:
    """``docker``: what that command does, in shell."""
    (folder / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (folder / "docker").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return cast(Engine, SimpleNamespace(client=SimpleNamespace(images=Nowhere()), environment=environment))


@pytest.fixture(autouse=True)
def path_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.delenv("KOUROU_BASE", raising=False)
    monkeypatch.setattr(images, "_trusting", lambda engine, base: base)


def test_an_image_that_does_not_build_is_a_fault_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOUROU_BASE", "some-base")
    with pytest.raises(images.NotBuilt, match=r"kourou-etcd:chaos: docker build failed: no such step"):
        images.make(engine_of(tmp_path, "echo no such step; exit 1"))


def test_without_a_base_there_is_nothing_to_build_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(images.NoBase, match="needs root"):
        images.make(engine_of(tmp_path, "exit 0"))


@pytest.mark.parametrize("failure", [NoEngine("none"), images.NoBase("none"), images.NotBuilt("kourou:chaos: broken")])
def test_what_this_machine_lacks_is_skipped_and_the_rest_fails(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_engine(folder: Path) -> Engine:
        raise failure

    monkeypatch.setattr(run, "Engine", no_engine)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["run", "--ci", "--out", str(tmp_path)])
    ours = isinstance(failure, images.NotBuilt)
    assert run.main() == int(ours)
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED: " if ours else "SKIPPED: ")
