"""`make compat`: the official RocketMQ clients against our server.

    python -m tests.compat.run                                        all suites, on a fresh node of each engine
    python -m tests.compat.run --suite python --only recall           some tests of one suite
    python -m tests.compat.run --suite go --suite java --engine grpcio          on one engine
    python -m tests.compat.run --suite python --through proxy         two brokers behind a proxy, or the nameserver alone
    python -m tests.compat.run --endpoint HOST:PORT --server HOST:PORT    a node of ours that runs already
    python -m tests.compat.run --endpoint HOST:PORT                   any server: ADMIN_CREATE_TOPIC and _GROUP must be set

Exit status 0 only when every suite that could run passed, at least one ran, and all of it took no longer than the budget
(installing and building not counted). See docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # run as a file
    sys.path[0] = str(ROOT)
for source in ("proto", "core", "nameserver", "broker", "client"):
    sys.path.append(str(ROOT / source))

from tests.compat.groups import Groups  # noqa: E402
from tests.compat.outcome import Outcome, go_text  # noqa: E402
from tests.compat.servers import ENGINES, Server, start_servers  # noqa: E402
from tests.compat.suites import ALL, InstallFailed, Run, Suite  # noqa: E402

BUDGET_S = 900.0


@dataclass(frozen=True, slots=True)
class Job:
    suite: Suite
    run: Run
    name: str  # of the suite, and of the engine where it is not our own


@dataclass(slots=True)
class Result:
    job: Job
    verdict: str = "FAILED"  # passed, FAILED, SKIPPED
    reason: str = ""
    took_s: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)


groups = Groups()


def say(text: str) -> None:
    print(text, flush=True)


def run_suite(job: Job) -> Result:
    """Run it in a process group of its own, which is gone afterwards."""
    suite, run = job.suite, job.run
    result = Result(job)
    with run.log.open("wb") as log:
        started = time.monotonic()
        process = groups.start(suite.command(run), cwd=suite.source, env=suite.environment(run), log=log)
        try:
            status: int | None = process.wait(suite.budget_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            groups.end(process)
        result.took_s = time.monotonic() - started
    result.outcome = suite.outcome(run)
    if status is None:
        result.reason = f"not over within {suite.budget_s:.0f} s"
    elif result.outcome.failed:
        result.reason = f"{len(result.outcome.failed)} tests failed"
    elif result.outcome.passed == 0:
        result.reason = f"no test ran (status {status})"
    elif status != 0:
        result.reason = f"status {status}"
    else:
        result.verdict = "passed"
    return result


class Prepared:
    """Clients that are installed and suites that are built, once in this run for both engines."""

    def __init__(self) -> None:
        self._locks = {suite.name: threading.Lock() for suite in ALL}
        self._known: dict[str, tuple[str, str] | None] = {}
        self.took_s = 0.0

    def verdict(self, job: Job) -> Result | None:
        """A result only when it can't be run."""
        name = job.suite.name
        with self._locks[name]:
            if name not in self._known:
                started = time.monotonic()
                self._known[name] = self._prepare(job)
                self.took_s += time.monotonic() - started
        why = self._known[name]
        return None if why is None else Result(job, *why)

    @staticmethod
    def _prepare(job: Job) -> tuple[str, str] | None:
        why = job.suite.missing()
        if why is not None:
            return "SKIPPED", why
        try:
            job.suite.prepare()
            job.suite.build()
        except InstallFailed as error:
            job.run.log.write_text(str(error))
            return "FAILED", "could not be installed or built"
        return None


def worker(work: queue.SimpleQueue[Job], prepared: Prepared, results: list[Result]) -> None:
    while True:
        try:
            job = work.get_nowait()
        except queue.Empty:
            return
        result = prepared.verdict(job)
        if result is None:
            say(f"{job.name}: {job.suite.client} …")
            result = run_suite(job)
        report(result)
        results.append(result)


def report(result: Result) -> None:
    name, run = result.job.name, result.job.run
    if result.verdict == "SKIPPED":
        say(f"{name}: SKIPPED: {result.reason}")
        return
    said = [f"{name}: {result.verdict} after {result.took_s:.0f} s {result.reason}".rstrip()]
    if result.verdict == "FAILED":
        text = go_text(run.log) if result.job.suite.name == "go" else run.log.read_text(errors="replace")
        said += [f"{name} | {line}" for line in text.splitlines()[-150:]]
        said += [f"{name}: FAILED: {test}" for test in result.outcome.failed]
    say("\n".join(said))


def summary(results: list[Result], *, wanted: list[str]) -> int:
    results.sort(key=lambda result: wanted.index(result.job.name))
    rows: list[tuple[str, ...]] = [("SUITE", "CLIENT", "RESULT", "PASSED", "FAILED", "SKIPPED", "SECONDS")]
    for r in results:
        counts = (r.outcome.passed, len(r.outcome.failed), len(r.outcome.skipped))
        rows.append((r.job.name, r.job.suite.client, r.verdict, *map(str, counts), f"{r.took_s:.0f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    say("")
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say("")
    for r in results:
        if r.verdict != "passed":
            say(f"{r.verdict}: {r.job.name}: {r.reason}")
        for test in r.outcome.skipped:
            say(f"SKIPPED: {r.job.name}: {test}")
    failed = sum(len(r.outcome.failed) for r in results)
    say(f"compat: {sum(r.outcome.passed for r in results)} passed, {failed} failed")
    return 0 if all(r.verdict != "FAILED" for r in results) and any(r.verdict == "passed" for r in results) else 1


def arguments() -> argparse.Namespace:
    names = [suite.name for suite in ALL]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=names, help="only this one; may be given several times")
    parser.add_argument("--only", metavar="PATTERN", help="tests by name: pytest -k, node --test-name-pattern, go -run, …")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only where this serves gRPC; may be repeated")
    parser.add_argument("--through", choices=("nameserver", "proxy"), help="two brokers, and what the suites are given")
    parser.add_argument("--endpoint", metavar="HOST:PORT", help="official API of a server that runs already")
    parser.add_argument("--server", metavar="HOST:PORT", help="its data plane, when it is ours")
    parser.add_argument(
        "--node-flag", action="append", default=[], metavar="FLAG", help="passed on to our node (--node-flag=--x)"
    )
    parser.add_argument("--side-by-side", type=int, default=2, metavar="N", help="suites at a time (default: %(default)s)")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="longer is a failure (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="tests of a suite at a time (default: the suite's own)")
    parser.add_argument("--cache", type=Path, default=os.environ.get("KOUROU_COMPAT_CACHE", ROOT / ".cache" / "compat"),
                        help="where clients are installed (default: .cache/compat, or KOUROU_COMPAT_CACHE)")  # fmt: skip
    return parser.parse_args()


def jobs(servers: list[tuple[Server, list[str]]], options: argparse.Namespace, cache: Path) -> list[Job]:
    found: list[Job] = []
    for server, suites in servers:
        for kind in ALL:
            if kind.name in suites:
                name = server.label(kind.name)
                directory = cache / "logs" / name
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(parents=True)
                run = Run(directory, options.only, options.workers or kind.workers, server.environment)
                found.append(Job(kind(cache), run, name))
    return found


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what runs is stopped, as with Ctrl-C
    cache = Path(options.cache).resolve()
    logs = cache / "logs"
    started = time.monotonic()
    died: list[str] = []
    prepared = Prepared()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kourou-compat-")))
        servers = start_servers(options, scratch, logs, stack)
        planned = jobs(servers, options, cache)
        for server, _ in servers:
            say(f"server: {server.environment['ENDPOINT']} {server.engine}; logs: {logs}")
        work: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in planned:
            work.put(job)
        results: list[Result] = []
        count = max(1, options.side_by_side)
        threads = [threading.Thread(target=worker, args=(work, prepared, results), daemon=True) for _ in range(count)]
        stack.callback(groups.close)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for server, _ in servers:
            died += [f"{name} ended by itself; see {logs}/server-{server.engine}" for name in server.fell()]
    status = summary(results, wanted=[job.name for job in planned])
    took_s = time.monotonic() - started - prepared.took_s
    failures = died + (["a suite was not run to its end"] if len(results) != len(planned) else [])
    failures += [f"it took longer than {options.budget_s:.0f} s"] if took_s > options.budget_s else []
    for failure in failures:
        say(f"FAILED: {failure}")
    say(f"{took_s:.0f} s in all, and {prepared.took_s:.0f} s to install and build")
    return 1 if failures else status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
