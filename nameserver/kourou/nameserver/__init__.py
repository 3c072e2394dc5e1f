"""Nameservers: who is there and where a topic's queues are. Soft state only."""
