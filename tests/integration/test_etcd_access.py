"""A real etcd that wants TLS, client certificates or a password: who may, who may not, and a group that is elected there."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kourou.broker.edge.etcd import Etcd, EtcdAccess
from kourou.broker.services.election.coordination import Put, Txn
from kourou.core.errors import NotConnected, OutcomeUnknown
from kourou.core.route import parse_endpoint
from tests.integration.certificates import Authority
from tests.integration.etcd import BINARY, free_ports, needs_etcd
from tests.integration.test_failover import send, settled, start
from tests.integration.test_replication import Group, client_of

pytestmark = needs_etcd

LIMIT_S = 60.0
PASSWORD = "correct horse"


class SecureEtcd:
    """One member behind TLS. ``client_certificates``: it talks to nobody without one of the same authority."""

    def __init__(self, folder: Path, *, client_certificates: bool) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        certificate, key = self.authority.sign("etcd", "127.0.0.1")
        self.client = self.authority.sign("client")
        self.address, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
        self._log = folder / "etcd.log"
        command = [
            BINARY or "etcd", "--data-dir", str(folder / "data"), "--logger", "zap", "--log-level", "warn",
            "--cert-file", str(certificate), "--key-file", str(key),
            "--listen-client-urls", f"https://{self.address}", "--advertise-client-urls", f"https://{self.address}",
            "--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}",
            "--initial-cluster", f"default=http://{peer}",
        ]  # fmt: skip
        if client_certificates:
            command += ["--client-cert-auth", "--trusted-ca-file", str(self.authority.path)]
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def ask(self, path: str, token: str = "", **value: Any) -> dict[str, Any]:
        """etcd's JSON API, as an administrator uses it."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        context.load_cert_chain(*self.client)
        request = urllib.request.Request(f"https://{self.address}/v3/{path}", data=json.dumps(value).encode())
        if token:
            request.add_header("Authorization", token)
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def wait(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                self.ask("maintenance/status")
                return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)

    def want_passwords(self, prefix: str) -> None:
        """From now on: ``root`` may all, ``mq`` what is below a prefix."""
        begin, end = prefix.encode(), prefix[:-1].encode() + bytes([ord(prefix[-1]) + 1])
        permission = {"permType": "READWRITE", "key": _text(begin), "range_end": _text(end)}
        for user, role in (("root", "root"), ("mq", "kourou")):
            self.ask("auth/role/add", name=role)
            self.ask("auth/user/add", name=user, password=PASSWORD)
            self.ask("auth/user/grant", user=user, role=role)
        self.ask("auth/role/grant", name="kourou", perm=permission)
        self.ask("auth/enable")

    def change_password(self, password: str) -> None:
        token = self.ask("auth/authenticate", name="root", password=PASSWORD)["token"]
        self.ask("auth/user/changepw", token, name="mq", password=password)

    def password_file(self, password: str = PASSWORD) -> Path:
        path = self.folder / "password"
        path.write_text(password + "\n")
        return path

    def access(self, *, ca: Path | None = None, certificate: bool = False, user: str | None = None) -> EtcdAccess:
        path, key = self.client if certificate else (None, None)
        password = self.folder / "password" if user is not None else None
        return EtcdAccess((parse_endpoint(self.address),), ca or self.authority.path, path, key, user, password)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextmanager
def secure(folder: Path, *, client_certificates: bool) -> Iterator[SecureEtcd]:
    made = SecureEtcd(folder, client_certificates=client_certificates)
    try:
        made.wait()
        yield made
    finally:
        made.process.kill()
        made.process.wait(30)


@asynccontextmanager
async def opened(access: EtcdAccess) -> AsyncIterator[Etcd]:
    access.check()
    store = Etcd(access, call_s=10)
    try:
        yield store
    finally:
        await store.close()


async def refused(access: EtcdAccess) -> str:
    async with opened(access) as store:
        with pytest.raises(NotConnected) as failure:
            await store.read("/mq/c/")
        return str(failure.value)


async def works(store: Etcd, prefix: str = "/mq/c/") -> None:
    """A transaction, a read, a watch, a hint."""
    outcome = await store.transact(Txn((), (Put(f"{prefix}x", b"1"),)))
    assert [value.value for value in (await store.read(prefix)).values] == [b"1"]
    await store.hint(f"{prefix}live", b"2", seconds=10)
    await store.hint(f"{prefix}live", b"3", seconds=10)
    async with asyncio.timeout(LIMIT_S), aclosing(store.watch(prefix, revision=outcome.revision + 1)) as changes:  # type: ignore[type-var]
        async for values in changes:
            if any(value.value == b"3" for value in values):
                return


async def test_tls_and_a_certificate_of_the_client(tmp_path: Path) -> None:
    with secure(tmp_path, client_certificates=True) as etcd:
        async with opened(etcd.access(certificate=True)) as store:
            await works(store)
        await refused(etcd.access())  # without one
        other = Authority(tmp_path, "other")
        assert "UNAVAILABLE" in await refused(etcd.access(certificate=True, ca=other.path))  # it is not who it says


async def test_tls_and_a_password(tmp_path: Path) -> None:
    """The password is read anew whenever etcd wants it: a change of both needs no restart."""
    with secure(tmp_path, client_certificates=False) as etcd:
        etcd.want_passwords("/mq/c/")
        etcd.password_file("wrong")
        assert "etcd user mq" in await refused(etcd.access(user="mq"))
        await refused(etcd.access())
        etcd.password_file()
        async with opened(etcd.access(user="mq")) as store:
            await works(store)
            with pytest.raises(OutcomeUnknown, match="permission denied"):
                await store.transact(Txn((), (Put("/mq/other/x", b""),)))
            with pytest.raises(NotConnected, match="permission denied"):
                await store.read("/mq/")
            etcd.change_password("another one")
            etcd.password_file("another one")
            await store.read("/mq/c/")
            await store.transact(Txn((), (Put("/mq/c/y", b"1"),)))


async def test_a_group_is_elected_behind_tls_and_a_password(tmp_path: Path) -> None:
    """And again after kill -9, with a password that was changed in the meantime."""
    folder = tmp_path / "etcd"
    folder.mkdir()
    with secure(folder, client_certificates=False) as etcd:
        etcd.want_passwords("/mq/kourou/")
        made = Group(
            tmp_path, "--failover", "etcd", "--etcd", etcd.address, "--ack", "all", "--min-isr", "2",
            "--etcd-ca", str(etcd.authority.path), "--etcd-user", "mq", "--etcd-password-file", str(etcd.password_file()),
        )  # fmt: skip
        try:
            master = await start(made, 0, 1, 2)
            async with client_of(made) as client, client.producer(deadline_s=60) as producer:
                await client.create_topic("t", queues=1)
                await send(producer, 0, 10)
                etcd.change_password("another one")
                etcd.password_file("another one")
                await send(producer, 10, 20)
                await made.until(master, lambda facts: facts["failover"]["etcd_silent_ms"] < 1_000)
                made.kill(master)
                await send(producer, 20, 30)
                await settled(made, *({0, 1, 2} - {master}))
            assert not any("correct horse" in member.output() for member in made.members.values())
        finally:
            made.stop()
