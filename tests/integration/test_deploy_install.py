"""deploy/vm/install.sh in a root directory of Debian's: installed twice, the program runs, uninstalled, purged.

It changes the directory that KOUROU_TEST_ROOTFS names, as root, and downloads packages; so nobody runs it by accident:

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,systemd bookworm ROOTFS
    KOUROU_TEST_ROOTFS=ROOTFS python -m pytest tests/integration/test_deploy_install.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.node import ROOT

ROOTFS = os.environ.get("KOUROU_TEST_ROOTFS", "")
LIMIT_S = 600

pytestmark = [
    pytest.mark.skipif(not ROOTFS, reason="KOUROU_TEST_ROOTFS names no directory with a Debian (the test's docstring)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.slow,
]


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "kourou-source"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "PIP_CERT": "/ca.crt"}
        chroot = ["chroot", str(self.root), *command]
        return subprocess.run(chroot, env=env, capture_output=True, text=True, timeout=LIMIT_S)

    def install(self, *arguments: str) -> str:
        done = self.run("/kourou-source/deploy/vm/install.sh", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def has(self, path: str) -> bool:
        return os.path.lexists(self.root / path)


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine(Path(ROOTFS))
    shutil.rmtree(machine.source, ignore_errors=True)
    shutil.copytree(ROOT / "deploy", machine.source / "deploy")
    shutil.copy("/etc/resolv.conf", machine.root / "etc/resolv.conf")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", machine.root / "ca.crt")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(machine.source), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=LIMIT_S)
    yield machine
    machine.install("--uninstall", "--purge")
    shutil.rmtree(machine.source)


def test_a_machine(machine: Machine) -> None:
    (wheel,) = (f"/kourou-source/{path.name}" for path in machine.source.glob("*.whl"))
    roles = ("--role", "nameserver", "--role", "proxy", "--role", "broker=orders:1", "--role", "standalone")
    where = ("--package", wheel, "--host", "10.0.0.21", "--nameservers", "10.0.0.11,10.0.0.12")
    first = machine.install(*where, *roles)
    assert "installed" in first
    wanted = machine.root / "etc/systemd/system/multi-user.target.wants"
    names = ["kourou-broker@orders", "kourou-nameserver", "kourou-proxy", "kourou-standalone"]
    assert sorted(path.name for path in wanted.glob("kourou-*")) == [f"{name}.service" for name in names]
    shown = machine.run("kourou", "broker", "--config", "/etc/kourou/broker-orders.toml", "--print-config")
    assert shown.returncode == 0, shown.stderr
    for text in ("orders", "10.0.0.21", "10.0.0.11:9877,10.0.0.12:9877", "/var/lib/kourou/orders"):
        assert text in shown.stdout
    config = machine.root / "etc/kourou/proxy.toml"
    assert '["10.0.0.11:9876", "10.0.0.12:9876"]' in config.read_text()

    config.write_text(config.read_text() + 'log-level = "debug"\n')
    kept = config.read_text()
    again = machine.install(*where, *roles)
    assert "is installed already" in again
    assert "wrote" not in again
    assert config.read_text() == kept

    machine.install("--uninstall")
    assert not any(machine.has(path) for path in ("opt/kourou", "usr/local/bin/kourou"))
    assert not list(wanted.glob("kourou-*"))
    assert not list((machine.root / "etc/systemd/system").glob("kourou-*"))
    assert config.read_text() == kept
    assert machine.has("var/lib/kourou")
    machine.install("--uninstall", "--purge")
    assert not any(machine.has(path) for path in ("etc/kourou", "var/lib/kourou"))
    assert "kourou" not in (machine.root / "etc/passwd").read_text()


def test_other_systems_are_refused(machine: Machine) -> None:
    release = machine.root / "etc/os-release"
    known = release.read_text()
    release.unlink()  # a link into /usr/lib
    try:
        release.write_text('ID=fedora\nID_LIKE="rhel"\n')
        refused = machine.run("/kourou-source/deploy/vm/install.sh", "--package", "x.whl")
    finally:
        release.write_text(known)
    assert refused.returncode == 1
    assert "this is no Debian or Ubuntu" in refused.stderr
    assert not machine.has("opt/kourou")
