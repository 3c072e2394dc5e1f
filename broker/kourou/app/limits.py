"""The process's own limits."""

from __future__ import annotations

import resource


def raise_file_limit(connections: int) -> int:
    """Allow as many open files as the connections need, as far as the system lets us; the limit that holds."""
    wanted = connections + 1_024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
