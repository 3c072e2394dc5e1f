"""A process that has one push consumer of the official client, and can be got rid of for good."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

GRACE_S = 2.0  # for an end in good order


class PushProcess:
    """It ends when its stdin does, or is killed: a shutdown of the client may hang, and a client that hangs goes on with its
    heartbeats, so that the server keeps for it what it was handed."""

    def __init__(self, command: Sequence[str], *, received: Callable[[], None]) -> None:
        """``received`` is called, by another thread, for each line that it prints: it does so at its first message."""
        self._received = received
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for _ in self._process.stdout:
            self._received()

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> None:
        """Until it has ended by itself."""
        self._process.wait(timeout_s)

    def end(self, grace_s: float = GRACE_S) -> int | None:
        """Returns when it is gone. The status of one that had ended by itself, else None."""
        status = self.status
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._process.stdout.close()
        return status


def command_of(endpoint: str, directory: str, run: str, kind: str, seed: str, failing: float) -> list[str]:
    """``failing`` is the share of messages that it does not accept."""
    return [sys.executable, "-m", "tests.chaos.workers.push", endpoint, directory, run, kind, seed, str(failing)]
