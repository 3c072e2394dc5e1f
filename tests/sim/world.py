"""One run: three hosts, their network, clients, a nameserver and an operator, on one heap of events. A seed is a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from random import Random

from kourou.broker.machines.election import Follow
from kourou.broker.machines.electionstate import GroupState, state_of
from kourou.broker.store.standing import MASTER
from tests.sim import checkers, invariants, sharedcheckers
from tests.sim.badinputs import BadInputs
from tests.sim.clients import Clients
from tests.sim.contents import Content
from tests.sim.electing import KEYS, Etcd
from tests.sim.faults import Faults
from tests.sim.host import Frames, Host
from tests.sim.leading import Leading
from tests.sim.network import CLIENTS, END, Link, Network
from tests.sim.operation import Directory, Operator
from tests.sim.settings import Settings
from tests.sim.timeline import Timeline
from tests.sim.truth import Truth
from tests.sim.violation import Violation

STATE_EVERY_MS = 1_000
TRACE_MAX = 4_000


class World:
    def __init__(self, settings: Settings, *, traced: bool = False) -> None:
        self.settings = settings
        self.random = Random(settings.seed ^ 0x5EED)
        self.timeline = Timeline()
        self.network = Network(self.timeline, self.random)
        self.frames = Frames()
        self.truth = Truth()
        self.masters: dict[int, Leading] = {}
        self.terms: dict[int, int] = {}  # epoch -> replica, once it was looked at
        self.lost: set[int] = set()  # hosts that lost what they had, until they have it again
        self.events = 0
        self.seen: Counter[str] = Counter()  # how often each kind of thing has happened
        self.trace: deque[str] | None = deque(maxlen=TRACE_MAX) if traced else None
        self.hosts = [
            Host(
                replica,
                settings,
                self.timeline,
                self.network,
                self.random,
                wire=self,
                note=partial(self.note, replica),
                touched=self.touched,
                ended=self.ended,
                seen=self.saw,
                halts=self.halted,
            )
            for replica in range(3)
        ]
        self.etcd = Etcd(self.timeline, self.network, self.random)
        self.directory = Directory(self)
        self.operator = Operator(self)
        self.clients = Clients(self)
        self.bad_inputs = BadInputs(self)
        self.etcd_lost = False
        self.last_sets: tuple[int, ...] = ()  # who was a member, or eligible, when etcd lost its data
        self.faults = Faults(self, settings.faults)

    # ---- running

    def run(self) -> None:
        """Raises Violation, or another AssertionError of a machine."""
        self.start()
        while self.timeline.now_ms < self.settings.faults_end_ms:
            self.step()
        self.faults.heal()
        if self.settings.full and not self.settings.true_clocks:
            self.truth.folded.clocks_jump = True
            for host in self.hosts:
                host.clock.set_right()
        self.heal()

    def start(self) -> None:
        for host in self.hosts:
            self.operator.start(host)
        self.operator.watch()
        self.directory.beat()
        self.clients.start()
        self.faults.plan()
        self._compare_states()

    def step(self) -> None:
        self.events += 1
        self.timeline.step()

    def heal(self) -> None:
        """20. Liveness: soon after the last fault there is one master, all replicas are in its set, and every send is OK."""
        patient = self.settings.accepts_loss or not self.settings.ack_all  # a master went on alone: others lack megabytes
        patience_s = 45 if patient else 15
        deadline = self.timeline.now_ms + patience_s * 1000
        self.clients.finish()
        while not self.settled():
            if self.timeline.now_ms > deadline:
                raise Violation(f"20: not well {patience_s} s after the last fault: {self.unwell()}")
            until = self.timeline.now_ms + 100
            while self.timeline.now_ms < until:
                self.step()
        invariants.same_state(self)
        history = self.clients.history
        history.lost, history.rewound = self.truth.lost, self.truth.rewound
        history.commits_lost = bool(self.truth.rewinds)
        found = checkers.check(history, self.truth.queues)
        if not self.truth.rewinds and not self.truth.disbelieved:
            found += sharedcheckers.check(self.clients.shared)
        if found:
            raise Violation(f"history: {len(found)} faults: {'; '.join(found[:5])}")

    def settled(self) -> bool:
        return not self.unwell()

    def unwell(self) -> str:
        leaders = [h for h in self.hosts if h.process is not None and h.process.leading is not None]
        if len(leaders) != 1:
            return f"masters are {[h.replica for h in leaders]}"
        leading = leaders[0].process.leading if leaders[0].process is not None else None
        assert leading is not None
        if leading.machine.set_members() != (0, 1, 2):
            return f"the set is {leading.machine.set_members()}"
        if not self.clients.finished:
            return f"clients wait: {self.clients.waiting()}"
        ends = {host.known_end for host in self.hosts}
        sums = {host.ends.get(host.known_end) for host in self.hosts}
        if len(ends) != 1 or len(sums) != 1:
            return f"logs end at {ends}"
        if leading.machine.confirm != leaders[0].known_end:
            return f"C is {leading.machine.confirm}, the log ends at {leaders[0].known_end}"
        return ""

    def undelivered(self) -> list[str]:
        """What waits for its time, or for a decision, at the master."""
        for host in self.hosts:
            process = host.process
            if process is not None and process.leading is not None:
                state = process.state
                timers, halves = len(state.timers), len(state.transactions) if self.settings.true_clocks else 0
                return [f"{timers} timers and {halves} half messages"] if timers or halves else []
        return []

    def _compare_states(self) -> None:
        invariants.same_state(self)
        self.timeline.after_ms(STATE_EVERY_MS, self._compare_states)

    # ---- after each event

    def note(self, replica: int, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.timeline.now_us / 1000:10.3f} {replica} {text}")

    def coverage(self) -> dict[str, int]:
        """What has happened, by kind; faults as ``fault: kind``."""
        found = self.seen + Counter(f"fault: {fault.kind}" for fault in self.faults.done)
        if self.settings.full:
            found["runs: full"] = 1
            for name in ("ack_all", "sync_flush", "accepts_loss", "unclean", "true_clocks"):
                found[f"runs: {name.replace('_', ' ')}"] = int(getattr(self.settings, name))
            found["messages: delayed"] = sum(s.kind == "delayed" for s in self.clients.history.sent)
            found["messages: half"] = sum(s.kind == "half" for s in self.clients.history.sent)
            found["log: rewound"] = self.truth.rewinds
        return dict(+found)

    def saw(self, what: str) -> None:
        self.seen[what] += 1

    def touched(self, host: Host) -> None:
        invariants.check(self, host)
        process = host.process
        if process is not None and host.replica in self.lost and self.truth.is_in(host):
            streaming = process.following is not None and process.following.machine.streaming
            if streaming or process.leading is not None:
                self.lost.discard(host.replica)
                host.cold = False

    def latest_term(self) -> int:
        """The last one that counts: a promotion that nobody but its dead master has heard of does not."""
        return max((epoch for epoch, replica in self.terms.items() if self._counts(epoch, replica)), default=0)

    def _counts(self, epoch: int, replica: int) -> bool:
        if self.settings.failover or epoch == 1:
            return True
        begun_by = self.hosts[replica]
        for host in self.hosts:
            if host is begun_by and host.process is None:
                continue
            heard = host.process.epoch if host.process is not None else 0
            has = host.epochs[-1][0] if host.epochs else 0
            if max(heard, has) >= epoch:
                return True
        return begun_by.process is None and begun_by.noted_role() == MASTER

    def is_deposed(self, host: Host) -> bool:
        """Its log is of an earlier term, and what was confirmed there need not be in a later one."""
        loses = not self.settings.ack_all or self.truth.rewinds > 0
        return loses and bool(host.epochs) and host.epochs[-1][0] < self.latest_term()

    def may_lose_truth(self, host: Host, leading: Leading, last: int | None) -> bool:
        """May this master begin without something that was acknowledged?"""
        if leading.lossy or leading.epoch in self.operator.repairs.accepted or self.operator.repairs.accepting:
            return True
        return not self.settings.ack_all and (host.replica != last or host.replica in self.lost)

    def give_up(self, host: Host, confirm: int) -> None:
        """A master that is none any more has confirmed this."""
        for end, start, epoch in host.places:
            content = self.frames.contents.get((epoch, start))
            if end <= confirm and self.truth.sums.get(end) != host.ends[end]:
                self.truth.disbelieved = True
                if isinstance(content, Content):
                    self.truth.give_up(content)

    def halted(self, host: Host, reason: str) -> None:
        self.saw("elector: halted")
        if not self.etcd_lost and not self.operator.repairs.founded:
            raise Violation(f"25: the elector of {host.replica} halts: {reason}")

    def any_rot(self) -> bool:
        return any(host.rot for host in self.hosts)

    def ended(self, host: Host) -> None:
        """Its process is gone: whoever waited for an answer of it gets none."""
        self.clients.lost(host.replica)
        self.operator.ended(host)

    def has_session(self, leading: Leading, other: Host) -> bool:
        """Does the master speak with the process that is there now?"""
        if other.process is None or other.process.following is None:
            return False
        session = next((s.session for s in leading.machine.sessions() if s.member.replica == other.replica), None)
        return session == other.process.following.machine._session

    # ---- what processes do on the network

    def send(self, link: Link, host: int, message: object) -> None:
        if self.settings.full:
            self.bad_inputs.note(self.hosts[host], message)
        self.network.send(link, host, message)

    def close(self, link: Link, host: int) -> None:
        self.network.close(link, host)

    def group_state(self) -> GroupState | None:
        value = self.etcd.truth.values.get(KEYS.state)
        return state_of(value.value) if value is not None and value.value is not None else None

    def ask_pledge(self, asking: int, replica: int, epoch: int, done: Callable[[int], None]) -> None:
        asker, host = self.hosts[asking], self.hosts[replica]
        asked_ms, lives = asker.clock.monotonic_ms(), asker.lives

        def answer() -> None:
            if asker.lives == lives:
                asker.run(lambda: done(asked_ms))

        def ask() -> None:
            electing = host.process.electing if host.process is not None else None
            if electing is not None and electing.elector.asked_to_pledge(epoch, now_ms=electing.now_ms()):
                self.network.carry(replica, asking, answer)

        self.network.carry(asking, replica, lambda: host.run(ask))

    def dial(self, replica: int, target: Follow | None) -> Link | None:
        if self.settings.failover:
            found = target.master if target is not None else None
        elif self.network.is_cut(replica, CLIENTS) or self.network.is_cut(CLIENTS, replica):
            return None
        else:
            found = self.directory.master()
        if found is None or found == replica:
            return None
        link = self.network.connect(replica, found)
        master, slave = self.hosts[found], self.hosts[replica]
        link.up.deliver = partial(self.deliver_to_master, link, master)
        link.down.deliver = partial(self._to_slave, link, slave)
        link.up.alive = lambda: master.powered
        link.down.alive = lambda: slave.powered
        if master.process is None:
            link.up.open = False  # what is sent is answered with a reset, if there is anybody to answer
        return link

    def deliver_to_master(self, link: Link, host: Host, message: object) -> None:
        def received() -> None:
            assert host.process is not None
            leading = host.process.leading
            if leading is None or leading.machine.over:
                self.network.close(link, host.replica)
            else:
                leading.received(link, message)

        host.run(received)

    def _to_slave(self, link: Link, host: Host, message: object) -> None:
        def received() -> None:
            assert host.process is not None
            following = host.process.following
            if following is not None:
                following.received(link, message)
            elif message is END:
                self.network.close(link, host.replica)

        host.run(received)

    def ask_producer(self, replica: int, name: str, place: tuple[int, int]) -> None:
        self.network.carry(replica, CLIENTS, partial(self.clients.asked, name, place))

    def refuses(self, asking: int, replica: int) -> bool:
        host = self.hosts[replica]
        cut = self.network.is_cut(asking, replica) or self.network.is_cut(replica, asking)
        return host.powered and host.process is None and not cut
