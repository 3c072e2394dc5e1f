"""A private etcd on free ports, of the Debian package ``etcd-server``; without it tests are skipped, and say so."""

from __future__ import annotations

import pytest

from bench.etcd import BINARY, EtcdCluster, EtcdMember, free_ports

__all__ = ["BINARY", "EtcdCluster", "EtcdMember", "free_ports", "needs_etcd"]

needs_etcd = pytest.mark.skipif(BINARY is None, reason="NO ETCD: failover was not tested; apt install etcd-server")
