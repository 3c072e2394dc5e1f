"""Exit status 0 when the server in this container is ready: its own /readyz, on the port that the environment names.

Runs every few seconds in every container, so it imports next to nothing: 30 ms with `python3 -I -S`, with urllib 80.
"""

from __future__ import annotations

import os
import socket
import sys

TIMEOUT_S = 5.0


def main() -> int:
    port = int(os.environ.get("KOUROU_HTTP_PORT", "8088"))
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = connection.recv(4096).partition(b"\r\n")[0].decode("ascii", "replace")
    except OSError as failure:
        print(f"not ready: {failure}")
        return 1
    ready = answer.split()[1:2] == ["200"]
    if not ready:
        print(f"not ready: {answer}")
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
