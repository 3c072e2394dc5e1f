"""A number for this run, from which every name on the host is made; what a crashed run left under its number is removed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

CLAIMS = Path("/run/kourou-chaos")
NUMBERS = range(1, 200)
END_S = 10.0


class CommandFailed(Exception):
    """A command of the operating system did not do what it should; its words."""


def command(*arguments: str, timeout_s: float = 30.0) -> str:
    """Run it to its end; what it printed."""
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise CommandFailed(f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def quietly(*arguments: str) -> bool:
    """Run it; whether it did something."""
    try:
        command(*arguments)
    except (CommandFailed, OSError, subprocess.TimeoutExpired):
        return False
    return True


class Claim:
    """Held by a lock on a file, which the kernel lets go of when the process ends, however that comes about."""

    def __init__(self) -> None:
        CLAIMS.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = -1
        self.number = 0
        for number in NUMBERS:
            fd = os.open(CLAIMS / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            sweep(number)  # of a run that crashed
            if self.number or f" 10.231.{number}." in command("ip", "-4", "-o", "addr"):
                os.close(fd)
            else:
                self._fd, self.number = fd, number
            if self.number and not (CLAIMS / str(number + 1)).exists():
                return
        if not self.number:
            raise CommandFailed(f"no number is free below {CLAIMS}")

    @property
    def bridge(self) -> str:
        return f"kch{self.number}"

    @property
    def prefix(self) -> str:
        """How the namespaces' names begin."""
        return prefix_of(self.number)

    def address(self, last: int) -> str:
        return f"10.231.{self.number}.{last}"

    def release(self) -> None:
        if self._fd >= 0:
            sweep(self.number)
            os.close(self._fd)
            self._fd = -1


def prefix_of(number: int) -> str:
    return f"kourou-chaos-{number}-"


def sweep(number: int) -> None:
    """Remove all namespaces, links and rules of this number, and end what runs in them. Nothing else is touched."""
    names = [line.split()[0] for line in command("ip", "netns", "list").splitlines() if line.startswith(prefix_of(number))]
    for name in names:
        end_all(name)
        quietly("ip", "netns", "del", name)
    bridge = f"kch{number}"
    for line in command("ip", "-o", "link").splitlines():
        link = line.split(": ")[1].split("@")[0]
        if link == bridge or link.startswith(f"{bridge}-"):
            quietly("ip", "link", "del", link)
    while quietly("iptables", "-w", "10", "-D", "FORWARD", "-i", bridge, "-o", bridge, "-j", "ACCEPT"):
        pass


def end_all(namespace: str) -> None:
    """SIGKILL for whatever runs in the namespace; back when nothing does any more."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        try:
            pids = [int(pid) for pid in command("ip", "netns", "pids", namespace).split()]
        except CommandFailed:
            return
        pids = [pid for pid in pids if not is_zombie(pid)]
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)


def is_zombie(pid: int) -> bool:
    """Dead, and not yet waited for; whoever started it does that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True
