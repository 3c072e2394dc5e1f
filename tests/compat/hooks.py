"""The commands by which the suites make topics and groups on our server.

A suite makes hundreds of them, one process each. So one native client stays open here, behind a Unix socket, and the
commands are `hook.py`, which only passes its arguments on.
"""

from __future__ import annotations

import shlex
import socketserver
import sys
import threading
from pathlib import Path
from types import TracebackType

from kourou.client.blocking import Client
from kourou.core.errors import KourouError

HOOK = Path(__file__).resolve().parent / "hook.py"


def carry_out(client: Client, words: list[str]) -> None:
    """`topic NAME NORMAL|FIFO|DELAY|TRANSACTION QUEUES` or `group NAME true|false MAX_ATTEMPTS`."""
    kind, name, what, number = words
    if kind == "topic":
        client.create_topic(name, type=what.lower(), queues=int(number))
    elif kind == "group":
        client.create_group(name, fifo={"true": True, "false": False}[what], max_attempts=int(number))
    else:
        raise ValueError(f"a hook for {kind!r}?")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128  # suites run their tests side by side; a connect to a full queue fails with EAGAIN


class Hooks:
    """Serves hooks for the server whose data plane is at the address, while it is open."""

    def __init__(self, server: str, scratch: Path) -> None:
        self._client = Client(server)
        socket_path = scratch / "hooks.sock"
        client = self._client

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                words = self.rfile.readline().decode().rstrip("\n").split("\t")
                try:
                    carry_out(client, words)
                except (KourouError, ValueError, KeyError) as error:
                    self.wfile.write(f"{' '.join(words)}: {error!r}".encode())
                else:
                    self.wfile.write(b"ok")

        self._server = _Server(str(socket_path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="hooks", daemon=True)
        # Scripts without arguments of their own: the Node suite splits its command at blanks.
        self.environment: dict[str, str] = {}
        for kind in ("topic", "group"):
            script = scratch / f"create-{kind}"
            command = shlex.join([sys.executable, "-I", "-S", str(HOOK), str(socket_path), kind])
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o755)
            self.environment[f"ADMIN_CREATE_{kind.upper()}"] = str(script)

    def __enter__(self) -> Hooks:
        self._client.open()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()
