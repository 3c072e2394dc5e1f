"""`make compat`: the official RocketMQ clients against our server.

    python -m tests.compat.run                                        all suites on a fresh standalone node
    python -m tests.compat.run --suite python --only recall           some tests of one suite
    python -m tests.compat.run --suite go --suite java --engine grpcio
    python -m tests.compat.run --endpoint HOST:PORT --server HOST:PORT    a node of ours that runs already
    python -m tests.compat.run --endpoint HOST:PORT                   any server: ADMIN_CREATE_TOPIC and _GROUP must be set

Exit status 0 only when every suite that could run passed, and at least one ran. See docs/compatibility.md.
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
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # run as a file
    sys.path[0] = str(ROOT)
for source in ("proto", "core", "nameserver", "broker", "client"):
    sys.path.append(str(ROOT / source))

from tests.compat.hooks import Hooks  # noqa: E402
from tests.compat.outcome import Outcome, go_text  # noqa: E402
from tests.compat.suites import ALL, InstallFailed, Run, Suite  # noqa: E402
from tests.integration.node import Node  # noqa: E402

HOOK_VARIABLES = ("ADMIN_CREATE_TOPIC", "ADMIN_CREATE_GROUP")

# Half messages are checked 9 to 12 s after they came. Not sooner: two tests hold one back for 5 s before they commit it.
# RocketMQ takes a day, the suite expects 30 days to be refused; our default is 40.
NODE_FLAGS = (
    "--no-auto-create", "--delay-days-max", "20", "--transaction-check-after-s", "9", "--transaction-check-every-s", "3",
)  # fmt: skip
KNOBS = {"MIN_INVISIBLE_S": "1", "REDELIVERY_SLACK_S": "2", "TXN_CHECK_S": "16"}


@dataclass(slots=True)
class Result:
    suite: Suite
    verdict: str = "FAILED"  # passed, FAILED, SKIPPED
    reason: str = ""
    took_s: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)


class Groups:
    """The process groups of the suites that run, so that none outlives us."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._closed = False

    def start(self, argv: list[str], *, cwd: Path, env: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise RuntimeError("interrupted")
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process.pid)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._kill(process.pid)
            self._running.discard(process.pid)
        process.wait()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for group in self._running:
                self._kill(group)

    @staticmethod
    def _kill(group: int) -> None:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass


groups = Groups()


def say(text: str) -> None:
    print(text, flush=True)


def run_suite(suite: Suite, run: Run) -> Result:
    """Run it in a process group of its own, which is gone afterwards."""
    result = Result(suite)
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


def prepare(suite: Suite, run: Run) -> Result | None:
    """A result only when it can't be run."""
    why = suite.missing()
    if why is not None:
        return Result(suite, "SKIPPED", why)
    started = time.monotonic()
    try:
        suite.prepare()
        suite.build()
    except InstallFailed as error:
        run.log.write_text(str(error))
        return Result(suite, "FAILED", "could not be installed or built", time.monotonic() - started)
    return None


def worker(work: queue.SimpleQueue[tuple[Suite, Run]], results: list[Result]) -> None:
    while True:
        try:
            suite, run = work.get_nowait()
        except queue.Empty:
            return
        result = prepare(suite, run)
        if result is None:
            say(f"{suite.name}: {suite.client} …")
            result = run_suite(suite, run)
        report(result, run)
        results.append(result)


def report(result: Result, run: Run) -> None:
    name = result.suite.name
    if result.verdict == "SKIPPED":
        say(f"{name}: SKIPPED: {result.reason}")
        return
    said = [f"{name}: {result.verdict} after {result.took_s:.0f} s {result.reason}".rstrip()]
    if result.verdict == "FAILED":
        text = go_text(run.log) if name == "go" else run.log.read_text(errors="replace")
        said += [f"{name} | {line}" for line in text.splitlines()[-150:]]
        said += [f"{name}: FAILED: {test}" for test in result.outcome.failed]
    say("\n".join(said))


def summary(results: list[Result], *, wanted: list[str]) -> int:
    results.sort(key=lambda result: wanted.index(result.suite.name))
    rows: list[tuple[str, ...]] = [("SUITE", "CLIENT", "RESULT", "PASSED", "FAILED", "SKIPPED", "SECONDS")]
    for r in results:
        counts = (r.outcome.passed, len(r.outcome.failed), len(r.outcome.skipped))
        rows.append((r.suite.name, r.suite.client, r.verdict, *map(str, counts), f"{r.took_s:.0f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    say("")
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say("")
    for r in results:
        if r.verdict != "passed":
            say(f"{r.verdict}: {r.suite.name}: {r.reason}")
        for test in r.outcome.skipped:
            say(f"SKIPPED: {r.suite.name}: {test}")
    failed = sum(len(r.outcome.failed) for r in results)
    say(f"compat: {sum(r.outcome.passed for r in results)} passed, {failed} failed")
    return 0 if all(r.verdict != "FAILED" for r in results) and any(r.verdict == "passed" for r in results) else 1


def arguments() -> argparse.Namespace:
    names = [suite.name for suite in ALL]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=names, help="only this one; may be given several times")
    parser.add_argument("--only", metavar="PATTERN", help="tests by name: pytest -k, node --test-name-pattern, go -run, …")
    parser.add_argument("--engine", choices=("http2", "grpcio"), help="what serves gRPC in our node")
    parser.add_argument("--endpoint", metavar="HOST:PORT", help="official API of a server that runs already")
    parser.add_argument("--server", metavar="HOST:PORT", help="its data plane, when it is ours")
    parser.add_argument(
        "--node-flag", action="append", default=[], metavar="FLAG", help="passed on to our node (--node-flag=--x)"
    )
    parser.add_argument("--side-by-side", type=int, default=2, metavar="N", help="suites at a time (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="tests of a suite at a time (default: the suite's own)")
    parser.add_argument("--cache", type=Path, default=os.environ.get("KOUROU_COMPAT_CACHE", ROOT / ".cache" / "compat"),
                        help="where clients are installed (default: .cache/compat, or KOUROU_COMPAT_CACHE)")  # fmt: skip
    return parser.parse_args()


def start_server(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> tuple[Node | None, dict[str, str]]:
    """Our own node if none was named; and the environment that leads the suites to the server."""
    node: Node | None = None
    endpoint, server = options.endpoint, options.server
    knobs: dict[str, str] = {}
    if endpoint is None:
        engine = ["--grpc-engine", options.engine] if options.engine else []
        node = stack.enter_context(Node(scratch / "data", *NODE_FLAGS, *engine, *options.node_flag))
        endpoint, server = node.urls["official gRPC"], node.address
        knobs = KNOBS
    elif server is None:
        missing = [name for name in HOOK_VARIABLES if not os.environ.get(name)]
        if missing:
            raise SystemExit(f"error: --endpoint without --server needs {' and '.join(missing)} in the environment")
    environment = {name: os.environ.get(name, value) for name, value in knobs.items()} | {"ENDPOINT": endpoint}
    if server is not None:
        environment |= stack.enter_context(Hooks(server, scratch)).environment
    return node, environment


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what runs is stopped, as with Ctrl-C
    wanted = list(dict.fromkeys(options.suite or [suite.name for suite in ALL]))
    cache = Path(options.cache).resolve()
    logs = cache / "logs"
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kourou-compat-")))
        node, environment = start_server(options, scratch, stack)
        say(f"server: {environment['ENDPOINT']}; logs: {logs}")
        work: queue.SimpleQueue[tuple[Suite, Run]] = queue.SimpleQueue()
        for kind in ALL:
            if kind.name not in wanted:
                continue
            suite, directory = kind(cache), logs / kind.name
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            work.put((suite, Run(directory, options.only, options.workers or kind.workers, environment)))
        results: list[Result] = []
        count = max(1, options.side_by_side)
        threads = [threading.Thread(target=worker, args=(work, results), daemon=True) for _ in range(count)]
        stack.callback(groups.close)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        died = node.process.poll() if node is not None else None
        if node is not None:
            (logs / "server.txt").write_text(node.output())
    status = summary(results, wanted=wanted)
    if died is not None:
        say(f"FAILED: the server ended by itself with status {died}; see {logs / 'server.txt'}")
        status = 1
    if len(results) != len(wanted):
        say("FAILED: a suite was not run to its end")
        status = 1
    say(f"{time.monotonic() - started:.0f} s in all")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
