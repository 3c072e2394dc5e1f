"""Decisions of the client without any I/O."""
