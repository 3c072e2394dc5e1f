"""Servers run on uvloop, the tests on asyncio's own loop; what touches sockets and TLS is run on uvloop too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

import pytest
import uvloop

from tests.integration.http2 import test_engines, test_server


@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        (test_engines.test_unary, ("own", "echo_future")),
        (test_engines.test_unary, ("own-tls", "echo_task")),
        (test_engines.test_large_messages_both_ways, ("own",)),
        (test_engines.test_large_messages_both_ways, ("own-tls",)),
        (test_engines.test_server_stream, ("own-tls", 40, 500_000)),
        (test_engines.test_a_deadline_stops_the_handler, ("own",)),
        (test_engines.test_close_ends_what_doesnt_end_by_itself, ("own-tls",)),
        (test_engines.test_close_lets_calls_end, ("own",)),
        (test_engines.test_an_address_that_is_taken, ("own",)),
        (test_server.test_http_1_is_told_off, (True,)),
        (test_server.test_who_doesnt_finish_the_handshake_is_closed_on, (b"\x16",)),
        (test_server.test_who_is_silent_is_asked_and_then_cut_off, ()),
        (test_server.test_a_thousand_idle_streams, ()),
    ],
)
def test_on_uvloop(test: Callable[..., Coroutine[None, None, None]], arguments: tuple[object, ...]) -> None:
    uvloop.run(test(*arguments))
