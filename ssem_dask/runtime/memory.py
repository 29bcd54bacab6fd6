"""Keep freed memory in the process instead of returning it to the system.

By default the C library returns large blocks at once, and the next array of that size costs the system's zeroing of
every page again; Dask's workers even request it (`MALLOC_TRIM_THRESHOLD_` of 64 KiB). Sections consist of thousands of
such arrays, so this was more than half of the CPU time of a run (decision 0021).
"""

import ctypes
import functools
import sys

PROCESS_BYTES = 420 << 20
"""Bytes that a worker's process holds before its first task, with all that it has imported."""
KEPT_BYTES = 512 << 20
"""Unused bytes at the end of the heap that are kept; unused bytes between used ones are always kept."""
_LARGE_BYTES = 256 << 20
"""Arrays of this size and larger come from the system and return to it."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@functools.cache
def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees; does nothing if the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
