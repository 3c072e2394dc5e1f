"""The four suites: what each needs, how its client is installed, how it runs, how its result is read.

Everything that is fetched or built lies below one cache directory, a folder for each suite; a stamp with the digest of the
suite's manifest says whether that is still right.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.compat.outcome import Outcome, from_go, from_junit, from_tap

HERE = Path(__file__).resolve().parent
INSTALL_S = 600.0


class InstallFailed(Exception):
    """The client could not be fetched or the suite not built; the text is the output."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a suite."""

    directory: Path  # its own, empty: for the log, the report, and whatever the client writes
    only: str | None  # a pattern of test names, in the words of the suite's runner
    workers: int
    environment: Mapping[str, str]

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"


def run_installer(argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=INSTALL_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InstallFailed(f"{argv[0]}: not over within {INSTALL_S:.0f} s") from error
    if done.returncode != 0:
        raise InstallFailed(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout[-4000:]}")


def version_of(*argv: str) -> tuple[int, ...]:
    """The first dotted number that the command prints; () when it can't be run or prints none."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return tuple(map(int, found.group().split("."))) if found and done.returncode == 0 else ()


class Suite(ABC):
    name: str
    client: str
    manifests: tuple[str, ...]  # files that decide what is installed
    budget_s: float  # how long a run may take
    workers: int  # tests at a time; most of them only wait

    def __init__(self, cache: Path) -> None:
        self.source = HERE / self.name
        self.cache = cache / self.name

    @abstractmethod
    def missing(self) -> str | None:
        """Why this suite can't run on this machine; None when it can."""

    def prepare(self) -> None:
        """Install the client unless that was done for these very manifests."""
        stamp = self.cache / ".made"
        digest = hashlib.sha256(sys.version.encode())
        for manifest in self.manifests:
            digest.update((self.source / manifest).read_bytes())
        if stamp.is_file() and stamp.read_text() == digest.hexdigest():
            return
        stamp.unlink(missing_ok=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.install()
        stamp.write_text(digest.hexdigest())

    @abstractmethod
    def install(self) -> None: ...

    def build(self) -> None:  # noqa: B027 (most have nothing to do)
        """What must be done anew for each run, outside its budget."""

    @abstractmethod
    def command(self, run: Run) -> list[str]: ...

    def environment(self, run: Run) -> dict[str, str]:
        return {**os.environ, **run.environment}

    @abstractmethod
    def outcome(self, run: Run) -> Outcome: ...


class Python(Suite):
    name = "python"
    client = "rocketmq-python-client 5.1.2"
    manifests = ("requirements.txt",)
    budget_s = 600.0
    workers = 10

    def missing(self) -> str | None:
        return None

    @property
    def interpreter(self) -> Path:
        return self.cache / "venv" / "bin" / "python"

    def install(self) -> None:
        venv.create(self.cache / "venv", clear=True, with_pip=True)
        requirements = str(self.source / "requirements.txt")
        run_installer(
            [str(self.interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements]
        )

    def command(self, run: Run) -> list[str]:
        return [
            str(self.interpreter), "-B", "-m", "pytest", "-v", "-p", "no:cacheprovider", "--durations=15",
            f"--junitxml={run.directory / 'report.xml'}", "-n", str(run.workers), "--dist=worksteal",
            *(["-k", run.only] if run.only else []),
        ]  # fmt: skip

    def environment(self, run: Run) -> dict[str, str]:
        return {**super().environment(run), "ROCKETMQ_CLIENT_LOG_PATH": str(run.directory)}

    def outcome(self, run: Run) -> Outcome:
        return from_junit([run.directory / "report.xml"])


class Node(Suite):
    name = "node"
    client = "rocketmq-client-nodejs 1.0.8"
    manifests = ("package.json", "package-lock.json")
    budget_s = 480.0
    workers = 1

    def missing(self) -> str | None:
        if version_of("node", "--version") < (20,):
            return "needs Node.js 20 or newer (node)"
        return None if shutil.which("npm") else "needs npm"

    def install(self) -> None:
        for manifest in self.manifests:
            shutil.copy(self.source / manifest, self.cache)
        run_installer(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=self.cache)

    def command(self, run: Run) -> list[str]:
        return [
            "node", "--test", "--test-concurrency=1", "--test-force-exit",
            "--test-reporter=tap",
            *([f"--test-name-pattern={run.only}"] if run.only else []),
            "conformance.test.js",
        ]  # fmt: skip

    def environment(self, run: Run) -> dict[str, str]:
        return {**super().environment(run), "NODE_PATH": str(self.modules)}

    @property
    def modules(self) -> Path:
        return self.cache / "node_modules"

    def outcome(self, run: Run) -> Outcome:
        return from_tap(run.log)


class Go(Suite):
    name = "go"
    client = "rocketmq-clients/golang/v5 5.1.4"
    manifests = ("go.mod", "go.sum")
    budget_s = 480.0
    workers = 16

    def missing(self) -> str | None:
        return "needs Go 1.24 or newer (go)" if version_of("go", "version") < (1, 24) else None

    def _tools(self) -> dict[str, str]:
        """Go's environment with all that it keeps inside our cache; -modcacherw, so that `rm -r` can clear it."""
        flags = f"{os.environ.get('GOFLAGS', '')} -modcacherw -mod=readonly".strip()
        return {
            **os.environ, "GOMODCACHE": str(self.cache / "mod"), "GOCACHE": str(self.cache / "build"), "GOFLAGS": flags,
            "GOTOOLCHAIN": "local",
        }  # fmt: skip

    @property
    def _binary(self) -> Path:
        return self.cache / "compat.test"

    def install(self) -> None:
        run_installer(["go", "mod", "download"], cwd=self.source, env=self._tools())

    def build(self) -> None:
        run_installer(["go", "vet", "."], cwd=self.source, env=self._tools())
        run_installer(["go", "test", "-c", "-o", str(self._binary), "."], cwd=self.source, env=self._tools())

    def command(self, run: Run) -> list[str]:
        return [
            "go", "tool", "test2json", "-t", str(self._binary), "-test.v=test2json", f"-test.parallel={run.workers}",
            f"-test.timeout={int(self.budget_s)}s", *([f"-test.run={run.only}"] if run.only else []),
        ]  # fmt: skip

    def environment(self, run: Run) -> dict[str, str]:
        logs = {"rocketmq.client.logRoot": str(run.directory)}
        return {**super().environment(run), **self._tools(), **run.environment, **logs}

    def outcome(self, run: Run) -> Outcome:
        return from_go(run.log)


class Java(Suite):
    name = "java"
    client = "rocketmq-client-java 5.2.0"
    manifests = ("pom.xml",)
    budget_s = 480.0
    workers = 16

    def missing(self) -> str | None:
        if version_of("javac", "-version") < (11,):
            return "needs a JDK, 11 or newer (java, javac)"
        return None if shutil.which("mvn") else "needs Maven (mvn)"

    @property
    def classpath_file(self) -> Path:
        return self.cache / "classpath"

    def _maven(self, *arguments: str) -> None:
        run_installer(
            [
                "mvn", "-B", "-q", "-ntp", "-f", str(self.source / "pom.xml"),
                f"-Dmaven.repo.local={self.cache / 'repository'}", f"-Dcompat.target={self.cache / 'target'}", *arguments,
            ]
        )  # fmt: skip

    def install(self) -> None:
        self._maven("dependency:build-classpath", f"-Dmdep.outputFile={self.classpath_file}", "-Dmdep.includeScope=test")

    def build(self) -> None:
        """javac itself: Maven takes longer to start than to compile this."""
        classes = self.cache / "classes"
        shutil.rmtree(classes, ignore_errors=True)
        sources = sorted(str(path) for path in (self.source / "src").rglob("*.java"))
        argv = ["javac", "-nowarn", "-proc:none", "--release", "11", "-encoding", "UTF-8"]
        run_installer([*argv, "-cp", self.classpath_file.read_text(), "-d", str(classes), *sources])
        shutil.copytree(self.source / "src" / "test" / "resources", classes, dirs_exist_ok=True)

    def command(self, run: Run) -> list[str]:
        classes = self.cache / "classes"
        only = [f"--include-methodname=.*({run.only}).*"] if run.only else []
        parallel = "junit.jupiter.execution.parallel.config.fixed"
        return [
            "java", "-Xmx768m", "-XX:TieredStopAtLevel=1",
            f"-Drocketmq.log.root={run.directory}", f"-Duser.home={run.directory}",
            "-cp", f"{classes}{os.pathsep}{self.classpath_file.read_text()}", "org.junit.platform.console.ConsoleLauncher",
            "execute", f"--scan-class-path={classes}", "--include-classname=.*Test", "--fail-if-no-tests",
            "--details=tree", "--disable-ansi-colors", "--disable-banner", f"--reports-dir={run.directory}",
            f"--config={parallel}.parallelism={run.workers}", f"--config={parallel}.max-pool-size={run.workers}", *only,
        ]  # fmt: skip

    def outcome(self, run: Run) -> Outcome:
        return from_junit([run.directory / "TEST-junit-jupiter.xml"])


ALL: tuple[type[Suite], ...] = (Python, Node, Java, Go)
