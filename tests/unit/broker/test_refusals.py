"""Tables of handlers that serve some, or for some time."""

from __future__ import annotations

from typing import Any

import pytest

from kourou.broker.edge.members import refusing, until
from kourou.core.errors import KourouError, NotMaster
from kourou.core.wire import Code


def why() -> KourouError:
    return NotMaster("no")


def test_what_is_not_served_is_refused() -> None:
    seen: list[Any] = []
    table = refusing({Code.STATUS: lambda peer, message: seen.append(message)}, why)
    table[Code.STATUS](None, 1)  # type: ignore[arg-type]
    assert seen == [1]
    with pytest.raises(NotMaster):
        table[Code.FETCH](None, 2)  # type: ignore[arg-type]
    assert Code.PING not in table


def test_what_is_served_for_a_time() -> None:
    over = False
    seen: list[Any] = []
    table = until(lambda: over, {Code.FETCH: lambda peer, message: seen.append(message)}, why)
    table[Code.FETCH](None, 1)  # type: ignore[arg-type]
    over = True
    with pytest.raises(NotMaster):
        table[Code.FETCH](None, 2)  # type: ignore[arg-type]
    assert seen == [1]
