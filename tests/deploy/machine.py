"""A Debian in a directory, as a machine: commands run in it by chroot, or, once it is booted, under its own systemd.

Booted means: systemd is process 1 of namespaces, with a network of its own (a loopback and nothing else), over the same
directory. Where that can't be done, or nothing be downloaded, the test is skipped: that is the host's business.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.integration import node
from tests.integration.node import ROOT

LIMIT_S = 300.0
FETCHING_S = 180.0
BOOT = Path(__file__).with_name("boot.sh")
OWN = "/kourou-test"
INSTALL = f"{OWN}/source/deploy/vm/install.sh"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
# With everything at hand an installation needs no network, and when it fails, that is ours.
INSTALLING = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{OWN}/wheels"}
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
SHUT_DOWN = signal.SIGRTMIN + 4  # systemd(1): starts poweroff.target

ROOTFS = os.environ.get("KOUROU_TEST_ROOTFS", "")
needs_machine = [
    pytest.mark.skipif(not ROOTFS, reason="KOUROU_TEST_ROOTFS names no directory with a Debian (make test-machine)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot and namespaces need root"),
    pytest.mark.slow,
]
until = partial(node.until, limit_s=LIMIT_S)

_fetched: dict[Path, str] = {}
Done = subprocess.CompletedProcess[str]


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / OWN[1:] / "source"
        self._booted: _Booted | None = None
        self._can_boot = False

    def run(self, *command: str, env: dict[str, str] | None = None, limit_s: float = LIMIT_S) -> Done:
        """Whatever comes of it."""
        inside = ["chroot", str(self.root)]
        if self._booted is not None:
            inside = ["nsenter", "--all", "--target", str(self._booted.systemd)]
        env = {**ENVIRONMENT, **INSTALLING} if env is None else env
        with subprocess.Popen(
            [*inside, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=limit_s)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                raise
        return Done(process.args, process.returncode, out, err)

    def done(self, *command: str) -> str:
        """It must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, *arguments: str) -> str:
        return self.done(INSTALL, *arguments)

    @property
    def wheel(self) -> str:
        """Ours, where it is in there."""
        (path,) = self.source.glob("*.whl")
        return f"{OWN}/source/{path.name}"

    def has(self, path: str) -> bool:
        return os.path.lexists(self.root / path)

    @contextmanager
    def prepared(self) -> Iterator[Machine]:
        """Within the block our sources are in there, and wheels of all that is needed. After a failure files stay."""
        self._prepare()
        yield self
        self.install("--uninstall", "--purge")
        shutil.rmtree(self.source)

    def _prepare(self) -> None:
        """An earlier run may have ended anywhere; its journal must not be read as this one's."""
        shutil.rmtree(self.root / "var/log/journal", ignore_errors=True)  # without it they are kept in memory
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(ROOT / "deploy", self.source / "deploy")
        self.install("--uninstall", "--purge")
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(self.source), str(ROOT)]
        subprocess.run(build, check=True, capture_output=True, timeout=LIMIT_S)
        self._fetch()

    def _fetch(self) -> None:
        """Once a run: they stay, so that the next one is quicker."""
        if self.root not in _fetched:
            _fetched[self.root] = self._fetch_wheels()
        if _fetched[self.root]:
            pytest.skip(_fetched[self.root])

    def _fetch_wheels(self) -> str:
        """For the Python in there. Why it can't be done, if it is so."""
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        env = ENVIRONMENT | {name: os.environ[name] for name in (*PASSED_ON, *PROXIES) if name in os.environ}
        if "PIP_INDEX_URL" not in env and (index := _pip("index-url")):
            env["PIP_INDEX_URL"] = index
        certificates = Path(os.environ.get("PIP_CERT") or _pip("cert") or CERTIFICATES)
        if certificates.is_file():
            shutil.copy(certificates, self.root / OWN[1:] / "ca.crt")
            env["PIP_CERT"] = f"{OWN}/ca.crt"
        self.done("python3", "-m", "venv", f"{OWN}/venv")
        pip = (f"{OWN}/venv/bin/python", "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
        try:
            done = self.run(*pip, "--wheel-dir", f"{OWN}/wheels", f"{self.wheel}[server]", env=env, limit_s=FETCHING_S)
        except subprocess.TimeoutExpired:
            return f"pip did not fetch what the program needs in {FETCHING_S:.0f} s"
        if done.returncode == 0:
            return ""
        return "pip can't fetch what the program needs: " + " / ".join((done.stdout + done.stderr).strip().splitlines()[-2:])

    @contextmanager
    def booted(self) -> Iterator[None]:
        """Up within the block. Whatever happens, no process, mount or cgroup of it is left."""
        with tempfile.TemporaryFile("w+", errors="replace") as console:
            try:
                self._booted = _Booted(self.root, console.fileno())
                self._booted.wait(lambda: self.run("systemctl", "is-system-running").stdout)
                self._can_boot = True
                yield
            except _DidNotBoot as failure:
                console.seek(0)
                said = [str(failure), *console.read().strip().splitlines()[-3:]]
                why = f"systemd does not boot here: {' / '.join(said)}"
                assert not self._can_boot, why
                pytest.skip(why)
            finally:
                if self._booted is not None:
                    self._booted.end()
                self._booted = None

    def shut_down(self) -> None:
        """In order, as its administrator would do it."""
        assert self._booted is not None
        self._booted.shut_down()


class _DidNotBoot(Exception):
    pass


class _Booted:
    """The processes of a machine, all of them below one cgroup, seen from the host."""

    def __init__(self, root: Path, console: int) -> None:
        self.systemd = 0
        self._cgroup = _cgroup2() / f"kourou-test-{secrets.token_hex(4)}"
        try:
            self._cgroup.mkdir()
        except OSError as failure:
            raise _DidNotBoot(f"no cgroup can be made: {failure}") from None
        # if this process is killed, so is the machine
        starting = ["setpriv", "--pdeathsig", "KILL"]
        spaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net"]
        try:
            self._outer = subprocess.Popen(
                [*starting, *spaces, str(BOOT), str(root), str(self._cgroup)],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        except OSError as failure:
            self._cgroup.rmdir()
            raise _DidNotBoot(f"setpriv and unshare (util-linux) are needed: {failure}") from None

    def wait(self, state: Callable[[], str]) -> None:
        """Until systemd answers. That its units are up is another matter."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            if self._outer.poll() is not None:
                raise _DidNotBoot(f"it ended with {self._outer.returncode}")
            if time.monotonic() > deadline:
                raise _DidNotBoot(f"it did not answer in {LIMIT_S:.0f} s")
            if not self.systemd:
                self.systemd = self._find()
            elif state().strip() in ("initializing", "starting", "running", "degraded"):
                return
            time.sleep(0.05)

    def _find(self) -> int:
        """Process 1, once it is systemd: boot.sh before it still has the root directory of the host."""
        try:
            inside = psutil.Process(self._outer.pid).children()
            return next((child.pid for child in inside if child.name() == "systemd"), 0)
        except psutil.Error:  # it has just ended
            return 0

    def shut_down(self) -> None:
        os.kill(self.systemd, SHUT_DOWN)
        self._outer.wait(LIMIT_S)

    def end(self) -> None:
        if self._outer.poll() is None:
            # the kernel ends all others of a pid namespace before its process 1 is gone
            with suppress(ProcessLookupError):
                os.kill(self.systemd or self._outer.pid, signal.SIGKILL)
        self._outer.wait(LIMIT_S)
        until(lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text(), "processes of the machine are gone")
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            os.rmdir(folder)


def _cgroup2() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise _DidNotBoot("no cgroup2 is mounted")


def _pip(name: str) -> str:
    """What pip is configured with, for all its commands."""
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
