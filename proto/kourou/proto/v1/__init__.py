"""Nameserver registration and health, version 1."""
