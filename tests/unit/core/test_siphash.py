"""SipHash-2-4 against the vectors of its paper, and how groups map to queues."""

from __future__ import annotations

import pytest

from kourou.core.siphash import message_group_index, siphash24


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 0x726FDB47DD0E0E31), (1, 0x74F839C593DC67FD), (2, 0x0D6C8009D9A94F5A), (15, 0xA129CA6149BE45E5)],
)
def test_vectors(size: int, expected: int) -> None:
    assert siphash24(bytes(range(size))) == expected


def test_groups_map_to_queues_as_the_java_client_does() -> None:
    """The hash is taken as a signed long, the remainder is never negative."""
    for group in map(str, range(500)):
        value = siphash24(group.encode())
        signed = value - (1 << 64) if value >= 1 << 63 else value
        assert message_group_index(group, 7) == signed % 7
        assert message_group_index(group, 1) == 0
    assert {message_group_index(str(i), 8) for i in range(500)} == set(range(8))
