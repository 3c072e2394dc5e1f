"""Tells the service manager how this process is, as systemd's sd_notify does: ready, alive, a line of status, stopping.

One datagram a notice, to the unix socket that ``NOTIFY_SOCKET`` names; where nobody named one, nothing happens. A notice
that the manager does not take at once is not waited for: ready and the status are said again with the next beat.

A beat comes from the event loop, so a loop that is stuck is silent, and the manager (``WatchdogSec=``) ends the process.
Beats begin when the process is ready and end when it begins to stop, whether it was told to or has failed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Any

STATUS_BYTES_MAX = 512
STATUS_S = 5.0  # without a watchdog: how old the line of status may be


class Notifier:
    """``address``: a path, or ``@`` and an abstract name. ``watchdog_s``: without a beat for so long we are ended."""

    def __init__(self, address: str | None, *, watchdog_s: float | None, log: Any) -> None:
        self._log = log
        self._address = None if address is None else _socket_address(address)
        if address is not None and self._address is None:
            log.warning("notify_socket_unknown", address=address)
        self._watched = watchdog_s is not None and self._address is not None
        self.interval_s: float | None = None  # between two beats; none: nobody listens
        if self._address is not None:
            self.interval_s = STATUS_S if watchdog_s is None else min(STATUS_S, watchdog_s / 2)
        self._ready_taken = False
        self._status_taken = ""
        self._failed = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], *, log: Any) -> Notifier:
        """Takes the variables away: a child of ours has nothing to say to the manager."""
        address = environment.pop("NOTIFY_SOCKET", None)
        period = environment.pop("WATCHDOG_USEC", None)
        watched = environment.pop("WATCHDOG_PID", None)
        watchdog_s = None
        if period is not None and watched in (None, str(os.getpid())):
            if period.isascii() and period.isdigit() and int(period) > 0:
                watchdog_s = int(period) / 1e6
            else:
                log.warning("watchdog_period_unknown", period=period)
        return cls(address or None, watchdog_s=watchdog_s, log=log)

    def starting(self, status: str) -> None:
        self._send(f"STATUS={_line(status)}")

    def beat(self, status: str) -> None:
        """The process serves. The first one says that it is ready."""
        lines = []
        if not self._ready_taken:
            lines.append("READY=1")
        if self._watched:
            lines.append("WATCHDOG=1")
        if status != self._status_taken:
            lines.append(f"STATUS={_line(status)}")
        if lines and self._send(*lines):
            self._ready_taken, self._status_taken = True, status

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", f"STATUS={_line(status)}")

    def _send(self, *lines: str) -> bool:
        """Was it taken?"""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as failure:
            if not self._failed:
                self._failed = True
                self._log.warning("not_notified", reason=failure.strerror or str(failure))
            return False
        self._failed = False
        return True


def _socket_address(address: str) -> str | bytes | None:
    """What a socket takes; none for a kind we don't know (systemd also has vsock)."""
    if address.startswith("@"):
        return b"\0" + os.fsencode(address[1:])
    return address if address.startswith("/") else None


def _line(text: str) -> str:
    """One line, of a bounded length."""
    joined = " ".join(text.split())
    return joined.encode()[:STATUS_BYTES_MAX].decode(errors="ignore")
