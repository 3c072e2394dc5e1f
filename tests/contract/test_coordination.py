"""One suite for what the elector asks of etcd, on real etcd and on the model that the simulations use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from kourou.broker.edge.etcd import Etcd, EtcdAccess
from kourou.broker.services.election.coordination import Coordination, Delete, Put, Txn, Value
from kourou.core.errors import BadRequest, NotConnected, OutcomeUnknown
from kourou.core.route import Endpoint, parse_endpoint
from tests.integration.etcd import EtcdCluster, free_ports, needs_etcd
from tests.sim.coordination import ModelCoordination, Truth


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster.addresses


@pytest.fixture(params=["model", pytest.param("etcd", marks=needs_etcd)])
def where(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("etcd") if request.param == "etcd" else None


@asynccontextmanager
async def opened(where: str | None) -> AsyncIterator[Coordination]:
    made: Coordination = (
        ModelCoordination(Truth()) if where is None else Etcd(EtcdAccess((parse_endpoint(where),)), call_s=10)
    )
    try:
        yield made
    finally:
        await made.close()


async def test_compare_and_set(where: str | None) -> None:
    async with opened(where) as store:
        first = await store.transact(Txn((("/a/x", 0),), (Put("/a/x", b"1"),)))
        assert first.succeeded
        again = await store.transact(Txn((("/a/x", 0),), (Put("/a/x", b"2"),), ("/a/x", "/a/none")))
        assert not again.succeeded
        assert again.values == (Value("/a/x", b"1", first.revision), Value("/a/none", None, 0))
        both = await store.transact(Txn((("/a/x", first.revision), ("/a/y", 0)), (Put("/a/x", b"3"), Put("/a/y", b"4"))))
        assert both.succeeded
        assert both.revision > first.revision
        picture = await store.read("/a/")
        assert picture.revision == both.revision
        assert picture.values == (Value("/a/x", b"3", both.revision), Value("/a/y", b"4", both.revision))


async def test_a_prefix_ends_where_it_ends(where: str | None) -> None:
    async with opened(where) as store:
        await store.transact(Txn((), (Put("/b/1/x", b""), Put("/b/10/x", b""), Put("/b/10", b""))))
        assert [value.key for value in (await store.read("/b/1/")).values] == ["/b/1/x"]


async def test_a_watch_tells_what_changes(where: str | None) -> None:
    async with opened(where) as store:
        outcome = await store.transact(Txn((), (Put("/c/x", b"0"),)))
        seen: list[Value] = []
        placed = asyncio.Event()

        async def look() -> None:
            async with aclosing(store.watch("/c/", revision=outcome.revision + 1)) as events:  # type: ignore[type-var]
                async for values in events:
                    seen.extend(values)
                    placed.set()
                    if len(seen) >= 3:
                        return

        task = asyncio.create_task(look())
        async with asyncio.timeout(30):
            await placed.wait()
            one = await store.transact(Txn((), (Put("/c/x", b"1"), Put("/d/x", b"other"))))
            two = await store.transact(Txn((), (Put("/c/y", b"2"),)))
            three = await store.transact(Txn((), (Delete("/c/x"),)))
            await task
        assert seen == [
            Value("/c/x", b"1", one.revision), Value("/c/y", b"2", two.revision), Value("/c/x", None, three.revision)
        ]  # fmt: skip


async def test_a_hint_is_a_key(where: str | None) -> None:
    async with opened(where) as store:
        for number in range(3):
            await store.hint("/e/live", b"%d" % number, seconds=10)
        assert [value.value for value in (await store.read("/e/")).values] == [b"2"]


@needs_etcd
async def test_the_next_endpoint_is_asked(etcd: str) -> None:
    """One endpoint refuses: what is asked once may fail, what is repeated finds the other."""
    dead = Endpoint("127.0.0.1", free_ports(1)[0])
    store = Etcd(EtcdAccess((dead, parse_endpoint(etcd))), call_s=10)
    try:
        with pytest.raises(OutcomeUnknown):
            await store.transact(Txn((), (Put("/f/x", b""),)))
        assert (await store.transact(Txn((), (Put("/f/x", b""),)))).succeeded
        assert await store.status()
    finally:
        await store.close()
    store = Etcd(EtcdAccess((dead, parse_endpoint(etcd))), call_s=10)
    try:
        assert (await store.read("/f/")).values[0].key == "/f/x"
    finally:
        await store.close()


async def test_nobody_there() -> None:
    store = Etcd(EtcdAccess((Endpoint("127.0.0.1", free_ports(1)[0]),)))
    try:
        with pytest.raises(NotConnected):
            await store.read("/x/")
        with pytest.raises(OutcomeUnknown):
            await store.transact(Txn((), ()))
        with pytest.raises(NotConnected):
            await store.hint("/x/y", b"", seconds=10)
        with pytest.raises(NotConnected):
            async for _ in store.watch("/x/", revision=1):
                pass
    finally:
        await store.close()


def test_access_is_checked(tmp_path: Path) -> None:
    endpoints = (Endpoint("127.0.0.1", 2379),)
    with pytest.raises(BadRequest, match="at least one"):
        EtcdAccess(())
    with pytest.raises(BadRequest, match="belong together"):
        EtcdAccess(endpoints, user="x")
    with pytest.raises(BadRequest, match="belong together"):
        EtcdAccess(endpoints, ca=tmp_path / "ca", certificate=tmp_path / "c")
    with pytest.raises(BadRequest, match="can't be read"):
        EtcdAccess(endpoints, ca=tmp_path / "none").credentials()
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    access = EtcdAccess(endpoints, user="x", password_file=secret)
    assert access.password() == "s3cret"
    assert "s3cret" not in repr(access)
