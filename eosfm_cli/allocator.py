"""Memory that is freed stays with the process, so that the next tensor need not ask for it anew.

Linux's C library takes every large piece of memory from the system and gives it back at once; of a
forward pass that is thousands of times, and the system clears each page again. It is told not to,
before torch is imported, where nobody has chosen otherwise.
"""

from __future__ import annotations

import os
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGEST = (2**30, 2**25)
"""Bytes. Pieces from this size on are still taken from the system and given back; older versions of
the library refuse more than the second."""
_CHOSEN_BY = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")


def keep_memory() -> bool:
    """Keep freed memory for reuse; whether that was done.

    Nothing is done outside Linux with glibc, or where an environment variable sets an allocator.
    """
    if sys.platform != "linux" or any(name.startswith(_CHOSEN_BY) for name in os.environ):
        return False
    import ctypes  # only commands that compute pay for it

    try:
        library = ctypes.CDLL("libc.so.6")
        library.gnu_get_libc_version  # noqa: B018 - others have no such function
        kept = any(library.mallopt(_MMAP_THRESHOLD, size) == 1 for size in _LARGEST)
        return kept and library.mallopt(_TRIM_THRESHOLD, _LARGEST[0]) == 1
    except (OSError, AttributeError):
        return False
