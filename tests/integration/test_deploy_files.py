"""What is in deploy/: units, example configs, the install script, the compose file. What needs tools says which."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kourou.cli.failures import DISK_FAILED, USAGE
from tests.integration.node import ROOT, environment

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
RESTART = ("Restart=on-failure", f"RestartPreventExitStatus={USAGE} {DISK_FAILED}")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (apt install systemd)")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    """With a program that exists: ours is in /opt only where it is installed."""
    assert ANALYZE is not None
    copy = tmp_path / unit.name.replace("@.", "@broker-a.")
    copy.write_text(unit.read_text().replace("/opt/kourou/bin/kourou", sys.executable))
    done = subprocess.run([ANALYZE, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_units_agree() -> None:
    """They differ in what they run and keep, in nothing else."""
    assert len(UNITS) == 4
    assert len({unit.read_text().partition("# It tells systemd")[2] for unit in UNITS}) == 1
    for unit in UNITS:
        text = unit.read_text()
        for line in ("Type=notify", "User=kourou", "ProtectSystem=strict", "NoNewPrivileges=yes", *RESTART):
            assert line in text.splitlines(), unit


@pytest.mark.parametrize("role", ["standalone", "nameserver", "broker", "proxy"])
def test_example_configs_are_understood(role: str) -> None:
    path = DEPLOY / f"vm/config/{role}.toml"
    env = {name: value for name, value in environment().items() if not name.startswith("KOUROU_")}
    done = subprocess.run(
        [sys.executable, "-m", "kourou.cli", role, "--config", str(path), "--print-config"],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^([a-z-]+) = ", path.read_text(), re.MULTILINE)
    assert len(names) >= 4
    for name in names:
        assert re.search(rf"^{name} .*file ", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "--package is missing"),
        (("--purge",), "--purge goes with --uninstall"),
        (("--nonsense",), "there is no option --nonsense"),
        (("--package",), "--package needs a value"),
        (("--package", "x.whl", "--role", "king"), "there is no role king"),
        (("--package", "x.whl", "--role", "broker=../x"), "is no name for a broker"),
        (("--package", "x.whl", "--role", "broker=a:b"), "b is no number"),
        (("--package", "x.whl", "--host", 'a"; rm -rf /'), "is no address"),
        (("--package", "x.whl", "--nameservers", "a:9877"), "is no list of hosts"),
    ],
)
def test_the_install_script_refuses(arguments: tuple[str, ...], reason: str) -> None:
    """Before it looks at the machine, so nothing can be changed."""
    script = DEPLOY / "vm/install.sh"
    done = subprocess.run(["sh", str(script), *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize("script", ["vm/install.sh", "make-base-image.sh"])
def test_scripts_are_shell(script: str) -> None:
    path = DEPLOY / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["sh", "-n", str(path)], timeout=30).returncode == 0


def compose() -> Any:
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed (pip install pyyaml)")
    return yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())


def test_the_compose_file() -> None:
    """What both compose programs take: their own `config` is not asked here, it needs them installed."""
    read = compose()
    services = {name: service for name, service in read["services"].items() if name != "cli"}
    roles = [service["labels"]["kourou.role"] for service in services.values()]
    assert [roles.count(role) for role in ("etcd", "nameserver", "broker", "proxy")] == [3, 2, 6, 1]
    for name, service in services.items():
        assert service["labels"]["prometheus.scrape"] == "true"
        assert (service["hostname"], service["cap_drop"], service["networks"]) == (name, ["ALL"], ["cluster"])
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in read["volumes"]
    brokers = {
        name: service["environment"] for name, service in services.items() if service["labels"]["kourou.role"] == "broker"
    }
    assert len({(given["KOUROU_NAME"], given["KOUROU_BROKER_ID"]) for given in brokers.values()}) == 6
    for name, given in brokers.items():
        assert name == f"{given['KOUROU_NAME']}-{given['KOUROU_BROKER_ID']}"
        assert (given["KOUROU_ADVERTISED"], given["KOUROU_OFFICIAL_ADVERTISED"]) == (f"{name}:10911", f"{name}:8081")
        assert services[name]["volumes"] == [f"{name}:/data"]  # none is shared
    assert len({frozenset(set(given.items()) - _own(given)) for given in brokers.values()}) == 1


def _own(given: dict[str, str]) -> set[tuple[str, str]]:
    """What differs from member to member."""
    return {
        (name, value)
        for name, value in given.items()
        if name in ("KOUROU_NAME", "KOUROU_BROKER_ID") or name.endswith("ADVERTISED")
    }


@pytest.mark.parametrize("name", ["broker-a-0", "broker-b-2"])
def test_brokers_understand_what_the_compose_file_tells_them(name: str) -> None:
    given = compose()["services"][name]["environment"]
    env = {key: value for key, value in environment().items() if not key.startswith("KOUROU_")}
    done = subprocess.run(
        [sys.executable, "-m", "kourou.cli", "broker", "--print-config"],
        env={**env, "KOUROU_HOST": "0.0.0.0", **given}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for option in given:
        shown = option.removeprefix("KOUROU_").lower().replace("_", "-")
        assert re.search(rf"^{shown} .*{option}", done.stdout, re.MULTILINE), (option, done.stdout)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_takes_the_file() -> None:
    for files in ([DEPLOY / "docker-compose.yml"], [DEPLOY / "docker-compose.yml", ROOT / "tests/docker/chaos.yml"]):
        given = [part for file in files for part in ("--file", str(file))]
        done = subprocess.run(["docker-compose", *given, "config", "--quiet"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("answer", "status"), [("200 OK", 0), ("503 Service Unavailable", 1), ("", 1), (None, 1)])
def test_the_health_check_of_the_image(answer: str | None, status: int) -> None:
    """With a server that says this; with an empty answer; with none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if answer is None:
            listening.close()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(DEPLOY / "healthcheck.py")],
            env={"KOUROU_HTTP_PORT": str(port)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if answer is not None:
            listening.settimeout(30)
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(4096).startswith(b"GET /readyz HTTP/1.1\r\n")
                connection.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode() if answer else b"")
        said, _ = process.communicate(timeout=30)
    assert (process.returncode, said.startswith("not ready")) == (status, status != 0)


def test_what_the_image_is_made_of_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert len(sources) == 9
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
