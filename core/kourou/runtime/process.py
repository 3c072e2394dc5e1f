"""What every server process does around its own work: signals, the open-file limit, HTTP, gRPC, a clean stop."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from typing import Any, Protocol

from kourou.core.errors import BadRequest, KourouError
from kourou.core.route import Endpoint
from kourou.runtime import gc_tame
from kourou.runtime.http import HttpServer, text_page
from kourou.runtime.log import logger
from kourou.runtime.metrics import Metrics
from kourou.runtime.notify import Notifier

Ready = Callable[[dict[str, str]], None]


class Service(Protocol):
    """A server process."""

    stopped: asyncio.Event  # set from outside, or by the service when it can't go on
    failure: KourouError | None  # why it could not

    async def start(self) -> dict[str, str]:
        """Serve; the addresses, by what they are for."""
        ...

    async def stop(self) -> None:
        """Finish what is under way and let go of everything. Called once, also when ``start`` failed half-way."""
        ...

    def status_line(self) -> str:
        """What it does now, in a line: ``systemctl status`` shows it. Asked from ``start`` to ``stop``."""
        ...


async def serve(service: Service, *, ready: Ready, connections: int) -> None:
    """Run until SIGTERM or SIGINT. Raises KourouError when the service can't start, or fails later."""
    raise_file_limit(connections)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stopped.set)
    notifier = Notifier.from_environment(os.environ, log=logger())
    notifier.starting("starting")
    try:
        addresses = await service.start()
        gc_tame.tame()
        ready(addresses)
        await _beat_until_stopped(service, notifier)
    finally:
        notifier.stopping("stopping" if service.failure is None else f"stopping: {service.failure}")
        await service.stop()
    if service.failure is not None:
        raise service.failure


async def _beat_until_stopped(service: Service, notifier: Notifier) -> None:
    while not service.stopped.is_set():
        notifier.beat(service.status_line())
        try:
            async with asyncio.timeout(notifier.interval_s):
                await service.stopped.wait()
        except TimeoutError:
            pass


def raise_file_limit(connections: int) -> int:
    """Allow as many open files as the connections need, as far as the system lets us; the limit that holds."""
    wanted = connections + 1_024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


async def bound(what: str, endpoint: Endpoint, listening: Any) -> Endpoint:
    """Await a ``listen`` and say where it ended up; a port that can't be had becomes BadRequest."""
    try:
        port: int = await listening
    except OSError as failure:
        raise BadRequest(f"can't listen on {endpoint} ({what}): {failure.strerror or failure}") from None
    return Endpoint(endpoint.host, port)


def http_pages(metrics: Metrics, *, serving: Callable[[], bool]) -> HttpServer:
    """``/metrics``, ``/healthz`` and ``/readyz``."""
    return HttpServer(
        {
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", metrics.render()),
            "/healthz": lambda: text_page(200, "ok"),
            "/readyz": lambda: text_page(200, "ready") if serving() else text_page(503, "not ready"),
        }
    )
