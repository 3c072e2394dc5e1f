"""Does everything that the simulator can do really happen? A table of how often, over all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.sim import settings
from tests.sim.badinputs import VARIANTS

ENOUGH = 500  # runs in which all of it must have happened
ENOUGH_FOR_RARE = 5_000

# Each must happen in that many runs; names as ``World.saw`` is told them.
EXPECTED = (
    *(f"fault: {kind}" for kind in {**settings.FULL_STATIC, **settings.FULL_FAILOVER, **settings.LOSING}),
    "bit rot: in an index", "bit rot: in a segment", "bit rot: met by upkeep",
    "elector: campaign_lost", "elector: halted", "elector: lease_released",
    "elector: registered", "elector: switchover_refused",
    "leads: nobody has led yet", "leads: promoted", "leads: restarted", "leads: the lease was not renewed for 3000 ms",
    "leads: the master has released it", "leads: the master's process has ended", "leads: this replica led last",
    "log: copy complete", "log: cut", "log: rewound", "log: thrown away for a copy",
    "messages: delayed", "messages: half",
    "operator: the group is back in etcd",
    "process: dies in the middle of it", "process: ends, the disk fails", "process: ends, the disk is full",
    "process: stopped in order",
    "replayed: acknowledgements", "replayed: hello", "replayed: hello in the stream", "replayed: session",
    "runs: accepts loss", "runs: ack all", "runs: sync flush", "runs: true clocks", "runs: unclean",
    "segments dropped by masters", "segments dropped by slaves", "snapshots by masters", "snapshots by slaves",
    "shared: acknowledged", "shared: handed out", "shared: handed out again", "shared: late receipts", "shared: put off",
    "shared: renewed", "shared: taken by retention",
    "store: epochs_rebuilt", "store: index_damaged", "store: index_rebuilt", "store: torn_tail_cut",
    *(f"strangers: {variant}" for variant in VARIANTS), "strangers: answered",
    "switchover: drained", "switchover: not drained",
    "timers delivered", "timers given back",
    "transactions: asked", "transactions: commit", "transactions: given up", "transactions: rollback",
)  # fmt: skip
RARE = (
    "operator: elects, accepting a loss",
    "operator: promotes, accepting a loss",
    "log: emptied by a cut",
    "promotion: taken back",
    "switchover: given up",
)  # in 1,000


def report(seen: Counter[str], runs: int, *, say: Callable[[str], None]) -> list[str]:
    """Say how often; what never happened, where there were enough runs for it."""
    groups: dict[str, list[str]] = {}
    for name, count in sorted(seen.items()):
        group, colon, rest = name.partition(": ")
        groups.setdefault(group if colon else "", []).append(f"{rest if colon else group} {count:,}")
    for group, entries in groups.items():
        say(f"  {group or 'what happened'}: {', '.join(entries)}")
    wanted = (*EXPECTED, *RARE) if runs >= ENOUGH_FOR_RARE else EXPECTED if runs >= ENOUGH else ()
    missing = [name for name in wanted if not seen[name]]
    for name in missing:
        say(f"NEVER happened in {runs} runs: {name}")
    return missing
