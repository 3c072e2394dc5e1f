"""Wiring: puts store, machines, services and edges together into the processes that users start."""
