"""Which address an asker is told: the whole rule as a table."""

from __future__ import annotations

import pytest

from kourou.core.advertise import is_loopback, plain_host, resolve
from kourou.core.route import Endpoint


@pytest.mark.parametrize(
    ("advertised", "source", "dialled", "told"),
    [
        # Explicit: passed on whatever else is known (port maps need it).
        ("mq.example:1234", "10.0.0.5", "10.0.0.1:9876", Endpoint("mq.example", 1234)),
        ("mq.example", None, "localhost:9876", Endpoint("mq.example", 10911)),
        # Auto, another host: where the registration came from.
        ("auto", "10.0.0.5", "localhost:9876", Endpoint("10.0.0.5", 10911)),
        ("auto", "fd00::5", "[fd00::1]:9876", Endpoint("fd00::5", 10911)),
        ("auto", "::ffff:10.0.0.5", "10.0.0.1:9876", Endpoint("10.0.0.5", 10911)),
        # Auto, the nameserver's own host: the name that the asker dialled.
        ("auto", "127.0.0.1", "10.0.0.1:9876", Endpoint("10.0.0.1", 10911)),
        ("auto", "::1", "nameserver:9876", Endpoint("nameserver", 10911)),
        ("auto", "::ffff:127.0.0.1", "10.0.0.1:9876", Endpoint("10.0.0.1", 10911)),
        ("auto", "127.0.0.1", "localhost:9876", Endpoint("localhost", 10911)),
        # Auto, one process: the same.
        ("auto", None, "container-7:10911", Endpoint("container-7", 10911)),
        ("auto", None, "[::1]:10911", Endpoint("::1", 10911)),
        # The asker did not say what it dialled.
        ("auto", "127.0.0.1", "", Endpoint("127.0.0.1", 10911)),
        ("auto", None, "nonsense:port", Endpoint("127.0.0.1", 10911)),
    ],
)
def test_resolve(advertised: str, source: str | None, dialled: str, told: Endpoint) -> None:
    assert resolve(advertised, port=10911, source=source, dialled=dialled) == told


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.5", "::ffff:10.0.0.5", "fe80::1%eth0", "example.org", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_plain_host_leaves_the_rest_alone() -> None:
    assert [plain_host(h) for h in ("example.org", "10.0.0.5", "fd00::5")] == ["example.org", "10.0.0.5", "fd00::5"]
