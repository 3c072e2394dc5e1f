"""A master whose set is decided elsewhere: what counts while it is not decided yet."""

from __future__ import annotations

from kourou.broker.machines.electedmaster import ElectedMaster, SetWanted
from kourou.broker.machines.replication import Ack, Hello, LogFacts, Member, Ready, Send, Welcome

LAG = 1_000


class Term:
    """Broker 0 leads epoch 3, whose frame is at 100..110; what others have below is up to 100."""

    def __init__(self, *sss: int, elr: tuple[int, ...] = (), min_isr: int = 2) -> None:
        self.leads = True
        self.now = 0
        self.links = 0
        self.effects: list[object] = []
        log = LogFacts(((1, 0), (3, 100)), 0, 110, 110)
        storages = {r: f"disk-{r}" for r in range(3)}
        self.master = ElectedMaster(
            self.member(0, 1), log, sss=sss, elr=elr, storages=storages, leads=lambda: self.leads, now_ms=0, epoch=3,
            confirm=100, ack_all=True, min_isr=min_isr, sync_flush=False, lag_ms_max=LAG,
        )  # fmt: skip

    def member(self, replica: int, life: int = 1, disk: str = "") -> Member:
        return Member("c", "g", replica, f"{disk or f'disk-{replica}'}.life-{life}")

    def join(self, replica: int, *, life: int = 1, disk: str = "", has: int = 110, end: int = 100) -> int:
        """A session with a log that ends there, and what it then acknowledges; the link."""
        self.links += 1
        link, session = self.links, 1000 + self.links
        log = LogFacts(((1, 0), (3, 100)) if end > 100 else ((1, 0),), 0, end, end)
        self.master.hello(link, Hello(self.member(replica, life, disk), session, 1, log, 100), now_ms=self.now)
        self.effects += self.master.take_effects()
        assert any(isinstance(e, Send) and isinstance(e.message, Welcome) for e in self.effects), self.effects
        self.master.ready(link, Ready(session, end, end), now_ms=self.now)
        self.ack(link, has)
        return link

    def ack(self, link: int, has: int) -> None:
        session = 1000 + link
        self.master.sent(link, session, max(has, 110))
        self.master.acked(link, Ack(session, 3, has, has), now_ms=self.now)

    def wanted(self) -> SetWanted | None:
        effects, self.effects = [*self.effects, *self.master.take_effects()], []
        found = [effect for effect in effects if isinstance(effect, SetWanted)]
        return found[-1] if found else None


def test_nothing_is_confirmed_before_all_of_the_set_have_it() -> None:
    """Not even at the moment at which the term begins."""
    term = Term(0, 1, 2)
    assert term.master.confirm == 100
    term.join(1)
    assert term.master.confirm == 100
    term.join(2)
    assert term.master.confirm == 110
    assert term.master.serving


def test_a_lost_member_counts_until_its_leaving_is_decided() -> None:
    term = Term(0, 1, 2)
    term.join(1)
    term.master.gone(2)
    wanted = term.wanted()
    assert wanted is not None
    assert wanted.members == {0, 1}
    assert term.master.confirm == 100
    term.master.decided((0, 1), (), now_ms=0)
    assert term.master.confirm == 110


def test_c_stands_still_from_when_fewer_are_wanted_than_min_isr() -> None:
    term = Term(0, 1)
    link = term.join(1)
    assert term.master.confirm == 110
    term.master.appended(200)
    term.master.lost(link)
    term.master.gone(1)
    assert term.master.short
    term.master.decided((0,), (1,), now_ms=0)
    assert term.master.confirm == 110
    assert term.master.eligible == {1}


def test_a_joining_member_holds_c_at_once_and_counts_when_decided() -> None:
    term = Term(0, min_isr=2)
    link = term.join(2)
    wanted = term.wanted()
    assert wanted is not None
    assert wanted.members == {0, 2}
    assert wanted.incarnations == {2: "disk-2.life-1"}
    assert term.master.short  # not decided: not counted
    assert term.master.confirm == 100
    term.master.appended(120)
    term.master.decided((0, 2), (), now_ms=0)
    assert term.master.confirm == 110  # it has not acknowledged more
    term.ack(link, 120)
    assert term.master.confirm == 120


def test_a_join_that_ends_before_it_is_decided_is_taken_back() -> None:
    """C still waits for it: etcd may have it. When it is known that it has not, C goes on."""
    term = Term(0, min_isr=1)
    link = term.join(2)
    assert term.wanted() is not None
    term.master.appended(120)
    term.master.lost(link)
    wanted = term.wanted()
    assert wanted is not None
    assert wanted.members == {0}
    assert term.master.confirm == 110
    term.master.decided((0,), (), now_ms=0)
    assert term.master.confirm == 120


def test_a_refused_join_is_wanted_again() -> None:
    term = Term(0, min_isr=1)
    link = term.join(2)
    assert term.wanted() is not None
    term.master.decided((0,), (), now_ms=0)
    assert term.wanted() is None
    term.ack(link, 110)
    assert term.wanted() is not None


def test_a_lapsed_lease_stops_c() -> None:
    term = Term(0, min_isr=1)
    term.leads = False
    term.master.appended(130)
    assert term.master.confirm == 110
    term.leads = True
    term.master.leads_again()
    assert term.master.confirm == 130


def test_a_process_started_again_has_the_same_disk() -> None:
    """Its old connection may look alive: the new session takes its place, and it stays a member."""
    term = Term(0, 1)
    term.join(1)
    term.join(1, life=2, end=110)
    assert 1 in term.master.members
    assert term.wanted() is None
    assert len(term.master.sessions()) == 1


def test_another_disk_leaves() -> None:
    term = Term(0, 1)
    term.join(1, disk="other")
    wanted = term.wanted()
    assert wanted is not None
    assert wanted.members == {0}
    assert 1 in term.master.members  # until it is decided


def test_eligible_ones_stay_so_when_they_say_hello() -> None:
    term = Term(0, elr=(1,))
    term.join(1, has=100)
    assert term.master.eligible == {1}
    assert term.master.confirm == 100


def test_a_member_that_took_itself_out_is_not_waited_for() -> None:
    term = Term(0, 1, 2)
    term.join(1)
    term.master.decided((0, 1), (), now_ms=0)
    assert term.master.confirm == 110
    assert term.master.set_members() == (0, 1)


def test_a_wish_that_was_passed_over_is_said_again() -> None:
    """Somebody else's change was seen while it was to be tried: those that are to leave are still in."""
    term = Term(0, 1, 2)
    for replica in (1, 2):
        term.master.lost(term.join(replica))
        term.master.gone(replica)
    wanted = term.wanted()
    assert wanted is not None
    assert wanted.members == {0}
    assert term.master.short
    term.master.decided((0, 1, 2), (), now_ms=1)
    again = term.wanted()
    assert again is not None
    assert again.members == {0}
    term.master.decided((0,), (1, 2), now_ms=2)
    assert term.wanted() is None
    term.join(1, has=110)
    back = term.wanted()
    assert back is not None
    assert back.members == {0, 1}
