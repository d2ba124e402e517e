"""What a process asks of its operating system."""

from __future__ import annotations

import ctypes
import sys

OPEN_FILES = 65_536
# As in glibc's malloc.h.
_M_ARENA_MAX = -8
_ARENAS = 2


def allow_connections() -> None:
    """Take as many open files as are allowed: each connection is one, and the default is often 1,024."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def share_memory() -> None:
    """Let threads share their free memory, where the C library is glibc, before the first one starts.

    By default it keeps a pool of its own for each of up to eight threads a core, and none gives back what another could
    use: with threads for encoders, files and the database that came to a tenth of a server's memory.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
