"""What the C library does with memory that is given back to it."""

import ctypes
import platform

ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(2**62), "MALLOC_MMAP_MAX_": "0"}
"""Variables that have the effect of `keep_freed_memory` in a process that is started with them."""


def keep_freed_memory() -> None:
    """Let glibc keep memory for the next tensor instead of giving it back to the system.

    By default every tensor above 32 MiB is a mapping of its own, whose pages the system fills with zeros one by one at
    first use, at each step again: half of the time of 20,000 atoms. Without glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
    mallopt(-4, 0)  # M_MMAP_MAX
