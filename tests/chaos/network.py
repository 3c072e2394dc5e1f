"""Hosts of one machine: a network namespace each, joined by a bridge; cuts, losses and slow links between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tests.chaos.claim import Claim, command, quietly

WORLD = 254  # the runner's own place on the bridge: from there it looks at everybody, whatever is cut off


class Way(Enum):
    """Which packets of a cut are dropped, seen from the host that is cut off."""

    BOTH = "both"
    IN = "in"
    OUT = "out"


@dataclass(slots=True)
class Host:
    name: str
    namespace: str
    address: str
    outer: str  # the end of its cable that is in the bridge
    touched: bool = field(default=False)  # there may be something to mend

    def run(self, *arguments: str) -> str:
        return command("ip", "netns", "exec", self.namespace, *arguments)

    def _rule(self, chain: str, *what: str) -> None:
        self.touched = True
        self.run("iptables", "-w", "10", "-A", chain, *what, "-j", "DROP")

    def cut_off_from(self, others: list[Host], way: Way = Way.BOTH) -> None:
        for other in others:
            if other is self:
                continue
            if way is not Way.OUT:
                self._rule("INPUT", "-s", other.address)
            if way is not Way.IN:
                self._rule("OUTPUT", "-d", other.address)

    def lose(self, share: float) -> None:
        """This share of what comes in is lost, at random."""
        self._rule("INPUT", "-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", str(share))

    def unplug(self) -> None:
        self.touched = True
        command("ip", "link", "set", self.outer, "down")

    def slow_down(self, rate: str) -> None:
        """A narrow link, in both directions; what waits for longer than the buffer holds is dropped."""
        self.touched = True
        shape = ("root", "tbf", "rate", rate, "burst", "16k", "latency", "400ms")
        self.run("tc", "qdisc", "replace", "dev", "eth0", *shape)
        command("tc", "qdisc", "replace", "dev", self.outer, *shape)

    def mend(self) -> None:
        """A sound network again."""
        if not self.touched:
            return
        self.run("iptables", "-w", "10", "-F")
        command("ip", "link", "set", self.outer, "up")
        quietly("ip", "netns", "exec", self.namespace, "tc", "qdisc", "del", "dev", "eth0", "root")
        quietly("tc", "qdisc", "del", "dev", self.outer, "root")
        self.touched = False


class Network:
    """The bridge and its hosts. Every name comes from the claim, so that nothing else of the machine is touched."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self.hosts: list[Host] = []
        bridge = claim.bridge
        command("ip", "link", "add", bridge, "type", "bridge")
        command("ip", "addr", "add", f"{claim.address(WORLD)}/24", "dev", bridge)
        command("ip", "link", "set", bridge, "up")
        # a container engine lets nothing be forwarded that it does not know, bridged packets included
        command("iptables", "-w", "10", "-I", "FORWARD", "-i", bridge, "-o", bridge, "-j", "ACCEPT")

    def add(self, name: str) -> Host:
        claim = self._claim
        host = Host(name, f"{claim.prefix}{name}", claim.address(len(self.hosts) + 1), f"{claim.bridge}-{name}")
        command("ip", "netns", "add", host.namespace)
        command("ip", "link", "add", host.outer, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        command("ip", "link", "set", host.outer, "master", claim.bridge)
        command("ip", "link", "set", host.outer, "up")
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        self.hosts.append(host)
        return host

    def mend(self) -> None:
        for host in self.hosts:
            host.mend()
