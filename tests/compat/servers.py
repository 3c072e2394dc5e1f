"""Where the suites run: a node or a cluster of ours for each engine, or a server that runs already."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.compat.hooks import Hooks
from tests.compat.programs import Program, cluster, wait_for_brokers
from tests.compat.suites import ALL

ENGINES = ("http2", "grpcio")
BROKERS = 2
HOOK_VARIABLES = ("ADMIN_CREATE_TOPIC", "ADMIN_CREATE_GROUP")

# Half messages are checked 9 to 12 s after they came. Not sooner: two tests hold one back for 5 s before they commit it.
# RocketMQ takes a day, the suite expects 30 days to be refused; our default is 40.
NODE_FLAGS = (
    "--no-auto-create", "--delay-days-max", "20", "--transaction-check-after-s", "9", "--transaction-check-every-s", "3",
)  # fmt: skip
# Our grpcio host serves TLS or plaintext, not both; the Python and Node clients speak plaintext.
PLAINTEXT = {"COMPAT_TLS": "false", "rocketmq.client.enableSsl": "false"}
KNOBS = {"MIN_INVISIBLE_S": "1", "REDELIVERY_SLACK_S": "2", "TXN_CHECK_S": "16", "LITE_AND_PRIORITY": "true"}


@dataclass(slots=True)
class Server:
    """Where suites run: programs of ours, or what the options name."""

    engine: str  # of our programs, else ""
    environment: dict[str, str]  # leads the suites to it
    programs: list[Program] = field(default_factory=list)

    def label(self, suite: str) -> str:
        return suite if self.engine in ("", "http2") else f"{suite}-{self.engine}"

    def fell(self) -> list[str]:
        """Those that ended by themselves."""
        return [program.name for program in self.programs if program.fell()]


def start_own(options: argparse.Namespace, engine: str, scratch: Path, logs: Path, stack: ExitStack) -> Server:
    """A standalone node, or a cluster of which the suites are given the nameserver or a proxy."""
    flags = [*NODE_FLAGS, *options.node_flag]
    if options.through is None:
        arguments = ("standalone", "--data", str(scratch / "node"), "--grpc-engine", engine, *flags)
        before: list[Program] = []
        brokers = [Program("node", arguments, logs)]
    else:
        proxy = options.through == "proxy"
        before, brokers = cluster(scratch, logs, *flags, brokers=BROKERS, proxy=proxy, engine=engine)
    programs = before + brokers
    for program in programs:
        stack.callback(program.end)
    for program in brokers:
        program.start()
    data_plane = programs[0].urls["data plane"]
    if before:
        wait_for_brokers(data_plane, len(brokers))
    environment = {name: os.environ.get(name, value) for name, value in KNOBS.items()}
    environment |= {"ENDPOINT": (before or brokers)[-1].official, "BROKERS": str(len(brokers))} | (
        PLAINTEXT if engine == "grpcio" else {}
    )
    if options.through == "nameserver":
        environment["DIRECT"] = "true"
    environment |= stack.enter_context(Hooks(data_plane, scratch)).environment
    return Server(engine, environment, programs)


def running_server(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> Server:
    environment = {"ENDPOINT": options.endpoint}
    if options.server is not None:
        environment = {name: os.environ.get(name, value) for name, value in KNOBS.items()} | environment
        environment |= stack.enter_context(Hooks(options.server, scratch)).environment
    else:
        missing = [name for name in HOOK_VARIABLES if not os.environ.get(name)]
        if missing:
            raise SystemExit(f"error: --endpoint without --server needs {' and '.join(missing)} in the environment")
    return Server("", environment)


def start_servers(
    options: argparse.Namespace, scratch: Path, logs: Path, stack: ExitStack
) -> list[tuple[Server, list[str]]]:
    """Each with the names of the suites that run on it: all of them on both engines, unless the options say less."""
    everything = [suite.name for suite in ALL]
    if options.endpoint is not None:
        return [(running_server(options, scratch, stack), options.suite or everything)]
    servers = []
    for engine in options.engine or ENGINES:
        directory, own_logs = scratch / engine, logs / f"server-{engine}"
        directory.mkdir()
        own_logs.mkdir(parents=True, exist_ok=True)
        servers.append((start_own(options, engine, directory, own_logs, stack), options.suite or everything))
    return servers
