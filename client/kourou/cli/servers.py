"""``kourou standalone``, ``nameserver`` and ``broker``: gather options, run the server, say when it is ready."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from kourou.app.options import BrokerOptions
from kourou.cli.failures import DISK_FAILED, FAILED, CommandFailed
from kourou.cli.output import note, print_table
from kourou.cli.settings import Setting, load
from kourou.cli.values import format_size
from kourou.core.errors import BadRequest, FlushFailed
from kourou.core.route import parse_endpoint

DEFAULTS = BrokerOptions()
DEMO_STOP_S = 10.0

Ready = Callable[[dict[str, str]], None]
Size = str  # a flag that takes 64MiB as well as 67108864

Host = Annotated[
    str | None, Parameter(help=f"Address to listen on (default: {DEFAULTS.host}). There is no authentication yet.")
]
Level = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    Parameter(help=f"Least that is logged (default: {DEFAULTS.log_level})."),
]
Config = Annotated[Path | None, Parameter(help="TOML file with options; flags and KOUROU_… variables win over it.")]
PrintConfig = Annotated[
    bool, Parameter(negative=(), help="Print every option with its value and where that comes from, and stop.")
]


def _number(name: str, text: str) -> Parameter:
    value = getattr(DEFAULTS, name)
    shown = format_size(value).replace(".0 ", "").replace(" ", "") if name.endswith("_bytes") else f"{value:g}"
    return Parameter(help=f"{text} (default: {shown})")


Engine = Annotated[
    Literal["http2", "grpcio"] | None, Parameter(help=f"What serves the official API (default: {DEFAULTS.grpc_engine}).")
]
TlsMode = Annotated[
    Literal["permissive", "required", "off"] | None,
    Parameter(help=f"TLS of the official API; permissive: plaintext too (default: {DEFAULTS.tls})."),
]
Certificate = Annotated[Path | None, Parameter(help="PEM file (default: one is made at start).")]
Key = Annotated[Path | None, Parameter(help="PEM file of its key.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class NodeFlags:
    """What a standalone node and a broker have in common. None: not given."""

    data: Annotated[Path | None, Parameter(help=f"Data directory (default: ./{DEFAULTS.data}).")] = None
    host: Host = None
    port: Annotated[int | None, _number("port", "Data plane; 0 picks a free port.")] = None
    grpc_port: Annotated[int | None, _number("grpc_port", "Official gRPC API.")] = None
    grpc_engine: Engine = None
    tls: TlsMode = None
    tls_certificate: Certificate = None
    tls_key: Key = None
    official_advertised: Annotated[
        str | None, Parameter(help="HOST:PORT of the official API that clients are told (default: auto).")
    ] = None
    http_port: Annotated[int | None, _number("http_port", "/metrics, /healthz and /readyz.")] = None
    advertised: Annotated[str | None, Parameter(help="HOST:PORT that clients are told (default: auto).")] = None
    cluster: Annotated[str | None, Parameter(help=f"Name of the cluster (default: {DEFAULTS.cluster}).")] = None
    name: Annotated[str | None, Parameter(help=f"Name of the broker group (default: {DEFAULTS.name}).")] = None
    auto_create: Annotated[
        bool | None, Parameter(help="Topics and groups come into being at first use (standalone: on, broker: off).")
    ] = None
    flush: Annotated[
        Literal["async", "sync"] | None,
        Parameter(help=f"sync: a message is on the disk before it is acknowledged (default: {DEFAULTS.flush})."),
    ] = None
    flush_interval_ms: Annotated[int | None, _number("flush_interval_ms", "Between two syncs with --flush async.")] = None
    retention_hours: Annotated[float | None, _number("retention_hours", "How long messages are kept.")] = None
    retention_bytes: Annotated[Size | None, Parameter(help="Log kept at most, for example 50GiB (default: no bound).")] = (
        None
    )
    segment_bytes: Annotated[Size | None, _number("segment_bytes", "Size of a log file.")] = None
    snapshot_bytes: Annotated[Size | None, _number("snapshot_bytes", "Log between two snapshots.")] = None
    disk_full_ratio: Annotated[
        float | None, _number("disk_full_ratio", "Share of the disk from which writes are refused.")
    ] = None
    reserve_bytes: Annotated[Size | None, _number("reserve_bytes", "Kept back for offsets when the disk is full.")] = None
    delay_days_max: Annotated[float | None, _number("delay_days_max", "How far ahead a delivery time may be.")] = None
    lite_expire_minutes: Annotated[
        float | None, _number("lite_expire_minutes", "A lite topic unused for so long is let go of; 0: never.")
    ] = None
    transaction_check_after_s: Annotated[
        float | None, _number("transaction_check_after_s", "Age at which a half message is asked about.")
    ] = None
    transaction_check_every_s: Annotated[float | None, _number("transaction_check_every_s", "And again at.")] = None
    transaction_checks_max: Annotated[int | None, _number("transaction_checks_max", "Then it is rolled back.")] = None
    max_connections: Annotated[int | None, _number("max_connections", "Clients at a time.")] = None
    log_level: Level = None


def standalone(
    *,
    node: NodeFlags | None = None,
    config: Config = None,
    demo: Annotated[bool, Parameter(negative=(), help="When ready, run the demo against it; then stay up.")] = False,
    print_config: PrintConfig = False,
) -> int:
    """Run a nameserver and a broker in one process. Stops cleanly on SIGTERM or Ctrl-C."""
    options, settings = load(BrokerOptions, flags=_given(node), config=config, environment=os.environ)
    if print_config:
        return _show(settings)
    _check_data(options.data)
    from kourou.app.standalone import run

    running: list[subprocess.Popen[bytes]] = []

    def ready(urls: dict[str, str]) -> None:
        say_ready(urls)
        if demo:
            running.append(_start_demo(urls["data plane"]))

    try:
        _serve(lambda log: run(options, log=log, ready=ready), host=options.host, log_level=options.log_level)
    finally:
        stopped = [_end_demo(process) for process in running]
    return FAILED if FAILED in stopped else 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FailoverFlags:
    """Of a broker whose group elects its master. None: not given."""

    failover: Annotated[
        Literal["static", "etcd"] | None,
        Parameter(help=f"etcd: the group elects its master; static: you name it (default: {DEFAULTS.failover})."),
    ] = None
    etcd: Annotated[str | None, Parameter(help="HOST:PORT[,…] of etcd's members (port if none: 2379).")] = None
    etcd_ca: Annotated[Path | None, Parameter(help="PEM file: who signed etcd's certificate (default: no TLS).")] = None
    etcd_certificate: Annotated[Path | None, Parameter(help="PEM file of a certificate to show to etcd.")] = None
    etcd_key: Annotated[Path | None, Parameter(help="PEM file of its key.")] = None
    etcd_user: Annotated[str | None, Parameter(help="User at etcd (default: none).")] = None
    etcd_password_file: Annotated[Path | None, Parameter(help="File with the password.")] = None
    etcd_leader_change_s: Annotated[
        float | None, _number("etcd_leader_change_s", "How long etcd is away when its leader dies.")
    ] = None
    lease_s: Annotated[float | None, _number("lease_s", "A master not heard of for so long is replaced.")] = None
    renew_s: Annotated[float | None, _number("renew_s", "Between renewals of the lease.")] = None
    takeover_on_refusal: Annotated[
        bool | None, Parameter(help="Replace a master at once whose host refuses connections (default: on).")
    ] = None
    unclean_election: Annotated[
        bool | None, Parameter(help="After ten leases any member may lead, whatever it lacks (default: off).")
    ] = None
    failover_init: Annotated[
        bool | None, Parameter(help="Create the group in etcd although this broker has data; once.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReplicationFlags:
    on_shortage: Annotated[
        Literal["refuse", "degrade"] | None,
        Parameter(help="With fewer members in sync than --min-isr: refuse sends, or degrade to those there are."),
    ] = None
    catchup_mib_s: Annotated[
        float | None, _number("catchup_mib_s", "MiB/s for slaves that are not in sync, all together; 0: no limit.")
    ] = None
    retain_for_lagging_mib: Annotated[
        int | None, _number("retain_for_lagging_mib", "MiB of log kept for a slave that is connected and behind.")
    ] = None
    scrub_hours: Annotated[
        float | None, _number("scrub_hours", "Hours in which the log is read once to find what has rotted; 0: never.")
    ] = None
    slave_reads: Annotated[
        bool | None, Parameter(help="Native stream consumers that are far behind read at a slave (default: on).")
    ] = None
    slave_reads_behind_mib: Annotated[
        int | None, _number("slave_reads_behind_mib", "How far behind; 0: two fifths of this machine's memory.")
    ] = None


def broker(
    *,
    node: NodeFlags | None = None,
    replication: ReplicationFlags | None = None,
    election: FailoverFlags | None = None,
    broker_id: Annotated[int | None, Parameter(help="0 is the master of its group, others are slaves (default: 0).")] = None,
    master: Annotated[
        str | None, Parameter(help="HOST:PORT of a slave's master (default: auto: the nameservers know).")
    ] = None,
    ack: Annotated[
        Literal["local", "all"] | None,
        Parameter(help=f"all: every slave in sync has a message before it is acknowledged (default: {DEFAULTS.ack})."),
    ] = None,
    min_isr: Annotated[int | None, _number("min_isr", "Members in sync, at least, for --ack all.")] = None,
    lag_max_s: Annotated[float | None, _number("lag_max_s", "A slave that is late for so long is not in sync.")] = None,
    learner: Annotated[bool | None, Parameter(help="Follow without ever counting as in sync.")] = None,
    accept_loss: Annotated[
        bool | None, Parameter(help="Lead although the end of the log may be lost and no slave has it (default: off).")
    ] = None,
    nameserver: Annotated[
        str | None, Parameter(help="HOST:PORT[,…]: gRPC addresses of all nameservers (port if none: 9877).")
    ] = None,
    config: Config = None,
    print_config: PrintConfig = False,
) -> int:
    """Run a broker that registers with nameservers. Stops cleanly on SIGTERM or Ctrl-C."""
    flags = {**_given(node), "broker_id": broker_id, "nameservers": nameserver, "master": master, "ack": ack}
    flags |= {"min_isr": min_isr, "lag_max_s": lag_max_s, "learner": learner, "accept_loss": accept_loss}
    for group in (replication, election):
        if group is not None:
            flags |= {field.name: getattr(group, field.name) for field in fields(group)}
    options, settings = load(
        BrokerOptions, flags=flags, config=config, environment=os.environ, defaults={"auto_create": False}
    )
    if print_config:
        return _show(settings)
    if not options.nameservers:
        raise CommandFailed("a broker needs --nameserver HOST:PORT; for a node on its own: kourou standalone", status=2)
    _check_data(options.data)
    from kourou.app.brokermode import run

    _serve(lambda log: run(options, log=log, ready=say_ready), host=options.host, log_level=options.log_level)
    return 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OfficialFlags:
    """The official API of nameservers and proxies. None: not given."""

    grpc_engine: Engine = None
    tls: TlsMode = None
    tls_certificate: Certificate = None
    tls_key: Key = None


def proxy(
    *,
    nameserver: Annotated[
        str | None, Parameter(help="HOST:PORT[,…]: data-plane addresses of nameservers (port if none: 9876).")
    ] = None,
    host: Host = None,
    grpc_port: Annotated[int | None, Parameter(help="Official gRPC API (default: 8081).")] = None,
    http_port: Annotated[int | None, Parameter(help="/metrics, /healthz and /readyz (default: 8088).")] = None,
    official: OfficialFlags | None = None,
    log_level: Level = None,
    config: Config = None,
    print_config: PrintConfig = False,
) -> int:
    """Serve the official API in front of a cluster, at one address. Keeps no state. Stops cleanly on SIGTERM or Ctrl-C."""
    from kourou.app.proxy import ProxyOptions, run

    addresses = nameserver or os.environ.get("KOUROU_SERVER")
    flags: dict[str, object] = {"host": host, "grpc_port": grpc_port, "http_port": http_port, "log_level": log_level}
    if official is not None:
        flags |= {field.name: getattr(official, field.name) for field in fields(official)}
    if addresses is not None:
        try:
            parts = [part for part in addresses.split(",") if part.strip()]
            flags["nameservers"] = ",".join(str(parse_endpoint(part, default_port=9876)) for part in parts)
        except BadRequest as failure:
            raise CommandFailed(f"--nameserver: {failure}", status=2) from None
    options, settings = load(ProxyOptions, flags=flags, config=config, environment=os.environ)
    if print_config:
        return _show(settings)
    if not options.nameservers:
        raise CommandFailed("a proxy needs --nameserver HOST:PORT, or KOUROU_SERVER", status=2)
    _serve(lambda log: run(options, log=log, ready=say_ready), host=options.host, log_level=options.log_level)
    return 0


def nameserver(
    *,
    host: Host = None,
    port: Annotated[int | None, Parameter(help="Data plane, for native clients (default: 9876).")] = None,
    grpc_port: Annotated[int | None, Parameter(help="For brokers, and the official API (default: 9877).")] = None,
    http_port: Annotated[int | None, Parameter(help="/metrics, /healthz and /readyz (default: a free port).")] = None,
    cluster: Annotated[str | None, Parameter(help=f"Name of the cluster (default: {DEFAULTS.cluster}).")] = None,
    auto_create: Annotated[bool | None, Parameter(help="Tell clients to create missing topics (default: off).")] = None,
    official_routes: Annotated[
        str | None,
        Parameter(help="Where official clients are sent: gateway (here), broker, auto (here when there are slaves)."),
    ] = None,
    official: OfficialFlags | None = None,
    log_level: Level = None,
    config: Config = None,
    print_config: PrintConfig = False,
) -> int:
    """Run a nameserver. It keeps nothing on disk. Stops cleanly on SIGTERM or Ctrl-C."""
    from kourou.app.nameserver import NameserverOptions, run

    flags: dict[str, object] = {"host": host, "port": port, "grpc_port": grpc_port, "http_port": http_port}
    flags |= {"cluster": cluster, "auto_create": auto_create, "log_level": log_level, "official_routes": official_routes}
    if official is not None:
        flags |= {field.name: getattr(official, field.name) for field in fields(official)}
    options, settings = load(NameserverOptions, flags=flags, config=config, environment=os.environ)
    if print_config:
        return _show(settings)
    _serve(lambda log: run(options, log=log, ready=say_ready), host=options.host, log_level=options.log_level)
    return 0


def _check_data(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise CommandFailed(f"--data: {directory} is not a directory")


def _given(node: NodeFlags | None) -> dict[str, object]:
    return {} if node is None else {field.name: getattr(node, field.name) for field in fields(node)}


def _show(settings: list[Setting]) -> int:
    rows = [(s.name.replace("_", "-"), _text(s.value), s.origin) for s in settings]
    print_table(("OPTION", "VALUE", "FROM"), rows)
    return 0


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def say_ready(urls: Mapping[str, str]) -> None:
    """One line an address, then ``ready``: scripts wait for it."""
    for name, url in urls.items():
        print(f"{name:<14} {url}")
    print("ready", flush=True)


def _serve(make: Callable[[Any], Coroutine[Any, Any, None]], *, host: str, log_level: str) -> None:
    from kourou.runtime import log

    log.configure(log_level)
    warn_if_open(host)
    try:
        _run(make(log.logger()))
    except FlushFailed as failure:
        raise CommandFailed(str(failure), status=DISK_FAILED) from None


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ModuleNotFoundError:
        if sys.platform != "win32":
            work.close()
            raise
        asyncio.run(work)
    else:
        uvloop.run(work)


def warn_if_open(host: str) -> None:
    if not is_loopback(host):
        note(
            f"WARNING: listening on {host}, beyond this machine, and there is no authentication yet: "
            "whoever reaches these ports can read, write and delete everything."
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _start_demo(server: str) -> subprocess.Popen[bytes]:
    """In a process of its own: it shall measure the node, not share its event loop."""
    command = [sys.executable, "-m", "kourou.cli", "demo", "--server", server]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  ourselves


def _end_demo(process: subprocess.Popen[bytes]) -> int:
    """FAILED if the demo found something wrong; one that is cut short by our own end has not failed."""
    status = process.poll()
    if status is not None:
        return FAILED if status else 0
    process.terminate()
    try:
        process.wait(DEMO_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return 0
