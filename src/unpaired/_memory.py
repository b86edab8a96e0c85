"""How the process of a command treats memory that it has freed. Imports no torch."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache


@cache
def keep_memory() -> bool:
    """Let this process keep what it has freed: every step needs the same blocks again. Whether that could be arranged.

    For the command line alone: a program that imports the package has an allocator of its own to decide about.

    The C library gives large blocks back to the system at once and takes them anew, and the system clears each page of
    them on
    first use: for tensors of tens of MiB on a CPU that is a sixth of the time. Only with glibc, and
    not where its own settings are in the environment (``GLIBC_TUNABLES``, ``MALLOC_…_``): those are somebody's choice.
    """
    if not sys.platform.startswith("linux") or any(
        k == "GLIBC_TUNABLES" or k.startswith("MALLOC_") for k in os.environ
    ):
        return False
    trim_threshold, mmap_max = -1, -4  # malloc.h
    try:
        library = ctypes.CDLL(None)
        glibc = hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")
    except OSError:
        return False
    return bool(glibc and library.mallopt(mmap_max, 0) and library.mallopt(trim_threshold, 2**31 - 1))
