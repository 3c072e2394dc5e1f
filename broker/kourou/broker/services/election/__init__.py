"""Failover mode: who of a broker group is its master, by way of etcd."""
