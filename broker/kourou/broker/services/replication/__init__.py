"""Replication between the members of a broker group: drivers of the two machines."""
