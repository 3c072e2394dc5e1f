"""`python -m tests.chaos.workload --native HOST:PORT[,…] --history DIR [--official HOST:PORT]`: clients of all kinds.

Makes the topics and groups that it needs, under names of its own; prints "running" when every worker has had a success;
works until SIGTERM. Then producers end, and consumers go on until everything acknowledged has come and nothing more does.
Exits 0, or 2 when that was not so in time: the checker says what is missing. Errors are outcomes, whatever servers do.

Brokers should ask about transactions soon: `--transaction-check-after-s 3 --transaction-check-every-s 3`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from kourou.client import Client, KourouError
from tests.chaos.journal import Journal
from tests.chaos.workers.names import Names
from tests.chaos.workers.names import work as name_work
from tests.chaos.workers.plan import KINDS, STREAMED, Plan
from tests.chaos.workers.producers import Sender, senders
from tests.chaos.workers.progress import Progress
from tests.chaos.workers.setting import Setting, came, complain
from tests.chaos.workers.shared import SharedMember
from tests.chaos.workers.streams import StreamMember, look

ROOT = Path(__file__).resolve().parents[2]
QUEUES = 4
MEMBERS = 2
NAME_WORKERS = 3
ATTEMPTS_MAX = 1000  # nothing goes to the dead letters
QUIET_S = 3.0
READ_EVERY_S = 1.0
STOP_S = 15.0


async def define(setting: Setting, stop: asyncio.Event) -> bool:
    """Topics and groups, however long it takes; false when it was stopped meanwhile."""
    plan = setting.plan
    while not stop.is_set():
        try:
            async with Client(setting.servers) as client:
                for kind, topic in plan.topics.items():
                    await client.create_topic(topic, type=kind, queues=QUEUES)
                for group in plan.groups:
                    shape = None if group.name.endswith(("-simple", "-push")) else group.shape
                    retry_s = None if shape == "stream" else [1.0]
                    await client.create_group(
                        group.name, shape=shape, fifo=group.fifo, max_attempts=ATTEMPTS_MAX, retry_s=retry_s
                    )
        except (KourouError, OSError, TimeoutError) as error:
            complain("define", error)
            await came(stop, 0.5)
        else:
            break
    for kind, topic in plan.topics.items():
        setting.journal.note("topic", topic=topic, kind=kind)
    for group in plan.groups:
        facts = {"group": group.name, "topic": group.topic, "shape": group.shape, "fifo": group.fifo}
        setting.journal.note("group", **facts)
    return not stop.is_set()


class Workers:
    """The native ones, all of them in this process."""

    def __init__(self, setting: Setting, tasks: asyncio.TaskGroup) -> None:
        self._setting = setting
        self._tasks = tasks
        self._others: list[asyncio.Task[None]] = []
        plan = setting.plan
        self._senders = senders(setting)
        self._producing = [tasks.create_task(self._send(sender)) for sender in self._senders]
        setting.waited_for.update(sender.who for sender in self._senders)
        if "topics" in plan.kinds:
            names = Names(setting)
            for number in range(NAME_WORKERS):
                who = f"native-names-{number}"
                self._start(who, partial(name_work, setting, names, who), until=setting.no_more)
        for kind in plan.topics:
            for number in range(MEMBERS):
                members: list[StreamMember | SharedMember] = [SharedMember(setting, kind, number)]
                members += [StreamMember(setting, kind, number)] if kind in STREAMED else []
                for member in members:
                    self._start(member.who, member.run, until=setting.over)
            if kind in STREAMED:
                self._start(f"native-look-{kind}", partial(look, setting, kind), until=setting.over)

    def _start(self, who: str, work: Callable[[], Awaitable[None]], *, until: asyncio.Event) -> None:
        self._setting.waited_for.add(who)
        self._others.append(self._tasks.create_task(self._setting.forever(who, work, until=until)))

    async def _send(self, sender: Sender) -> None:
        try:
            await self._setting.forever(sender.who, sender.run, until=self._setting.no_more)
        finally:
            sender.ended.set()

    async def quiet(self) -> None:
        for sender in self._senders:
            await sender.ended.wait()

    def cancel(self) -> None:
        for task in (*self._producing, *self._others):
            task.cancel()


class OfficialProcess:
    def __init__(self, options: argparse.Namespace, setting: Setting) -> None:
        self._options = options
        self._setting = setting
        self.process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Start it, and hear when it is ready. It should not end by itself."""
        options, plan = self._options, self._setting.plan
        arguments = (options.official, str(options.history), plan.run, str(options.rate), str(options.seed))
        self.process = await asyncio.create_subprocess_exec(
            options.official_python, "-m", "tests.chaos.workers.official", *arguments, ",".join(plan.kinds),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(options.history / "official-home")},
        )  # fmt: skip
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if line.strip() == b"running":
                self._setting.succeeded("official")
        status = await self.process.wait()
        if not self._setting.over.is_set():
            self._setting.journal.note("broken", who="official", error=f"the process ended with status {status}")

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.returncode is not None

    def send_no_more(self) -> None:
        if self.process is not None and self.process.stdin is not None and not self.ended:
            self.process.stdin.write(b"send no more\n")

    async def stop(self) -> None:
        if self.process is None or self.process.stdin is None:
            return
        self.process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()


async def drain(progress: Progress, workers: Workers, official: OfficialProcess | None, *, seconds: float) -> bool:
    """Wait until everything has come, and no more does."""
    try:
        async with asyncio.timeout(seconds):
            await workers.quiet()
            count, since = -1, time.monotonic()
            while True:
                progress.read("official")
                sending = official is not None and not official.ended and "official" not in progress.quiet
                if progress.received_count != count or progress.missing() or sending:
                    count, since = progress.received_count, time.monotonic()
                elif time.monotonic() - since >= QUIET_S:
                    return True
                await asyncio.sleep(0.25)
    except TimeoutError:
        print(f"not drained within {seconds:g} s; still to come: {progress.missing()}", file=sys.stderr, flush=True)
        return False


async def run(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    plan = Plan(secrets.token_hex(3), tuple(options.kinds), bool(options.official) and "official" in options.kinds)
    progress = Progress(options.history, plan.run, {group.name: group for group in plan.groups})
    journal = Journal(options.history, "native", plan.run, told=partial(progress.take, "native"))
    setting = Setting(options.native, plan, journal, options.rate, options.seed)
    if not await define(setting, stop):
        journal.note("end", drained=False)
        return 2
    drained = False
    async with asyncio.TaskGroup() as tasks:
        workers = Workers(setting, tasks)
        official = OfficialProcess(options, setting) if plan.official else None
        if official is not None:
            setting.waited_for.add("official")
            tasks.create_task(official.run())
        waits = [tasks.create_task(event.wait()) for event in (stop, setting.ready)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if setting.ready.is_set():
            journal.note("ready")
            print("running", flush=True)
        else:
            print(f"stopped before these had any success: {sorted(setting.waited_for)}", file=sys.stderr, flush=True)
        while not await came(stop, READ_EVERY_S):
            progress.read("official")
        waits[1].cancel()
        setting.no_more.set()
        if official is not None:
            official.send_no_more()
        drained = await drain(progress, workers, official, seconds=options.drain_s)
        setting.over.set()
        if official is not None:
            await official.stop()
        workers.cancel()
    journal.note("end", drained=drained)
    return 0 if drained else 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--native", required=True, metavar="HOST:PORT[,…]", help="data planes of nameservers")
    parser.add_argument(
        "--official", metavar="HOST:PORT", help="official API: proxy, nameserver or node; left out: native only"
    )
    parser.add_argument("--history", required=True, type=Path, metavar="DIR")
    parser.add_argument("--rate", type=float, default=10.0, help="sends a second of each producer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS), help=",".join(KINDS))
    parser.add_argument("--drain-s", type=float, default=60.0)
    parser.add_argument("--official-python", default=sys.executable, help="that has rocketmq-python-client")
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"there are no kinds {', '.join(sorted(unknown))}")
    options.history = options.history.resolve()
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
