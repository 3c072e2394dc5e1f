"""A standalone node with instruments, for pauses.py and profile.py: the same wiring as `kourou standalone`, plus

    --lag FILE      exact lateness of a 1 ms timer from SIGUSR1 to SIGUSR2, the processor time that the loop's thread used between
                    two of its beats (what our code alone held it for, however busy the machine), what held the loop when
                    it was late, and the pauses of the garbage collector
    --cprofile FILE cProfile of the event loop's thread from SIGUSR1 to SIGUSR2

SIGUSR2 writes the file. Run with `python -P`: this folder must not hide modules of the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

HELD_MS = 10.0
LOOK_S = 0.004


class Lag:
    """Lateness of a timer, and who held the loop."""

    PERIOD_S = 0.001

    def __init__(self, *, stacks: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._late: list[float] = []
        self._used: list[float] = []
        self._thread_s = 0.0
        self._on = False
        self._beat = time.perf_counter()
        self._holders: Counter[str] = Counter()
        self._collections: list[tuple[int, float]] = []
        self._collecting = 0.0
        self._thread_id = threading.get_ident()
        if stacks:
            threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        self._on = True
        gc.callbacks.append(self._collected)
        self._beat, self._thread_s = time.perf_counter(), time.thread_time()
        self._timer = self._loop.call_later(self.PERIOD_S, self._fire)

    def _fire(self) -> None:
        # by a clock of our own: uvloop's counts whole milliseconds (so up to one of the lateness is the loop's)
        now = time.perf_counter()
        self._late.append(max(0.0, (now - self._beat - self.PERIOD_S) * 1000))
        self._beat = now
        used_s = time.thread_time()
        self._used.append((used_s - self._thread_s) * 1000)
        self._thread_s = used_s
        self._timer = self._loop.call_later(self.PERIOD_S, self._fire)

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_S)
            held_ms = (time.perf_counter() - self._beat) * 1000
            if self._on and held_ms > HELD_MS:
                stack = traceback.extract_stack(sys._current_frames()[self._thread_id])
                ours = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in stack if "/kourou/" in f.filename]
                self._holders[" > ".join(ours[-4:]) or "none of ours: the loop itself, or no processor was free"] += 1

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collections.append((info["generation"], (time.perf_counter() - self._collecting) * 1000))

    def stop(self) -> dict[str, object]:
        self._on = False
        self._timer.cancel()
        gc.callbacks.remove(self._collected)
        late = sorted(self._late)

        def at(share: float) -> float:
            return round(late[min(len(late) - 1, int(share * len(late)))], 3) if late else 0.0

        return {
            "samples": len(late),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": at(1.0),
            "over_10_ms": sum(value > HELD_MS for value in late),
            "longest_ms": [round(value, 2) for value in late[-10:]],
            "longest_on_the_processor_ms": [round(value, 2) for value in sorted(self._used)[-10:]],
            "over_10_ms_on_the_processor": sum(value > HELD_MS for value in self._used),
            "held_by": self._holders.most_common(10),
            "gc": {
                str(generation): {
                    "runs": len(found),
                    "max_ms": round(max(found), 3),
                    "sum_ms": round(sum(found), 2),
                }
                for generation in (0, 1, 2)
                if (found := [ms for g, ms in self._collections if g == generation])
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--flush", default="async")
    parser.add_argument("--lite-expire-minutes", type=float, default=0.0)
    parser.add_argument("--lag", type=Path)
    parser.add_argument("--no-stacks", action="store_true")
    parser.add_argument("--cprofile", type=Path)
    given = parser.parse_args()

    import uvloop

    from kourou.app.options import BrokerOptions
    from kourou.app.standalone import run
    from kourou.runtime import log

    log.configure("info", pretty=False)
    options = BrokerOptions(
        data=given.data,
        port=given.port,
        grpc_port=given.grpc_port,
        http_port=given.http_port,
        flush=given.flush,
        lite_expire_minutes=given.lite_expire_minutes,
    )

    def ready(urls: dict[str, str]) -> None:
        for name, url in urls.items():
            print(f"{name:<14} {url}")
        print("ready", flush=True)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        lag = Lag(stacks=not given.no_stacks) if given.lag else None
        profiler = cProfile.Profile() if given.cprofile else None

        def begin() -> None:
            if lag is not None:
                lag.start()
            if profiler is not None:
                profiler.enable()

        def end() -> None:
            if profiler is not None:
                profiler.disable()
                profiler.dump_stats(given.cprofile)
            if lag is not None:
                text = json.dumps(lag.stop(), indent=1)
                partial = given.lag.with_suffix(".tmp")
                partial.write_text(text)
                partial.rename(given.lag)

        loop.add_signal_handler(signal.SIGUSR1, begin)
        loop.add_signal_handler(signal.SIGUSR2, end)
        await run(options, log=log.logger(), ready=ready)

    uvloop.run(serve())


if __name__ == "__main__":
    main()
