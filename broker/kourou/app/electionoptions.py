"""What the options of a broker mean for its election, and how it reaches etcd."""

from __future__ import annotations

from kourou.app.options import BrokerOptions
from kourou.broker.edge.etcd import EtcdAccess
from kourou.broker.machines.election import ElectionOptions
from kourou.core.route import Endpoint, parse_endpoint

ETCD_PORT = 2379


def etcd_access(options: BrokerOptions) -> EtcdAccess:
    endpoints: list[Endpoint] = [
        parse_endpoint(part, default_port=ETCD_PORT) for part in options.etcd.split(",") if part.strip()
    ]
    return EtcdAccess(
        tuple(endpoints),
        ca=options.etcd_ca,
        certificate=options.etcd_certificate,
        key=options.etcd_key,
        user=options.etcd_user or None,
        password_file=options.etcd_password_file,
    )


def election_options(options: BrokerOptions) -> ElectionOptions:
    return ElectionOptions(
        lease_ms=round(options.lease_s * 1000),
        renew_ms=round(options.renew_s * 1000),
        leader_change_ms=round(options.etcd_leader_change_s * 1000),
        min_isr=options.min_isr,
        ack_all=options.ack == "all",
        refusals=options.takeover_on_refusal,
        unclean=options.unclean_election,
        learner=options.learner,
        found=options.failover_init,
    )
