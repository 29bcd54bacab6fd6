"""What the C library does with memory that is freed.

By default it gives large blocks back to the system at once, and the next array of that size costs the system's zeroing
of every page again; Dask's workers even ask for it (`MALLOC_TRIM_THRESHOLD_` of 64 KiB). Sections are made of such
arrays by the thousand, so this was more than half of the CPU time of a run (decision 0021).
"""

import ctypes
import functools
import sys

KEPT = 512 << 20
"""Bytes at the end of the heap that are kept though nothing uses them; what lies between used ones is kept as well."""
_LARGE = 256 << 20
"""Arrays from this size on come from the system and go back to it."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@functools.cache
def keep_freed_memory() -> None:
    """Have this process keep what it frees for its next arrays; does nothing where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_TRIM_THRESHOLD, KEPT)
