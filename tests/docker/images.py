"""The images of a run: ours and etcd's as deploy/ makes them, and one for clients with the official Python client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docker.errors import DockerException  # type: ignore[import-untyped]

from tests.docker.engine import Engine
from tests.integration.node import ROOT

REGISTRY_BASE = "debian:bookworm-slim"
MADE_BASE = "kourou-base:bookworm"
TRUSTING_BASE = "kourou-base:chaos"
SERVER = "kourou:chaos"
ETCD = "kourou-etcd:chaos"
CLIENTS = "kourou-clients:chaos"
LIMIT_S = 900


class NoBase(Exception):
    """Why there is nothing that images could be made on: that is this machine's business."""


class NotBuilt(Exception):
    """Why an image of ours was not made: that is ours."""


def make(engine: Engine) -> None:
    base = _trusting(engine, _base(engine))
    index = os.environ.get("PIP_INDEX_URL") or _pip("index-url")
    arguments = {"BASE": base, **({"PIP_INDEX_URL": index} if index else {})}
    _build(engine, ETCD, ROOT / "deploy/etcd.Dockerfile", ROOT / "deploy", {"BASE": base})
    _build(engine, SERVER, ROOT / "deploy/Dockerfile", ROOT, arguments)
    here = Path(__file__).with_name("clients.Dockerfile")
    client = re.search(r'"(rocketmq-python-client==[^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert client is not None
    arguments |= {"SERVER": SERVER, "OFFICIAL": client[1]}
    _build(engine, CLIENTS, here, None, arguments)


def _base(engine: Engine) -> str:
    """What is named, is there already, comes from the registry, or is made with debootstrap; in this order."""
    named = os.environ.get("KOUROU_BASE")
    if named:
        return named
    there = {tag for image in engine.client.images.list() for tag in image.tags}
    for name in (REGISTRY_BASE, MADE_BASE):
        if name in there:
            return name
    try:
        engine.client.images.pull(REGISTRY_BASE)
    except DockerException:
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            raise NoBase(f"no registry has {REGISTRY_BASE}, and a base needs root and debootstrap") from None
        failure = _failure(engine, str(ROOT / "deploy/make-base-image.sh"), MADE_BASE)
        if failure is not None:
            raise NoBase(failure) from None
        return MADE_BASE
    return REGISTRY_BASE


def _trusting(engine: Engine, base: str) -> str:
    """Where pip needs certificates of this host's own, the base gets them: in this run's images, nowhere else."""
    given = os.environ.get("PIP_CERT") or _pip("cert")
    if not given or not Path(given).is_file():
        return base
    with tempfile.TemporaryDirectory(prefix="kourou-docker-") as folder:
        shutil.copy(given, Path(folder, "certificates.pem"))
        lines = (
            f"FROM {base}",
            "RUN install -d /etc/ssl/certs",
            "COPY certificates.pem /etc/ssl/certs/ca-certificates.crt",
            "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt",
        )
        Path(folder, "Dockerfile").write_text("\n".join(lines) + "\n")
        _build(engine, TRUSTING_BASE, Path(folder, "Dockerfile"), Path(folder), {})
    return TRUSTING_BASE


def _pip(name: str) -> str:
    """What pip is configured with, for all its commands."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def _build(engine: Engine, tag: str, file: Path, context: Path | None, arguments: dict[str, str]) -> None:
    """Without a context the file is all that is sent."""
    given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    where = ["-"] if context is None else ["--file", str(file), str(context)]
    command = ("docker", "build", "--network", "host", "--tag", tag, *given, *where)
    failure = _failure(engine, *command, stdin=file.read_bytes())
    if failure is not None:
        raise NotBuilt(f"{tag}: {failure}")


def _failure(engine: Engine, *command: str, stdin: bytes = b"") -> str | None:
    """Why a command failed, if it did."""
    try:
        done = subprocess.run(command, env=engine.environment, input=stdin, capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"{command[0]} was not done in {LIMIT_S} s"
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).decode(errors="replace")
    return f"{' '.join(command[:2])} failed: {said[-1500:]}"
