"""What makes a start fail is found before the store is opened; what makes a broker end is told by its exit status."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from kourou.cli.failures import DISK_FAILED
from kourou.client.blocking import Client
from kourou.core import errors
from tests.integration.node import Node, Process, patched
from tests.integration.raw import Raw, sealed

FAIL_SYNC = """
import errno, os
real = os.fdatasync

def fdatasync(fd):
    if os.path.exists(os.environ["DISK_FAILS"]):
        raise OSError(errno.EIO, "Input/output error")
    real(fd)

os.fdatasync = fdatasync
"""


def epoch_of(node: Node) -> int:
    with Client(node.address) as client:
        epoch: int = client.status()["broker-a"]["epoch"]
        return epoch


def fails_to_start(reason: str, *arguments: str) -> None:
    process = Process(*arguments)
    try:
        process.wait_for(reason)
        assert process.process.wait(30) == 1
    finally:
        process.kill()


def test_a_start_that_fails_begins_no_epoch(tmp_path: Path) -> None:
    data, broken = tmp_path / "data", tmp_path / "broken.pem"
    broken.write_text("not a certificate\n")
    with Node(data) as node:
        assert epoch_of(node) == 1
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with socket.create_server(("127.0.0.1", 0)) as free:
            both = str(free.getsockname()[1])
        for ports, options, reason in (
            (("0", port, "0"), (), f"can't listen on 127.0.0.1:{port} (gRPC)"),
            (("0", "0", port), (), f"can't listen on 127.0.0.1:{port} (HTTP)"),
            (("0", both, both), (), f"can't listen on 127.0.0.1:{both} (HTTP)"),
            (("0", "0", "0"), ("--tls-certificate", str(broken), "--tls-key", str(broken)), "can't be used"),
        ):
            numbers = ("--port", ports[0], "--grpc-port", ports[1], "--http-port", ports[2])
            fails_to_start(reason, "standalone", "--data", str(data), *numbers, *options)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    with Node(data) as node:
        assert epoch_of(node) == 2


def test_a_failover_broker_looks_at_its_files_first(tmp_path: Path) -> None:
    """Neither etcd nor a nameserver is asked before."""
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate\n")
    (tmp_path / "latin1").write_bytes(b"\xe9\n")
    for options, reason in {
        ("--etcd-user", "u", "--etcd-password-file", str(tmp_path / "none")): "can't be read",
        ("--etcd-user", "u", "--etcd-password-file", str(tmp_path / "latin1")): "is not UTF-8",
        ("--etcd-ca", str(broken)): "can't be used",
        ("--lease-s", "1"): "is too short",
    }.items():
        data = tmp_path / "data"
        fails_to_start(
            reason, "broker", "--nameserver", "127.0.0.1:1", "--failover", "etcd", "--etcd", "127.0.0.1:1",
            "--data", str(data), "--port", "0", "--grpc-port", "0", "--http-port", "0", *options,
        )  # fmt: skip
        assert not data.exists()


@pytest.mark.parametrize("flush", ["sync", "async"])
def test_a_failed_disk_has_a_status_of_its_own(tmp_path: Path, flush: str) -> None:
    """So that nobody starts it again on that disk by himself."""
    fails = tmp_path / "fails"
    env = patched(tmp_path / "extra", FAIL_SYNC, DISK_FAILS=str(fails))
    with Node(tmp_path / "data", "--flush", flush, env=env) as node, Raw(node.address) as raw:
        raw.create_topic("t")
        fails.touch()
        try:
            status = raw.produce(sealed("t", b"1"))[0][0]
        except (EOFError, ConnectionError, errors.KourouError):
            status = -1
        assert flush == "async" or status != 0
        assert node.process.wait(30) == DISK_FAILED == os.EX_IOERR
        assert "Input/output error" in node.output().splitlines()[-1]
