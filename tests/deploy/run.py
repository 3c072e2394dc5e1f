"""``make test-machine``: the tests of deploy/vm and deploy/systemd in a Debian in build/rootfs, made where it is missing.

What can't be done here is told in lines that begin with SKIPPED, and is no failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
for source in (".", "proto", "core", "nameserver", "broker", "client"):
    if str(ROOT / source) not in sys.path:
        sys.path.append(str(ROOT / source))

import pytest  # noqa: E402

ROOTFS = ROOT / "build" / "rootfs"
TESTS = ("tests/integration/test_deploy_install.py", "tests/integration/test_deploy_systemd.py")
MAKING_S = 240


class Skips:
    """A plugin of pytest's: why tests were skipped."""

    def __init__(self) -> None:
        self.reasons: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[report.longrepr[2].removeprefix("Skipped: ")] = None


def missing() -> str | None:
    """Why there can be no Debian in the directory, if it is so."""
    if os.geteuid() != 0:
        return "only root can boot a machine"
    if ROOTFS.exists():
        return None
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed (apt install debootstrap)"
    print(f"making {ROOTFS}", flush=True)
    command = [str(Path(__file__).with_name("make-rootfs.sh")), str(ROOTFS)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as making:
        try:
            said, _ = making.communicate(timeout=MAKING_S)
        except BaseException as failure:
            os.killpg(making.pid, signal.SIGTERM)  # all of it: a shell waits for what it runs
            if isinstance(failure, subprocess.TimeoutExpired):
                return f"debootstrap was not done in {MAKING_S} s"
            raise
    if making.returncode != 0:
        return f"debootstrap failed: {' / '.join(said.strip().splitlines()[-3:])}"
    return None


def interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupted)
    reason = missing()
    if reason is not None:
        print(f"SKIPPED: {reason}", flush=True)
        return 0
    os.environ["KOUROU_TEST_ROOTFS"] = str(ROOTFS)
    os.chdir(ROOT)
    skips = Skips()
    status = pytest.main([*TESTS, "-rs", "--durations=5", *sys.argv[1:]], plugins=[skips])
    for reason in skips.reasons:
        print(f"SKIPPED: {reason}", flush=True)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
