"""Exit status 0 when the server in this container is ready: its own /readyz, on the port that the environment names."""

from __future__ import annotations

import os
import sys
import urllib.request


def main() -> int:
    port = os.environ.get("KOUROU_HTTP_PORT", "8088")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=3):
            return 0
    except OSError as failure:  # a refusal by status is one, too
        print(f"not ready: {failure}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
