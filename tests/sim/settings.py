"""What one run is like: drawn from its seed, so that a seed is all that has to be remembered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

KILL, POWER, PAUSE, RESET, ISOLATE, ONE_WAY, CLIENTS_AWAY, SLOW, WIPE, DISK_FAILS, DISK_FULL, CRASH, WALL, KILL_ALL = (
    "kill", "power", "pause", "reset", "isolate", "one way", "clients away", "slow", "wipe", "disk fails", "disk full",
    "crash", "wall clock", "kill all",
)  # fmt: skip
WEIGHTS = {
    KILL: 5, POWER: 4, PAUSE: 3, RESET: 3, ISOLATE: 4, ONE_WAY: 3, CLIENTS_AWAY: 1, SLOW: 2, WIPE: 2, DISK_FAILS: 1,
    DISK_FULL: 1, CRASH: 4, WALL: 1, KILL_ALL: 1,
}  # fmt: skip
ETCD_AWAY = "etcd away"
# in full runs only
TERM, FOREIGN, REPLAY, EPOCHS, BIT_ROT, TWIN, SWITCHOVER, ETCD_LOST, POWER_ALL, WIPE_ANY = (
    "stopped", "foreign slave", "replay", "epochs deleted", "bit rot", "two masters", "switchover", "etcd lost", "power all",
    "wipe any",
)  # fmt: skip
FULL = {TERM: 3, FOREIGN: 3, REPLAY: 3, EPOCHS: 2, BIT_ROT: 2}
FULL_STATIC = {**WEIGHTS, **FULL, TWIN: 2}
FULL_FAILOVER = {**WEIGHTS, ETCD_AWAY: 2, **FULL, SWITCHOVER: 4, ETCD_LOST: 1}
LOSING = {POWER_ALL: 2, WIPE_ANY: 3}  # more than any promise covers: only where the operator accepts a loss
MASTER, SLAVE = -1, -2  # whoever is that at the time


@dataclass(frozen=True, slots=True)
class Fault:
    at_ms: int
    kind: str
    whom: int  # a replica, MASTER or SLAVE
    lasts_ms: int
    amount: int  # the other host, milliseconds, disk changes: as the kind wants it


@dataclass(frozen=True, slots=True)
class Settings:
    seed: int
    sync_flush: bool
    ack_all: bool
    min_isr: int
    segment_bytes: int
    snapshot_bytes: int
    retention_bytes: int
    lagging_bytes_max: int
    window_bytes: int
    batch_bytes: int
    join_gap_bytes: int
    lag_ms_max: int
    flush_ms: int
    faults_end_ms: int
    producers: int
    consumers: int
    think_ms: int  # between two sends of a producer
    faults: tuple[Fault, ...]
    failover: bool = False  # the group elects its master
    full: bool = False  # with all kinds of clients and faults; else only what moves the log
    true_clocks: bool = False  # wall clocks are right
    accepts_loss: bool = False  # faults may be more than the promise covers; then the operator accepts that
    unclean: bool = False  # anybody may take over in the end
    delayed: int = 0  # producers whose messages wait for a time
    transactional: int = 0  # producers of half messages
    shared: int = 0  # consumers of a shared group


def draw(seed: int, *, failover: bool = False, full: bool = False) -> Settings:
    """A plain run and a full one of the same seed have nothing in common."""
    if full:
        return _draw_full(seed, failover=failover)
    random = Random(seed)
    weights = {**WEIGHTS, ETCD_AWAY: 2} if failover else WEIGHTS
    return _draw(random, seed, weights, failover=failover)


def _draw_full(seed: int, *, failover: bool) -> Settings:
    random = Random(f"full {seed}")
    weights = dict(FULL_FAILOVER if failover else FULL_STATIC)
    accepts_loss = random.random() < 0.25
    true_clocks = random.random() < 0.6
    if accepts_loss:
        weights.update(LOSING)
    if true_clocks:
        del weights[WALL]
    ack_all = random.random() < 0.75
    unclean = failover and accepts_loss and random.random() < 0.3
    delayed, transactional, shared = (random.choice((0, 1, 1)) for _ in range(3))
    drawn = _draw(random, seed, weights, failover=failover)
    return replace(
        drawn, full=True, true_clocks=true_clocks, accepts_loss=accepts_loss, ack_all=ack_all, unclean=unclean,
        delayed=delayed, transactional=transactional, shared=2 * shared, producers=random.choice((1, 2)),
        consumers=random.choice((1, 2)),
    )  # fmt: skip


def _draw(random: Random, seed: int, weights: dict[str, int], *, failover: bool) -> Settings:
    small = random.random() < 0.5  # everything tight, so that every limit is met
    faults_end_ms = random.choice((6_000, 10_000, 15_000))
    sync_flush = random.random() < 0.4
    return Settings(
        seed=seed,
        sync_flush=sync_flush,
        ack_all=True,
        min_isr=random.choice((1, 2, 2, 2)),
        segment_bytes=random.choice((4096, 16 * 1024, 64 * 1024)),
        snapshot_bytes=random.choice((8 * 1024, 32 * 1024, 1 << 40)),
        retention_bytes=random.choice((16 * 1024, 1 << 40)),
        lagging_bytes_max=random.choice((0, 32 * 1024)),
        window_bytes=4096 if small else 1 << 20,
        batch_bytes=1024 if small else 256 * 1024,
        join_gap_bytes=random.choice((512, 1 << 20)),
        lag_ms_max=random.choice((500, 1000, 3000)),
        flush_ms=random.choice((5, 20)) if sync_flush else 200,
        faults_end_ms=faults_end_ms,
        producers=random.choice((2, 3, 4)),
        consumers=2,
        think_ms=random.choice((10, 40, 100)),
        faults=_faults(random, faults_end_ms, weights),
        failover=failover,
    )


def _faults(random: Random, end_ms: int, wanted: dict[str, int]) -> tuple[Fault, ...]:
    kinds, weights = list(wanted), list(wanted.values())
    few = random.sample(kinds, random.choice((3, 5, len(kinds))))  # some runs meet only some kinds, and these often
    weights = [weight if kind in few else 0 for kind, weight in zip(kinds, weights, strict=True)]
    found: list[Fault] = []
    at_ms = random.choice((100, 1000, 1500))
    while at_ms < end_ms and len(found) < 40:
        kind = random.choices(kinds, weights)[0]
        whom = random.choice((0, 1, 2, MASTER, MASTER, SLAVE))
        lasts_ms = random.choice((5, 60, 300, 1_000, 1_000, 2_500, 4_000))
        amount = {
            ONE_WAY: random.randrange(1, 3),
            WALL: random.choice((-3_600_000, -1000, 1000, 3_600_000)),
            CRASH: random.choice((1, 2, 3, 5, 8, 15, 30)),
            SLOW: random.choice((20, 100, 400)),
        }.get(kind, 0)
        if kind in (FOREIGN, REPLAY, BIT_ROT, SWITCHOVER):
            amount = random.randrange(1 << 16)
        found.append(Fault(at_ms, kind, whom, lasts_ms, amount))
        if random.random() < 0.3:  # another one close behind
            at_ms += random.choice((0, 1, 5, 30, 200))
        else:
            at_ms += random.choice((300, 800, 1_500, 3_000))
    return tuple(found)
