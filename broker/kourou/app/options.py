"""What a broker process can be told: one place for names, defaults, units and limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kourou.core.errors import BadRequest
from kourou.core.names import check_broker
from kourou.core.route import Endpoint, parse_endpoint

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """Options of a broker, the standalone node included."""

    data: Path = Path("kourou-data")
    host: str = "127.0.0.1"  # there is no authentication yet, so nothing else is bound unless told to
    port: int = 10911  # data plane; 0 picks a free one
    grpc_port: int = 8081  # official API; TLS and plaintext on the same port
    grpc_engine: str = "http2"  # our own; or grpcio
    tls: str = "permissive"  # of the official API; permissive: TLS and plaintext, required, off
    tls_certificate: Path | None = None  # PEM, with its chain; none: one is made at start
    tls_key: Path | None = None
    http_port: int = 8088  # /metrics, /healthz, /readyz
    cluster: str = "kourou"
    name: str = "broker-a"  # of the broker group
    broker_id: int = 0  # 0 is the master
    nameservers: tuple[Endpoint, ...] = ()  # their gRPC addresses
    master: str = "auto"  # of a slave: host:port of its master's data plane; auto: as the nameservers say
    ack: str = "local"  # local: answered when the master has it; all: when every slave in sync has it, too
    min_isr: int = 1  # with ack = all: members that have to be in sync, the master counted, or sends are refused
    lag_max_s: float = 3.0  # a slave that has not caught up for so long is not in sync
    on_shortage: str = "refuse"  # with ack = all and fewer members than min_isr: refuse sends, or degrade to those there are
    catchup_mib_s: float = 100.0  # what slaves that are not in sync are sent, all together; 0: no limit
    retain_for_lagging_mib: int = 10 * 1024  # log kept for a slave that is connected and behind
    scrub_hours: float = 24.0  # in which the log is read once to find what has rotted; 0: never
    slave_reads: bool = True  # native stream consumers that are far behind read at a slave in sync
    slave_reads_behind_mib: int = 0  # so far, in the log; 0: two fifths of this machine's memory
    learner: bool = False  # a slave that follows and never counts as in sync
    accept_loss: bool = False  # lead although the end of the log may be lost, and no slave has it
    failover: str = "static"  # static: an operator names the master; etcd: the group elects it
    etcd: str = ""  # host:port[,…] of etcd's members
    etcd_ca: Path | None = None  # PEM; given: TLS
    etcd_certificate: Path | None = None  # PEM; the broker's own
    etcd_key: Path | None = None
    etcd_user: str = ""
    etcd_password_file: Path | None = None
    etcd_leader_change_s: float = 1.4  # how long etcd is away when its leader dies
    lease_s: float = 3.0  # a master that was not heard of for so long is replaced
    renew_s: float = 0.5
    takeover_on_refusal: bool = True  # at once when the master's host refuses connections; off behind proxies that do so
    unclean_election: bool = False  # after ten leases without a master any member may lead, whatever it lacks
    failover_init: bool = False  # create the group in etcd although this log is not empty
    advertised: str = "auto"  # host:port that clients are told; auto: where the asker can reach us
    official_advertised: str = "auto"  # the same for the official API; auto: where the data plane is reached
    flush: str = "async"  # async: answered when written, fdatasync every flush_interval_ms; sync: after fdatasync
    flush_interval_ms: int = 200
    auto_create: bool = True  # topics and groups come into being at first use
    retention_hours: float = 72.0
    retention_bytes: int = 0  # of the log; 0: no bound
    segment_bytes: int = 256 * MIB
    snapshot_bytes: int = 64 * MIB  # a snapshot is taken after this much log
    disk_full_ratio: float = 0.95  # client writes are refused from this share of the file system on
    reserve_bytes: int = 64 * MIB
    delay_days_max: float = 40.0  # how far ahead a delayed message's time may be
    lite_expire_minutes: float = 0.0  # a lite topic without messages or subscribers for so long is let go of; 0: never
    transaction_check_after_s: float = 6.0  # a half message is asked about when it is so old
    transaction_check_every_s: float = 30.0  # and again at this interval
    transaction_checks_max: int = 15  # then it is rolled back
    max_connections: int = 20_000
    log_level: str = "info"

    def __post_init__(self) -> None:
        check_broker(self.name)
        check_broker(self.cluster)
        _among("grpc_engine", self.grpc_engine, ("http2", "grpcio"))
        _among("tls", self.tls, ("permissive", "required", "off"))
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadRequest("options tls_certificate and tls_key belong together")
        _among("flush", self.flush, ("async", "sync"))
        _among("log_level", self.log_level, ("debug", "info", "warning", "error"))
        for name in ("port", "grpc_port", "http_port"):
            _within(name, getattr(self, name), 0, 65_535)
        _within("broker_id", self.broker_id, 0, 1_000)
        _among("ack", self.ack, ("local", "all"))
        _within("min_isr", self.min_isr, 1, 65)
        if self.min_isr > 1 and self.ack != "all":
            raise BadRequest(f"option min_isr is {self.min_isr}, which needs ack all")
        _within("lag_max_s", self.lag_max_s, 0.1, 3_600)
        _among("on_shortage", self.on_shortage, ("refuse", "degrade"))
        if self.on_shortage == "degrade" and self.failover != "static":
            raise BadRequest("option on_shortage = degrade is for failover = static: an elected master keeps its promise")
        _within("catchup_mib_s", self.catchup_mib_s, 0, 1 << 20)
        _within("retain_for_lagging_mib", self.retain_for_lagging_mib, 0, 1 << 40)
        _within("scrub_hours", self.scrub_hours, 0, 24 * 3650)
        _within("slave_reads_behind_mib", self.slave_reads_behind_mib, 0, 1 << 40)
        _among("failover", self.failover, ("static", "etcd"))
        _within("lease_s", self.lease_s, 0.5, 300)
        _within("renew_s", self.renew_s, 0.05, 60)
        _within("etcd_leader_change_s", self.etcd_leader_change_s, 0, 60)
        if (self.failover == "etcd") != bool(self.etcd):
            raise BadRequest("options failover = etcd and etcd = host:port[,…] belong together")
        if self.failover == "etcd" and self.master != "auto":
            raise BadRequest("option master names a master, and failover = etcd elects one")
        if self.failover == "etcd" and self.advertised == "auto" and self.host in ("0.0.0.0", "::"):  # noqa: S104
            raise BadRequest("option failover = etcd needs advertised: the other members have to find this one")
        if self.master != "auto":
            parse_endpoint(self.master)
        _within("flush_interval_ms", self.flush_interval_ms, 10, 60_000)
        _within("retention_hours", self.retention_hours, 0.001, 24 * 3650)
        _within("retention_bytes", self.retention_bytes, 0, 1 << 60)
        _within("segment_bytes", self.segment_bytes, 64 * 1024, 4 << 30)
        _within("snapshot_bytes", self.snapshot_bytes, 64 * 1024, 1 << 40)
        _within("disk_full_ratio", self.disk_full_ratio, 0.1, 1.0)
        _within("reserve_bytes", self.reserve_bytes, 0, 1 << 40)
        _within("delay_days_max", self.delay_days_max, 0, 3_650)
        _within("lite_expire_minutes", self.lite_expire_minutes, 0, 43_200)
        _within("transaction_check_after_s", self.transaction_check_after_s, 0.1, 86_400)
        _within("transaction_check_every_s", self.transaction_check_every_s, 0.1, 86_400)
        _within("transaction_checks_max", self.transaction_checks_max, 1, 10_000)
        _within("max_connections", self.max_connections, 1, 1_000_000)
        if self.advertised != "auto":
            parse_endpoint(self.advertised)
        if self.official_advertised != "auto":
            parse_endpoint(self.official_advertised)

    @property
    def needs_others(self) -> bool:
        """Is nothing acknowledged that this member alone has? ``min_isr`` above 1 is for ``ack`` all only."""
        return self.min_isr > 1


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequest(f"option {name} is {value}; from {low:g} to {high:g} is allowed")


def _among(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadRequest(f"option {name} is {value!r}; allowed are {', '.join(allowed)}")
