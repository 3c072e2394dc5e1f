#!/usr/bin/env python3
"""Where the time goes: broker and client under W1 (produce) and W2 (consume). What `make profile` calls; needs no root.

    profile.py [--messages 300000] [--size 1024] [--manner many|send|post] [--consume batches|messages] [--top 25] [--quick]

cProfile of the event loop's thread on both sides, one side at a time so that the other runs at full speed; then, where the
system has `perf` and allows it, a sample of what the interpreter itself does, undistorted. cProfile slows Python functions
down and C functions hardly: read its column of own time as a ranking, perf's as shares.
"""

# First of all: this file has the name of a module of the standard library, which cProfile imports.
import sys
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [place for place in sys.path if place and Path(place).resolve() != Path(HERE)]
import argparse
import pstats
import shutil
import signal
import subprocess
import time

sys.path.append(HERE)
from node import RUN, SOURCES, Node, environment, load, server_python

TOPIC = "profile"


def table(path: Path, messages: int, top: int) -> str:
    """Functions by their own time, in microseconds a message."""
    stats = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    rows = sorted(((own, whole, calls, where) for where, (_, calls, own, whole, _) in stats.items()), reverse=True)
    total = sum(row[0] for row in rows)
    idle = sum(own for own, _, _, (_, _, name) in rows if "poll" in name or "run_until_complete" in name)
    lines = [
        f"{total:.2f} s in all, {total / messages * 1e6:.2f} us a message; own %, own us/msg, with callees us/msg, calls"
    ]
    for own, whole, calls, (file, line, name) in rows[:top]:
        place = name if file == "~" else f"{_short(file)}:{line} {name}"
        lines.append(
            f"{own / total * 100:5.1f} %  {own / messages * 1e6:8.3f}  {whole / messages * 1e6:8.3f}  {calls:>9,}  {place}"
        )
    if idle:
        lines.append(f"(of it waiting in the event loop: {idle / total * 100:.0f} %)")
    return "\n".join(lines)


def _short(file: str) -> str:
    for source in SOURCES:
        if file.startswith(source):
            return file[len(source) + len("/kourou/") :]
    return "/".join(file.rsplit("/", 2)[-2:])


def profile_broker(given: argparse.Namespace, what: str, data: Path, out: Path) -> None:
    found = out / f"broker-{what}.prof"
    found.unlink(missing_ok=True)
    with Node(data, inside=("--cprofile", str(found)), log="profile") as node:
        if what == "consume":
            load("produce", node, TOPIC, given.messages, *_options(given, "produce"))
        load("produce", node, "warm", 20_000, *_options(given, "produce"))
        node.process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        figures = load(what, node, TOPIC, given.messages, *_options(given, what))
        node.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + 10
        while not found.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
    _print(f"broker, {what}: {figures['per_s']:,}/s while it was profiled", table(found, given.messages, given.top))


def profile_client(given: argparse.Namespace, data: Path, out: Path) -> None:
    with Node(data, log="profile") as node:
        for what in ("produce", "consume"):
            found = out / f"client-{what}.prof"
            figures = load(what, node, TOPIC, given.messages, *_options(given, what), "--cprofile", str(found))
            _print(
                f"client, {what} {_manner(given, what)}: {figures['per_s']:,}/s while it was profiled",
                table(found, given.messages, given.top),
            )


def with_perf(given: argparse.Namespace, data: Path, out: Path) -> None:
    """Both sides at full speed, sampled."""
    if shutil.which("perf") is None:
        print("\nSKIPPED: there is no perf on this machine")
        return
    with Node(data, log="profile") as node:
        for what in ("produce", "consume"):
            for side in ("broker", "client"):
                recorded = out / f"perf-{side}-{what}.data"
                common = ["perf", "record", "-q", "-F", "999", "-o", str(recorded)]
                if side == "broker":
                    recorder = subprocess.Popen([*common, "-p", str(node.pid)], stderr=subprocess.DEVNULL)
                    time.sleep(0.5)
                    figures = load(what, node, TOPIC, given.messages, *_options(given, what))
                    recorder.send_signal(signal.SIGINT)
                    failed = recorder.wait(30) not in (0, -signal.SIGINT, 128 + signal.SIGINT)
                    rate = f"{figures['per_s']:,}/s, {figures['server_us']:.2f} us CPU a message"
                else:
                    target = [
                        "--server",
                        node.server,
                        "--topic",
                        TOPIC,
                        "--messages",
                        str(given.messages),
                        *_options(given, what),
                    ]
                    client = [server_python(), "-P", f"{HERE}/load.py", what, *target]
                    done = subprocess.run([*common, "--", *client], env=environment(), capture_output=True, text=True)
                    failed = done.returncode != 0
                    rate = done.stdout.strip()
                if failed or not recorded.exists() or not recorded.stat().st_size:
                    print("\nSKIPPED: perf is not allowed here (kernel.perf_event_paranoid)")
                    return
                report = subprocess.run(
                    [
                        "perf",
                        "report",
                        "-i",
                        str(recorded),
                        "--stdio",
                        "--no-children",
                        "-g",
                        "none",
                        "--sort",
                        "dso,symbol",
                    ],
                    capture_output=True,
                    text=True,
                )
                lines = [
                    line.rstrip(" -") for line in report.stdout.splitlines() if line.strip() and not line.startswith("#")
                ]
                _print(f"perf, {side}, {what}: {rate}", "\n".join(lines[: given.top]))


def _manner(given: argparse.Namespace, what: str) -> str:
    return str(given.manner if what == "produce" else given.consume)


def _options(given: argparse.Namespace, what: str) -> tuple[str, ...]:
    return ("--size", str(given.size), "--manner", _manner(given, what))


def _print(title: str, text: str) -> None:
    print(f"\n=== {title}\n{text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--manner", choices=("many", "send", "post"), default="many")
    parser.add_argument("--consume", choices=("batches", "messages"), default="batches")
    parser.add_argument("--top", type=int, default=25)
    parser.add_argument("--no-perf", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.messages = min(given.messages, 50_000)
    data, out = RUN / "data" / "profile", RUN / "profile"
    out.mkdir(parents=True, exist_ok=True)
    steps = [lambda: profile_broker(given, "produce", data, out), lambda: profile_broker(given, "consume", data, out)]
    steps.append(lambda: profile_client(given, data, out))
    if not given.no_perf:
        steps.append(lambda: with_perf(given, data, out))
    try:
        for step in steps:
            shutil.rmtree(data, ignore_errors=True)
            step()
    finally:
        shutil.rmtree(data, ignore_errors=True)
    print(f"\nfiles for snakeviz, pstats and perf: {out}")


if __name__ == "__main__":
    main()
