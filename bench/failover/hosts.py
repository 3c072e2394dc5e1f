"""Where servers run: each on a host of its own in a network namespace, or, without root, all on this machine's loopback.

A namespace is held by a process that ends with us, so nothing is left behind however we end. The hosts are ports of one
bridge, in a namespace of our own too: the machine's own network is not touched. To cut a host off, its port is taken out of the
bridge: packets vanish in both directions and nobody is told, as with a switch that died.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess

from bench.etcd import free_ports

CLONE_NEWNET = 0x40000000
NETWORK = "10.77.0"
HUB = f"{NETWORK}.254"  # this process, and the clients
FIRST_PORT = 20_000


class Host:
    """An address, and the command to be put before one that is to run there."""

    def __init__(self, address: str, within: tuple[str, ...] = (), link: str | None = None) -> None:
        self.address = address
        self.within = within
        self._link = link
        self._ports = itertools.count(FIRST_PORT)

    def port(self) -> int:
        return next(self._ports) if self._link else free_ports(1)[0]

    def place(self) -> str:
        return f"{self.address}:{self.port()}"

    def cut(self) -> None:
        assert self._link is not None
        _ip("link", "set", self._link, "nomaster")

    def mend(self) -> None:
        assert self._link is not None
        _ip("link", "set", self._link, "master", "hub")


class Loopback:
    """No namespaces: nobody can be cut off."""

    can_cut = False

    def host(self) -> Host:
        return Host("127.0.0.1")

    def close(self) -> None:
        pass


class Network:
    """Puts this process into a namespace of its own."""

    can_cut = True

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "hub", "type", "bridge")
        _ip("address", "add", f"{HUB}/24", "dev", "hub")
        _ip("link", "set", "hub", "up")
        self._number = 0
        self._holders: list[subprocess.Popen[bytes]] = []

    def host(self) -> Host:
        self._number += 1
        link = f"host{self._number}"
        holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo up; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        _ip("link", "set", link, "master", "hub", "up")
        within = ("nsenter", "-t", str(holder.pid), "-n", "--")
        address = f"{NETWORK}.{self._number}"
        for arguments in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            subprocess.run([*within, "ip", *arguments], check=True)
        return Host(address, within, link)

    def close(self) -> None:
        """Lets go of the hosts; their links go with them."""
        for holder in self._holders:
            holder.kill()
            holder.wait()
            for pipe in (holder.stdin, holder.stdout):
                assert pipe is not None
                pipe.close()
        self._holders.clear()


def made(namespaces: bool) -> Loopback | Network:
    if namespaces and os.geteuid() == 0:
        try:
            return Network()
        except (OSError, subprocess.CalledProcessError) as failure:
            print(f"SKIPPED: partitions; no network namespaces here ({failure})", flush=True)
    else:
        print("SKIPPED: partitions; they need root and network namespaces", flush=True)
    return Loopback()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
