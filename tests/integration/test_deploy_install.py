"""deploy/vm/install.sh in a root directory of Debian's: installed twice, the program runs, uninstalled, purged.

It changes the directory that KOUROU_TEST_ROOTFS names, as root, and downloads packages; so nobody runs it by accident, but
`make test-machine`, which makes such a directory, and:

    tests/deploy/make-rootfs.sh ROOTFS
    KOUROU_TEST_ROOTFS=ROOTFS python -m pytest tests/integration/test_deploy_install.py
"""

from __future__ import annotations

from tests.deploy.machine import INSTALL, Machine, needs_machine

pytestmark = needs_machine


def test_a_machine(machine: Machine) -> None:
    roles = ("--role", "nameserver", "--role", "proxy", "--role", "broker=orders:1", "--role", "standalone")
    where = ("--package", machine.wheel, "--host", "10.0.0.21", "--nameservers", "10.0.0.11,10.0.0.12")
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
        refused = machine.run(INSTALL, "--package", "x.whl")
    finally:
        release.write_text(known)
    assert refused.returncode == 1
    assert "this is no Debian or Ubuntu" in refused.stderr
    assert not machine.has("opt/kourou")
