"""Commands that ask a cluster: the options they share, and a client for as long as they run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from kourou.cli.output import Format

if TYPE_CHECKING:
    from kourou.client import Client

T = TypeVar("T")

Server = Annotated[
    str | None,
    Parameter(
        name="--server",
        env_var="KOUROU_SERVER",
        help="HOST:PORT[,…] of nameservers or of a standalone node (default: 127.0.0.1:10911).",
    ),
]
Output = Annotated[Format, Parameter(name=("--output", "-o"), help="table, or json for scripts.")]


def ask(server: str | None, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``work`` with an open client."""
    from kourou.client import Client

    async def asked() -> T:
        async with Client(server) as client:
            return await work(client)

    return asyncio.run(asked())
