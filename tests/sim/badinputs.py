"""Connections to the master that should not be: of other clusters and groups, of copies, and old messages once more."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from kourou.broker.machines.replication import Ack, Hello, LogFacts, Member, Ping, Ready, Welcome
from tests.sim.host import Host
from tests.sim.network import CLIENTS, END, Link
from tests.sim.violation import Violation

if TYPE_CHECKING:
    from tests.sim.leading import Leading
    from tests.sim.world import World

KEPT = 2_000  # messages of slaves
STRANGER = 7  # a replica id that nobody has
VARIANTS = (
    "another cluster", "another group", "the master's id", "a copied directory", "a longer log", "another history",
    "a history that does not rise",
)  # fmt: skip


class BadInputs:
    def __init__(self, world: World) -> None:
        self._world = world
        self.sent: deque[tuple[int, int, object]] = deque(maxlen=KEPT)  # (replica, its disks so far, message) of slaves

    def note(self, host: Host, message: object) -> None:
        if isinstance(message, Hello | Ready | Ack | Ping):
            self.sent.append((host.replica, host.losses, message))

    def _connect(self, master: Host, answers: list[object]) -> Link:
        world = self._world
        link = world.network.connect(CLIENTS, master.replica)
        link.up.deliver = partial(world.deliver_to_master, link, master)
        link.up.alive = lambda: master.powered
        link.down.deliver = answers.append
        link.down.alive = lambda: True
        world.timeline.after_ms(3_000, lambda: world.network.close(link, CLIENTS))
        return link

    # ---- strangers

    def stranger(self, master: Host, amount: int) -> bool:
        """Somebody dials in who does not belong there: nothing may come of it."""
        process, world = master.process, self._world
        if process is None or process.leading is None or process.leading.machine.over:
            return False
        variant = VARIANTS[amount % len(VARIANTS)]
        facts, epoch = process.facts(), process.leading.epoch + (amount % 3)
        member, log = Member("sim", "group", STRANGER, "disk-of-a-stranger"), facts
        match variant:
            case "another cluster":
                member = Member("other", "group", 1 + amount % 2, "disk-elsewhere")
            case "another group":
                member = Member("sim", "other", 1 + amount % 2, "disk-elsewhere")
            case "the master's id":
                member, epoch = Member("sim", "group", master.replica, "disk-of-a-twin"), 0
            case "a copied directory":
                member, epoch = Member("sim", "group", STRANGER, process.me.storage), 0
            case "a longer log":
                log, epoch = LogFacts(facts.history, facts.start, facts.end + 5_000, facts.end + 5_000), 0
            case "another history":
                history = tuple((number + 1, start) for number, start in facts.history)
                log, epoch = LogFacts(history, facts.start, facts.end, facts.end), 0
            case _:
                log, epoch = LogFacts(((2, 10), (1, 20)), 0, 100, 100), 0
        answers: list[object] = []
        link = self._connect(master, answers)
        session = world.random.getrandbits(63)
        world.network.send(link, CLIENTS, Hello(member, session, epoch, log, 0))
        world.network.send(link, CLIENTS, Ready(session, log.end, log.end))
        world.network.send(link, CLIENTS, Ack(session, process.leading.epoch, log.end, log.end))
        world.saw(f"strangers: {variant}")
        world.timeline.after_ms(2_000, partial(self._look, process.leading, variant, answers))
        return True

    def _look(self, leading: Leading, variant: str, answers: list[object]) -> None:
        """Refused, or let in as the empty slave that it could be; a member never."""
        if STRANGER in leading.machine.members or STRANGER in leading.machine.eligible:
            raise Violation(f"24: {variant}: a stranger is in the set of {leading.process.replica}")
        if variant != "a longer log" and any(isinstance(answer, Welcome) for answer in answers):
            raise Violation(f"24: {variant}: a stranger was welcomed by {leading.process.replica}")
        if any(answer is not END for answer in answers):
            self._world.saw("strangers: answered")

    # ---- replayed

    def replay(self, master: Host, amount: int) -> bool:
        """What a slave once said is said again: on a connection of its own, or on the slave's."""
        process, world = master.process, self._world
        if process is None or process.leading is None or not self.sent:
            return False
        kind = ("hello", "session", "acknowledgements", "hello in the stream")[amount % 4]
        hellos = [(replica, losses, m) for replica, losses, m in self.sent if isinstance(m, Hello)]
        if not hellos:
            return False
        replica, losses, hello = hellos[amount % len(hellos)]
        others = [m for _, _, m in self.sent if not isinstance(m, Hello) and m.session == hello.session]  # type: ignore[attr-defined]
        if kind in ("hello", "session"):
            # without failover nothing tells a disk that lost its page cache from what it was before
            if kind == "session" and not world.settings.failover and losses != world.hosts[replica].losses:
                return False
            link = self._connect(master, [])
            for message in (hello, *(others[:20] if kind == "session" else ())):
                world.network.send(link, CLIENTS, message)
        else:
            own = world.hosts[replica].process
            live = own.following.link if own is not None and own.following is not None else None
            if live is None:
                return False
            for message in [hello] if kind == "hello in the stream" else others[:20]:
                world.network.send(live, replica, message)
        world.saw(f"replayed: {kind}")
        return True
