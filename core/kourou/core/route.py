"""Where a topic's queues are: values that nameservers answer and clients hold. Immutable, replaced whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kourou.core.errors import BadRequest


class TopicType(StrEnum):
    NORMAL = "normal"
    FIFO = "fifo"
    DELAY = "delay"
    TRANSACTION = "transaction"
    PRIORITY = "priority"
    LITE = "lite"


class GroupShape(StrEnum):
    STREAM = "stream"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: object, *, default_port: int | None = None) -> Endpoint:
    """``host:port``, ``[v6]:port`` or, with a default port, ``host``. Raises BadRequest."""
    if not isinstance(text, str) or not text.strip():
        raise BadRequest("address is empty; expected host:port")
    text = text.strip()
    host, separator, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        host, separator, port = text, "", ""
    elif ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise BadRequest(f"address {text!r} is not host:port; an IPv6 address is written in brackets: [::1]:10911")
    if not separator:
        if default_port is None:
            raise BadRequest(f"address {text!r} has no port; expected host:port")
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host.isprintable() or " " in host:
        raise BadRequest(f"the host in address {text!r} has spaces or control characters")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadRequest(f"address {text!r} is not host:port with a port from 1 to 65535")
    return Endpoint(host, int(port))


@dataclass(frozen=True, slots=True)
class Placement:
    """How many of a topic's queues one broker group holds. Queue ids run from 0 in each group."""

    broker: str
    queues: int


@dataclass(frozen=True, slots=True)
class BrokerRoute:
    """One broker group in a topic's route. ``master`` is None while it is away: its queues stay listed."""

    broker: str
    queues: int
    epoch: int
    master: Endpoint | None
    replicas: tuple[tuple[int, Endpoint], ...] = ()
    official: Endpoint | None = None  # where the master serves the official API


@dataclass(frozen=True, slots=True)
class TopicRoute:
    """A topic's declared queues, in their stable order: brokers by name, queue ids rising within each."""

    topic: str
    type: TopicType
    version: int
    brokers: tuple[BrokerRoute, ...]

    @property
    def queues(self) -> tuple[tuple[str, int], ...]:
        """(broker, queue id) of every declared queue, in the order message groups are hashed over."""
        return tuple((broker.broker, number) for broker in self.brokers for number in range(broker.queues))

    def to_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "type": self.type.value,
            "version": self.version,
            "brokers": [
                {
                    "broker": b.broker,
                    "queues": b.queues,
                    "epoch": b.epoch,
                    "master": str(b.master) if b.master else None,
                    "replicas": [[number, str(address)] for number, address in b.replicas],
                    "official": str(b.official) if b.official else None,
                }
                for b in self.brokers
            ],
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> TopicRoute:
        try:
            return TopicRoute(
                value["topic"],
                TopicType(value["type"]),
                int(value["version"]),
                tuple(
                    BrokerRoute(
                        b["broker"],
                        int(b["queues"]),
                        int(b["epoch"]),
                        parse_endpoint(b["master"]) if b["master"] else None,
                        tuple((int(number), parse_endpoint(address)) for number, address in b.get("replicas", [])),
                        parse_endpoint(b["official"]) if b.get("official") else None,
                    )
                    for b in value["brokers"]
                ),
            )
        except (KeyError, TypeError, ValueError) as failure:
            raise BadRequest(f"route does not parse: {failure!r}") from None
