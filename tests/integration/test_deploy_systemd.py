"""What deploy/vm/install.sh installs, under a systemd: units start, fail, are started again, stop; messages stay.

In the directory that KOUROU_TEST_ROOTFS names, as test_deploy_install.py; systemd is process 1 of namespaces over it.

    make test-machine
"""

from __future__ import annotations

from tests.deploy.machine import Machine, needs_machine, until

NAMESERVER, BROKER, PROXY, STANDALONE = "kourou-nameserver", "kourou-broker@orders", "kourou-proxy", "kourou-standalone"
CLUSTER = (NAMESERVER, BROKER, PROXY)
TOPIC = "events"
NAMESERVERS, NODE = ("--server", "127.0.0.1:9876"), ("--server", "127.0.0.1:10911")
READY = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8090/readyz', timeout=10)"
PATIENCE_S = "120"

pytestmark = needs_machine


def shown(machine: Machine, unit: str) -> dict[str, str]:
    lines = machine.done("systemctl", "show", f"{unit}.service").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def journal(machine: Machine, unit: str) -> str:
    machine.done("journalctl", "--sync")
    return machine.done("journalctl", "--no-pager", "--output", "cat", "--unit", unit)


def signalled(machine: Machine, unit: str, name: str) -> None:
    machine.done("systemctl", "kill", "--kill-whom=main", f"--signal={name}", unit)


def restarts(machine: Machine, unit: str) -> int:
    return int(shown(machine, unit)["NRestarts"])


def restarted(machine: Machine, unit: str, before: int) -> None:
    """By systemd, once more than before, and it has told that it is ready."""

    def again() -> bool:
        now = shown(machine, unit)
        return now["ActiveState"] == "active" and int(now["NRestarts"]) > before

    until(again, f"{unit} is started again", lambda: journal(machine, unit))
    assert restarts(machine, unit) == before + 1


def active(machine: Machine, unit: str) -> None:
    """It has told systemd that it is ready."""
    until(lambda: shown(machine, unit)["ActiveState"] == "active", f"{unit} is up", lambda: journal(machine, unit))


def serving(machine: Machine) -> None:
    """All services, and the proxy reaches the broker."""
    for unit in CLUSTER:
        active(machine, unit)
    until(lambda: machine.run("python3", "-c", READY).returncode == 0, "a ready proxy", lambda: journal(machine, PROXY))


def send(machine: Machine, body: str, server: tuple[str, str]) -> None:
    machine.done("kourou", "send", TOPIC, body, "--deadline", PATIENCE_S, *server)


def received(machine: Machine, group: str, count: int, server: tuple[str, str]) -> list[str]:
    """By a group of its own, from the beginning."""
    machine.done("kourou", "group", "create", group, *server)
    wanted = ("--count", str(count), "--timeout", PATIENCE_S, "--output", "body")
    return sorted(machine.done("kourou", "receive", TOPIC, "--group", group, *wanted, *server).split())


def test_a_cluster_from_power_on_to_power_off_and_on(machine: Machine) -> None:
    roles = ("--role", "nameserver", "--role", "broker=orders:0", "--role", "proxy")
    machine.install("--package", machine.wheel, *roles)  # systemd does not run yet, so they are enabled alone
    with machine.booted():
        serving(machine)
        machine.done("kourou", "topic", "create", TOPIC, *NAMESERVERS)
        send(machine, "first", NAMESERVERS)
        assert received(machine, "at-start", 1, NAMESERVERS) == ["first"]

        killed = restarts(machine, BROKER)
        signalled(machine, BROKER, "KILL")
        restarted(machine, BROKER, killed)
        assert "status=9/KILL" in journal(machine, BROKER)
        serving(machine)
        assert received(machine, "after-kill", 1, NAMESERVERS) == ["first"]
        send(machine, "second", NAMESERVERS)

        before = {unit: restarts(machine, unit) for unit in CLUSTER}
        for unit in CLUSTER:
            signalled(machine, unit, "STOP")
        for unit in CLUSTER:
            restarted(machine, unit, before[unit])
            told = journal(machine, unit)
            assert "Watchdog timeout" in told
            assert "status=6/ABRT" in told
            assert "Fatal Python error: Aborted" in told  # with a traceback
        serving(machine)
        assert received(machine, "after-watchdog", 2, NAMESERVERS) == ["first", "second"]

        for unit in reversed(CLUSTER):
            machine.done("systemctl", "stop", unit)
            stopped = shown(machine, unit)
            names = ("ActiveState", "Result", "ExecMainStatus")
            assert [stopped[name] for name in names] == ["inactive", "success", "0"], stopped
        machine.done("systemctl", "start", *CLUSTER)
        serving(machine)
        assert received(machine, "after-stop", 2, NAMESERVERS) == ["first", "second"]
        machine.shut_down()
    with machine.booted():
        serving(machine)
        assert received(machine, "after-power-off", 2, NAMESERVERS) == ["first", "second"]


def test_a_node_installed_upgraded_and_removed_while_systemd_runs(machine: Machine) -> None:
    install = ("--package", machine.wheel, "--role", "standalone")
    with machine.booted():
        machine.install(*install)
        node = shown(machine, STANDALONE)
        assert (node["ActiveState"], node["UnitFileState"]) == ("active", "enabled")
        assert node["StatusText"]
        machine.done("kourou", "topic", "create", TOPIC, *NODE)
        send(machine, "first", NODE)

        assert "is installed already" in machine.install(*install)
        assert shown(machine, STANDALONE)["MainPID"] == node["MainPID"]

        (machine.root / "opt/kourou/.installed").write_text("another wheel\n")
        assert "starting" in machine.install(*install)
        upgraded = shown(machine, STANDALONE)
        assert upgraded["ActiveState"] == "active"
        assert upgraded["MainPID"] != node["MainPID"]
        assert received(machine, "after-upgrade", 1, NODE) == ["first"]

        config = machine.root / "etc/kourou/standalone.toml"
        config.write_text(config.read_text() + "no-such-option = 1\n")
        assert machine.run("systemctl", "restart", STANDALONE).returncode != 0
        wrong = shown(machine, STANDALONE)
        names = ("ActiveState", "SubState", "Result", "ExecMainStatus")  # failed, and not about to be started again
        assert [wrong[name] for name in names] == ["failed", "failed", "exit-code", "2"], journal(machine, STANDALONE)

        machine.install("--uninstall", "--purge")
        gone = shown(machine, STANDALONE)
        assert (gone["ActiveState"], gone["MainPID"]) != ("active", node["MainPID"])
        assert not machine.has("etc/systemd/system/kourou-standalone.service")
