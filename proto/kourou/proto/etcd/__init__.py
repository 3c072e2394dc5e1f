"""The part of etcd's API that failover mode uses."""
