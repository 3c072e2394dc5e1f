"""Commands that ask a cluster: the options they share, and a client for as long as they run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from kourou.cli.output import Format
from kourou.cli.values import BadValue
from kourou.core.errors import BadRequest

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


def client(server: str | None) -> Client:
    """A client that is not open yet. Raises BadValue, naming where the address comes from."""
    from kourou.client import Client

    named = "KOUROU_SERVER" if server in (None, os.environ.get("KOUROU_SERVER")) else "--server"
    try:
        return Client(server)
    except BadRequest as failure:
        raise BadValue(f"{named}: {failure}") from None


def ask(server: str | None, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``work`` with an open client."""

    async def asked() -> T:
        async with client(server) as opened:
            return await work(opened)

    return asyncio.run(asked())
